"""The page as text: self-contained, escaped, complete, the same every time, and tolerant of what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import lxml.html
import pytest
from helpers.synthetic_run import HOSTILE, build

import codeshell.report
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.report.run_page import render, write

SECTIONS = ("funnel", "languages", "duplicates", "corpus", "training", "evaluation", "samples", "environment")


class Collector(HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.raw = ""

    def handle_data(self, data: str) -> None:
        if not self.raw:
            self.text.append(data)


def text_of(page: str, section: str) -> str:
    text = lxml.html.fromstring(page).get_element_by_id(section).text_content()
    return re.sub(r"\s+", " ", text)


def test_refers_to_nothing_outside(page: str) -> None:
    parsed = Collector(page)
    loading = ("src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "xlink:href", "style")
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            assert name not in loading, (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name == "href":
                assert value is not None
                assert value.startswith("#") or value == "data:,", (tag, value)
    tags = [tag for tag, _ in parsed.elements]
    assert not {"img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"} & set(tags)
    assert tags.count("script") == 2 and tags.count("style") == 1 and tags.count("link") == 1
    css = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in css and "@import" not in css


def test_policy_allows_our_style_and_script_alone(page: str) -> None:
    metas = [attributes for tag, attributes in Collector(page).elements if tag == "meta"]
    policy = next(meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, opening in (("style", "<style>"), ("script", "<script>")):
        text = page[page.index(opening) + len(opening) :].split(f"</{tag}>", 1)[0]
        pin = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{pin}'"


def test_hostile_text_is_shown_and_dead(page: str) -> None:
    parsed = Collector(page)
    shown = HOSTILE.replace("\u202e", "[U+202E]")
    texts = "\n".join(parsed.text)
    # As a path, a repository, a language, a line of a diff, an answer of the model.
    assert texts.count(shown) >= 12
    assert "\u202e" not in page and "\x00" not in page and "[U+D800]" in page and "[U+0000]" in page
    assert "<img" not in page and "<script>alert" not in page
    data = json.loads(re.search(r'id="chart-data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    assert set(data) == {"loss", "lr", "speed", "norm", "positions-0"}


def test_hostile_text_in_every_json_file(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)

    def spoil(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: spoil(value) for key, value in node.items()} | {HOSTILE: HOSTILE}
        if isinstance(node, list):
            return [spoil(item) for item in node]
        return HOSTILE if isinstance(node, str) else node

    for path in [directory / "run.json", *directory.glob("*/stats.json"), *(directory / "evaluate").glob("*.json")]:
        path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    log = directory / "train" / "log.jsonl"
    lines = [json.dumps(spoil(json.loads(line)) | {"kind": "train"}) for line in log.read_text().splitlines()[:-1]]
    log.write_text("\n".join(lines))
    page = render(directory)
    assert "<script>alert" not in page and "<img" not in page
    assert [tag for tag, _ in Collector(page).elements].count("script") == 2


def test_every_section_has_its_numbers(page: str) -> None:
    tree = lxml.html.fromstring(page)
    assert [one.get("id") for one in tree.xpath("//main/section")] == list(SECTIONS)
    assert "not run" not in text_of(page, "funnel").lower()
    header = re.sub(r"\s+", " ", tree.xpath("//body/header")[0].text_content())
    for figure in (
        "7,064 documents",
        "88.4 MB",
        "68.2 MB",
        "2.07 bits per byte",
        "7.0 %",
        "n = 200",
        "7 min 57 s",
        "4.26 M",
    ):
        assert figure in header, figure
    funnel = text_of(page, "funnel")
    for part in (
        "max line length",
        "143",
        "measured 2,106, limit 1,000",
        "same text as",
        "Jaccard 0.",
        "near duplicate of train",
    ):
        assert part in funnel, part
    languages = text_of(page, "languages")
    assert (
        "Languages in the corpus: 10 of 30." in languages
        and "20 of which were dropped whole" in languages
        and "52.31" in languages
    )
    # 64.8, 1.38 and 1.99 MB at 3.05 bytes per token: the estimates add up to the exact total.
    total = lxml.html.fromstring(page).get_element_by_id("languages").xpath(".//tfoot//td[7]")[0].text_content()
    assert total == "22.4 M"
    duplicates = text_of(page, "duplicates")
    for part in ("5,210", "3,977", "371", "All clusters", "9 dropped", "median 0.", "equal lines", "Held-out files"):
        assert part in duplicates, part
    corpus = text_of(page, "corpus")
    assert "0.970" in corpus and "3.1 %" in corpus and "4,116" in corpus
    training = text_of(page, "training")
    assert (
        "4,263,168" in training
        and "skipped updates" in training
        and "context 1,024" in training
        and "1.973" in training
    )
    evaluation = text_of(page, "evaluation")
    for part in (
        "order-3 byte model",
        "\u22121.210",
        "(not significant)",
        "61 of 100",
        "beyond the old context",
        "deep",
        "0.125",
        "fewer than 10 files are long enough",
        "The model needs 1.21 bits per byte less",
    ):
        assert part in evaluation, part
    assert "if not chosen:" in text_of(page, "samples")
    environment = text_of(page, "environment")
    assert "avx512" in environment and "5 min 31 s" in environment and "vocab_size = 70000" in environment


def test_tables_have_headers_and_drawings_have_texts(page: str) -> None:
    tree = lxml.html.fromstring(page)
    for table in tree.xpath("//table[not(contains(@class, 'mini'))]"):
        assert table.xpath("./thead//th"), lxml.html.tostring(table)[:200]
    for head in tree.xpath("//th"):
        assert head.get("scope") in ("col", "row", "colgroup")
    plots = tree.xpath("//svg[@role='img']")
    assert len(plots) == 10
    for plot in plots:
        texts = [tree.get_element_by_id(identity).text_content() for identity in plot.get("aria-labelledby").split()]
        assert len(texts) == 2 and all(texts)
    for drawing in tree.xpath("//svg[not(@role)]"):
        assert drawing.get("aria-hidden") == "true"
    identities = tree.xpath("//@id")
    assert len(identities) == len(set(identities))


def test_same_files_same_page_within_the_size(run: Path, page: str) -> None:
    assert render(run) == page.rstrip("\n") + "\n"
    assert len(page.encode()) < 2_000_000


def test_run_is_the_stage(run: Path, tmp_path: Path, page: str) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    (directory / "report.html").unlink()
    assert codeshell.report.run(Recipe(), directory, LocalEngine(1)) == {}
    assert (directory / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    "gone", ["collect", "filter", "neardup", "curated", "tokenizer", "tokens", "train", "evaluate"]
)
def test_a_stage_that_is_missing(run: Path, tmp_path: Path, gone: str) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    shutil.rmtree(directory / gone)
    page = render(directory)
    section = {
        "collect": "languages",
        "filter": "funnel",
        "neardup": "duplicates",
        "curated": "corpus",
        "tokenizer": "corpus",
        "tokens": "",
        "train": "training",
        "evaluate": "evaluation",
    }[gone]
    if section:
        assert "not run" in text_of(page, section)
    assert [one.get("id") for one in lxml.html.fromstring(page).xpath("//main/section")] == list(SECTIONS)


def test_a_run_that_has_only_begun(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "run.json", tmp_path)
    page = render(tmp_path)
    assert page.count("not run") >= 6
    assert "There is no timings.json" in page and "There is no recipe.toml" in page


def test_training_that_is_still_going(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    (directory / "train" / "stats.json").unlink()
    section = text_of(render(directory), "training")
    assert "the log ends at step 400" in section


def test_parts_of_the_evaluation_that_did_not_run(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    path = directory / "evaluate" / "stats.json"
    stats = json.loads(path.read_text())
    stats |= dict.fromkeys(("bits_per_byte", "infill", "functions", "positions"))
    stats["not_run"] = {"infill": "no held-out files"}
    path.write_text(json.dumps(stats))
    (directory / "evaluate" / "positions.json").write_text("null")
    page = render(directory)
    assert "Not run: no held-out files" in text_of(page, "evaluation")
    assert "2.082" in page and "nats per token" in page


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is here"):
        render(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["collect/stats.json", "evaluate/samples.json", "neardup/dropped-00000.parquet", "collect/documents-00000.parquet"],
)
def test_a_damaged_file_is_named(run: Path, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    (directory / name).write_bytes(b"{\xff damaged")
    with pytest.raises(UserError, match=re.escape(name.split("/")[1])):
        write(directory, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_names_and_lines_of_any_length_stay_small(tmp_path: Path) -> None:
    page = render(build(tmp_path / "run", hostile="x" * 100_000))
    assert len(page.encode()) < 1_000_000
    assert not re.search("x{4000}", page)
