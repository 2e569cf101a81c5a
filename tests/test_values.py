"""The values of a recipe: finite, in range, and any path there and back; each other one is one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from codeshell import recipe
from codeshell.engine.files import read_json, write_json
from codeshell.errors import UserError
from codeshell.recipe import Recipe, flatten, to_tree
from codeshell.values import from_plain, to_plain

ODD = (
    *("nan", "inf", "-inf", "-1", "0", "-0.0", "0.5", "1.0", "9007199254740992", "9223372036854775808"),
    *("1180591620717411303424", "1e308", "9" * 5000, "true", '""', "[]", "{}", "1979-05-27", '"a\\u0000b"', "[" * 9000),
)
PATHS = ["plain", "🚀 app", "caf\udce9", "a\nb", 'it\'s "quoted"', "\udcff\udcfe", "tab\t#", "~user", "c:\\x", "\x01"]


@pytest.mark.parametrize("key", flatten(to_tree(Recipe())))
def test_every_key_takes_a_value_or_refuses_it_in_one_line(key: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("")
    for value in ODD:
        try:
            settings = recipe.load(path, [f"{key}={value}"])
        except UserError as error:
            assert "\n" not in str(error)
            continue
        # What is accepted comes back the same from the run's directory.
        copy = tmp_path / "copy.toml"
        copy.write_text(recipe.to_toml(settings), encoding="utf-8")
        assert recipe.load(copy) == settings, (key, value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("train.beta1=1.0", "train.beta1: expected float < 1.0"),
        ("train.lr=inf", "train.lr: inf is not a finite number"),
        ("train.weight_decay=nan", "train.weight_decay: nan is not a finite number"),
        ("rules.overrides.python.max_line_length=inf", "rules.overrides.python.max_line_length: inf is not"),
        ('score.settings."my.py:S".weight=[1.0, nan]', "score.settings.my.py:S.weight[1]: nan is not a finite number"),
        ("score.settings.x.day=1979-05-27", "is a date; give a number"),
        ("seed=9223372036854775808", "seed: a whole number of more than 64 bits"),
        ("model.n_head=3", "model.n_embd 4096 does not give each of the 3 heads"),
        ("model.num_query_groups=3", "model.n_head 32 is not a multiple of num_query_groups 3"),
        ("split={valid=0.5,test=0.5}", "valid 0.5 and test 0.5 leave nothing to train on"),
        ('collect.inputs=[""]', 'collect.inputs: "" names nothing'),
        ("train.phases.0.share=1", "phases"),
        ('score.settings."a=1', "quote a name as TOML does"),
        ("caf\udce9=1", "is not UTF-8"),
    ],
)
def test_values_out_of_range_are_named(override: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[train]\nphases = [{share = 1.0, context = 64}]\n")
    with pytest.raises(UserError) as caught:
        recipe.load(path, [override])
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", PATHS)
def test_any_path_survives_the_recipe_and_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("")
    settings = recipe.load(path, values={"collect.inputs": [name, "other"]})
    assert settings.collect.inputs == (name, "other")
    path.write_text(recipe.to_toml(settings), encoding="utf-8")
    assert recipe.load(path) == settings
    write_json(tmp_path / "x.json", {"path": name})
    assert read_json(tmp_path / "x.json") == {"path": name}
    assert from_plain(to_plain([{name: name}])) == [{name: name}]


def test_a_second_line_of_an_override_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("")
    assert recipe.load(path, ["name=1\nseed = 5"]).name == "1\nseed = 5"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\xff\xfes\x00", "byte 0"),
        (b"seed = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"PAR1\x80junkPAR1", "not UTF-8"),
        (b"[collect]\ninputs = [1]", r"collect.inputs[0]: expected str"),
        (b'name = "a\\u0000b"', "holds a NUL"),
    ],
)
def test_files_that_are_no_recipe_are_one_line(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        recipe.load(path)
    assert complaint in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(UserError, match="cannot be read"):
        recipe.load(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert recipe.load(path).seed == 3
    assert os.fsencode("caf\udce9") == b"caf\xe9"
