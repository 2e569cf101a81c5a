"""Conversations: every one that is read is written or counted, and no held-out one resembles one that is trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_run import byte_tokenizer

from codeshell.data import instructions, tokens
from codeshell.data.conversations import Conversation, conversation, read
from codeshell.documents.token_shards import TokenCorpus
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Recipe, from_tree
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.chat import FILE, ChatTemplate
from codeshell.tokenizer.messages import Message

BYTES = byte_tokenizer()
WORDS = (
    *("add", "sum", "take", "list", "tree", "node", "file", "line", "word", "text", "loop"),
    *("call", "name", "type", "size", "part", "side", "path", "root", "edge"),
)


def plain() -> ChatTemplate:
    found = ChatTemplate.load("nowhere", BYTES, "plain")
    assert found is not None
    return found


def record(number: int, answers: int = 1) -> dict[str, Any]:
    """A conversation that resembles no other."""
    messages: list[dict[str, str]] = []
    for turn in range(answers):
        words = [WORDS[(number * 7 + turn * 3 + n * n * (number + 1)) % len(WORDS)] + str(number) for n in range(9)]
        messages += [
            {"role": "user", "content": f"Question {number}.{turn}: {' '.join(words)}?"},
            {"role": "assistant", "content": f"def f{number}_{turn}():\n    return {' + '.join(words)}\n"},
        ]
    return {"messages": messages}


def save(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write(files: list[str], output: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"max_tokens": 2000, "valid": 0.2, "seed": 0} | changes
    return instructions.write(files, output, BYTES, plain(), **options)


def corpus(output: Path, split: str) -> TokenCorpus:
    return TokenCorpus(sorted(output.glob(f"{split}-*.tokens")), BYTES.hash)


def shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.tokens"))}


def test_every_conversation_is_there_with_its_mask(tmp_path: Path) -> None:
    rows = [record(n, 1 + n % 3) for n in range(40)]
    statistics = write([save(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    expected = {}
    for row in rows:
        one = conversation(row, "here")
        expected[one.id] = plain().training_ids(one.messages, BYTES)
    seen: dict[str, Any] = {}
    for split in ("train", "valid"):
        found = corpus(tmp_path / "out", split)
        assert found.masked
        counts = statistics[split]
        assert (counts["documents"], counts["tokens"], counts["trained"]) == (
            len(found),
            found.n_tokens,
            found.n_trained,
        )
        for index in range(len(found)):
            trained = found.trained(index)
            assert trained is not None
            seen[found.document_id(index)] = (found.document(index).tolist(), trained.tolist())
    assert seen == expected
    assert 0 < statistics["valid"]["documents"] < 20
    assert statistics["read"] == 40 and not any(statistics["dropped"].values())
    assert statistics["train"]["answers"] + statistics["valid"]["answers"] == sum(1 + n % 3 for n in range(40))
    # The template and the statistics stand beside the shards.
    assert (tmp_path / "out" / FILE).read_text() == plain().text
    assert json.loads((tmp_path / "out" / "instructions.json").read_text()) == statistics
    assert instructions.notes(statistics) == []


def test_files_and_their_order_do_not_matter(tmp_path: Path) -> None:
    rows = [record(n) for n in range(30)]
    write([save(tmp_path / "a.jsonl", rows)], tmp_path / "one")
    parts = [save(tmp_path / f"{n}.jsonl", rows[n::3][::-1]) for n in (2, 0, 1)]
    write(parts, tmp_path / "three")
    assert shards(tmp_path / "one") == shards(tmp_path / "three")
    (tmp_path / "list.json").write_text(json.dumps(rows))
    write([str(tmp_path / "list.json")], tmp_path / "list")
    assert shards(tmp_path / "one") == shards(tmp_path / "list")
    write([save(tmp_path / "a.jsonl", rows)], tmp_path / "other", seed=1)
    assert shards(tmp_path / "one") != shards(tmp_path / "other")


def test_what_resembles_one_another_stays_on_one_side(tmp_path: Path) -> None:
    rows = []
    for n in range(30):
        first = record(n)["messages"]
        # A near duplicate: another first word. And the same question with another answer.
        near = [first[0] | {"content": first[0]["content"].replace("Question", "Task")}, first[1]]
        other = [
            first[0] | {"content": first[0]["content"].upper() + " "},
            {"role": "assistant", "content": f"No, {n}."},
        ]
        rows += [{"messages": messages} for messages in (first, near, other)]
    statistics = write([save(tmp_path / "a.jsonl", rows)], tmp_path / "out", valid=0.4)
    assert statistics["groups"] == 30
    numbers = {}
    for split in ("train", "valid"):
        found = corpus(tmp_path / "out", split)
        texts = [BYTES.decode(found.document(index).tolist()).lower() for index in range(len(found))]
        numbers[split] = [re.search(r"(?:question|task) (\d+)", text)[1] for text in texts]
    assert set(numbers["train"]) & set(numbers["valid"]) == set()
    assert len(numbers["train"]) + len(numbers["valid"]) == 90
    assert min(len(numbers["train"]), len(numbers["valid"])) >= 3


def test_both_sides_get_something_if_they_can(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", [record(n) for n in range(2)])
    for valid in (1e-9, 0.999999):
        statistics = write([path], tmp_path / "out", valid=valid)
        assert (statistics["train"]["documents"], statistics["valid"]["documents"]) == (1, 1)
    assert write([path], tmp_path / "out", valid=0.0)["train"]["documents"] == 2
    assert not list((tmp_path / "out").glob("valid-*"))
    one = save(tmp_path / "b.jsonl", [record(0)])
    assert write([one], tmp_path / "out", valid=0.9)["train"]["documents"] == 1


def test_long_conversations_are_cut_after_an_answer_and_counted(tmp_path: Path) -> None:
    rows = [record(n, answers=4) for n in range(10)]
    sizes = {
        number: [len(plain().training_ids(rows[number]["messages"][: 2 * k], BYTES)[0]) for k in (1, 2, 3, 4)]
        for number in range(10)
    }
    limit = sizes[0][1]
    statistics = write([save(tmp_path / "a.jsonl", rows)], tmp_path / "out", max_tokens=limit)
    fitting = [sum(size <= limit for size in sizes[number]) for number in range(10)]
    assert {0, 4}.isdisjoint(fitting)
    answers = statistics["train"]["answers"] + statistics["valid"]["answers"]
    assert answers == sum(fitting)
    assert statistics["cut"] == {"conversations": 10, "answers": 40 - sum(fitting), "questions": 0}
    assert max(statistics["train"]["longest"], statistics["valid"]["longest"]) <= limit
    assert instructions.notes(statistics) == [f"conversations: 10 cut to fit the context ({40 - answers} answers lost)"]
    # Without room for a first answer a conversation is left out, and counted; with none left, that is an error.
    long = record(99)
    long["messages"][0]["content"] += "x" * 5000
    path = save(tmp_path / "b.jsonl", [record(1), long])
    assert write([path], tmp_path / "out")["dropped"] == {"duplicate": 0, "too_long": 1, "missing_bytes": 0}
    with pytest.raises(
        UserError, match=r"none of 1 conversations is left .1 too_long.; raise the context .2,000 tokens"
    ):
        write([save(tmp_path / "c.jsonl", [long])], tmp_path / "out")


def test_short_answers_are_kept(tmp_path: Path) -> None:
    # The released trainer drops samples of up to 16 tokens in silence, and fails where none is left.
    path = save(tmp_path / "a.jsonl", [{"instruction": "1+1", "output": "2"}, {"instruction": "1+2", "output": "3"}])
    assert write([path], tmp_path / "out", valid=0.0)["train"]["documents"] == 2


def test_duplicates_and_questions_without_an_answer_are_counted(tmp_path: Path) -> None:
    open_end = record(1)
    open_end["messages"].append({"role": "user", "content": "And?"})
    rows = [
        record(0),
        record(0),
        record(1),
        open_end,
        {
            "conversations": [
                {"from": "human", "value": record(0)["messages"][0]["content"]},
                {"from": "gpt", "value": record(0)["messages"][1]["content"]},
            ]
        },
    ]
    statistics = write([save(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    assert (statistics["read"], statistics["dropped"]["duplicate"]) == (5, 3)
    assert statistics["cut"]["questions"] == 1
    assert "3 of 5 left out (duplicate); 1 questions without an answer cut off" in instructions.notes(statistics)[0]


def test_conversations_that_differ_in_what_was_cut_are_one(tmp_path: Path) -> None:
    first, second = record(0, 2), record(0, 2)
    second["messages"][3]["content"] += "x"
    limit = len(plain().training_ids(first["messages"][:2], BYTES)[0])
    statistics = write([save(tmp_path / "a.jsonl", [first, second])], tmp_path / "out", max_tokens=limit, valid=0.0)
    assert (statistics["train"]["documents"], statistics["dropped"]["duplicate"]) == (1, 1)


def test_bytes_that_a_tokenizer_lacks(tmp_path: Path) -> None:
    tree = json.loads(BYTES.source)
    del tree["model"]["vocab"]["~"]
    lacking = Tokenizer(json.dumps(tree))
    template = ChatTemplate.load("nowhere", lacking, "plain")
    assert template is not None
    odd = {"instruction": "What is ~?", "output": "home"}
    path = save(tmp_path / "a.jsonl", [odd, record(0)])
    statistics = instructions.write([path], tmp_path / "out", lacking, template, max_tokens=999, valid=0.0, seed=0)
    assert (statistics["train"]["documents"], statistics["dropped"]["missing_bytes"]) == (1, 1)


FORMS = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q\n\ni"},
            {"role": "assistant", "content": "a"},
        ]
    },
    {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "human", "value": "q\n\ni"},
            {"from": "gpt", "value": "a"},
        ],
        "id": 7,
    },
    {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "user", "value": "q\n\ni"},
            {"from": "assistant", "value": "a"},
        ]
    },
    {"system": "s", "instruction": "q", "input": "i", "output": "a"},
]


def test_the_forms_of_a_conversation() -> None:
    expected = (Message("system", "s"), Message("user", "q\n\ni"), Message("assistant", "a"))
    assert {conversation(form, "here").messages for form in FORMS} == {expected}
    short = conversation({"instruction": "q", "input": "", "output": "a"}, "here")
    assert short.messages == (Message("user", "q"), Message("assistant", "a"))


FAULTS: dict[str, tuple[str, str]] = {
    "no JSON": ("{oops", "not one JSON object; give an object on each line"),
    "a list": ("[1]", "not one JSON object"),
    "other keys": ('{"text": "x"}', "has 'text'; give messages, or conversations, or instruction and output"),
    "no keys": ("{}", "has nothing; give messages"),
    "no list": ('{"messages": "x"}', "messages: a string; give a list"),
    "no role": ('{"messages": [{"content": "x"}]}', "messages[0]: no role"),
    "other role": ('{"messages": [{"role": "tool", "content": "x"}]}', "messages[0]: the role 'tool'"),
    "no answer": ('{"messages": [{"role": "user", "content": "x"}]}', "no answer of the assistant"),
    "empty answer": ('{"instruction": "q", "output": " "}', "messages[1] is an empty answer"),
    "empty question": ('{"instruction": "", "input": " ", "output": "a"}', "instruction and input are empty"),
    "no text": ('{"instruction": 3, "output": "a"}', "instruction is no string"),
    "copilot": ('{"conversations": [{"from": "copilot", "value": "x"}]}', "from copilot"),
    "a stranger": ('{"conversations": [{"from": "cat", "value": "x"}]}', "from 'cat'; the names are human, user"),
    "no turns": ('{"conversations": {"from": "human"}}', "conversations is no list"),
    "no turn": ('{"conversations": ["x"]}', "conversations[0]: no object"),
    "no value": ('{"conversations": [{"from": "human"}]}', "messages[0].content: missing"),
    "nothing learned": (
        '{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}',
        "every answer has a weight of 0",
    ),
    "surrogate": ('{"instruction": "\\ud800", "output": "a"}', "half a character"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_its_file_and_line(case: str, tmp_path: Path) -> None:
    line, problem = FAULTS[case]
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"instruction": "q", "output": "a"}}\n\n{line}\n')
    good, bad = read(str(path))
    assert isinstance(good, Conversation) and good.place == f"{path}:1"
    assert isinstance(bad, UserError)
    assert str(bad).startswith(f"{path}:3: ") and problem in str(bad) and "\n" not in str(bad)


def test_every_fault_is_said_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(line + "\n" for line, _ in FAULTS.values()) + json.dumps(record(0)) + "\n")
    monkeypatch.setattr(instructions, "SHOWN_FAULTS", 5)
    with pytest.raises(UserError, match=rf"{len(FAULTS)} faulty conversations .the first 5 are named above.; fix"):
        write([str(path)], tmp_path / "out")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in said] == [f"{path}:{n}" for n in range(1, 6)]
    assert not list((tmp_path / "out").iterdir())
    # What the template refuses is a fault of its line, too.
    form = ChatTemplate.load("nowhere", BYTES, "codeshell")
    assert form is not None
    save(path, [record(0), FORMS[0]])
    with pytest.raises(UserError, match=r"1 faulty conversations .named above."):
        instructions.write([str(path)], tmp_path / "out", BYTES, form, max_tokens=999, valid=0.0, seed=0)
    assert f"{path}:2: codeshell: the chat template refuses these messages" in capsys.readouterr().err


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "broken.json").write_text('[{"instruction": ')
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\0ab")
    for name, problem in (
        ("absent.jsonl", "no such file"),
        ("", "a directory; give a file of conversations"),
        ("empty.jsonl", "no conversation; give a file with a JSON object on each line"),
        ("broken.json", "not JSON"),
        ("cut.jsonl.gz", "cut.jsonl.gz"),
    ):
        with pytest.raises(UserError, match=problem):
            list(read(str(tmp_path / name)))


def test_packed_files_are_read(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(record(3)).encode()))
    (one,) = read(str(tmp_path / "a.jsonl.gz"))
    assert isinstance(one, Conversation) and len(one.messages) == 2


def test_the_tokens_stage_adds_conversations_to_documents_or_takes_them_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jsonl", [record(n) for n in range(12)])
    BYTES.save(tmp_path / "run" / "tokenizer")
    BYTES.save(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    tree = {
        "finetune": {"base": str(tmp_path / "base"), "instructions": [path]},
        "split": {"valid": 0.3},
        "train": {"phases": [{"share": 1.0, "context": 2048}]},
    }
    recipe: Recipe = from_tree(tree, "test")
    statistics = tokens.run(recipe, tmp_path / "run", LocalEngine(1))
    spoken = statistics["conversations"]
    assert spoken["template"]["source"] == "plain"
    for split in ("train", "valid"):
        found = corpus(tmp_path / "run" / "tokens", split)
        assert (len(found), found.n_tokens) == (statistics[split]["documents"], statistics[split]["tokens"])
        assert statistics[split]["documents"] == spoken[split]["documents"] > 0
    assert tokens.notes(recipe, statistics, tmp_path / "run") == []
    assert np.all(corpus(tmp_path / "run" / "tokens", "train").token_counts > 0)
