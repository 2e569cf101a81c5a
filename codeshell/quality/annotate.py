"""Annotation: the sample, the questions, the answers and the labels that `codeshell quality train` reads.

An answer is asked for until it can be used, `tries` times at most; a document that never gets one is counted and
listed. Every answer is in the journal beside the labels before the next one is asked, so a run that was killed
continues where it was. Batch files of the OpenAI form are the second way to the same journal.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from codeshell.documents.inputs import InputOptions
from codeshell.documents.shards import write_table
from codeshell.engine.files import atomic_path
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.quality import prompts
from codeshell.quality.agreement import Agreement, compare
from codeshell.quality.client import Endpoint, RefusedError, StoppedError
from codeshell.quality.journal import Journal
from codeshell.quality.sample import Document, documents, stratified
from codeshell.randomness import draw

LABELS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "repo", "path", "language")),
        ("text", pa.large_string()),
        *((name, pa.float64()) for name in prompts.SCORES),
        ("why", pa.string()),
        ("annotations", pa.int64()),
    ]
)
"""`correctness` to `score`: 0 to 5, the mean over `annotations` answers. `why`: the reason of the first of them."""

REFUSALS = 5
"""So many refused requests before the first answer end the run: the model or the settings are wrong, not the files."""


@dataclass(frozen=True)
class Job:
    """What to annotate, and how.

    Attributes:
        inputs, options, by: see `sample.documents`.
        sample: documents to annotate.
        repeat: share of the documents that are annotated twice, chosen by hash.
        tries: answers that are asked for until one can be used.
        settings: further members of a request's body; None takes a member out.
    """

    inputs: tuple[str, ...]
    output: Path
    model: str
    options: InputOptions = field(default_factory=InputOptions)
    by: str | None = None
    sample: int = 1000
    repeat: float = 0.0
    seed: int = 0
    budget: int = prompts.BUDGET
    tries: int = 3
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.output.with_name(self.output.name + ".journal")


class Task(NamedTuple):
    """One reading of one document."""

    document: Document
    reading: int
    """0, or 1 for the second one."""
    key: str
    """Its name in the journal and in batch files."""


class Outcome(NamedTuple):
    """What came of a run."""

    documents: int
    """Documents of the sample."""
    labelled: int
    asked: int
    """Answers that this run got."""
    failed: dict[str, str]
    """Id to reason of the documents that are given up."""
    open: int
    """Readings that have no answer yet, with tries left."""
    agreement: dict[str, Agreement]
    """Each name of `prompts.SCORES`; empty where nothing was annotated twice."""
    left_out: dict[str, int]
    """Documents of the inputs that have no text, by reason."""
    unknown: int = 0
    """Answers of a batch that belong to no document of the sample."""


class State:
    """The sample and the journal of a job; a context manager."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.left_out: Counter[str] = Counter()
        self.sample = _sample(job, self.left_out)
        if not self.sample:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items()) or "nothing is there"
            raise UserError(f"inputs: no document with a text ({reasons}); name folders or files of code")
        self.tasks = [task for document in self.sample for task in _readings(job, document)]
        self._by_key = {task.key: task for task in self.tasks}
        self.asked = self.unknown = 0
        # By key: the usable answer of a reading, and the reasons of the answers before it.
        self._answers: dict[str, prompts.Answer] = {}
        self._bad: dict[str, list[str]] = {}
        self._journal = Journal(
            job.journal,
            {"model": job.model, "prompt": prompts.fingerprint(job.budget), "settings": job.settings},
        )
        for entry in self._journal.entries:
            self._take(entry)

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.__exit__(None, None, None)

    def open(self) -> list[Task]:
        """The readings without an answer that have tries left."""
        return [task for task in self.tasks if self.is_open(task)]

    def is_open(self, task: Task) -> bool:
        """Whether a reading has no answer yet, and tries left."""
        return task.key not in self._answers and len(self._bad.get(task.key, ())) < self.job.tries

    def record(self, task: Task, body: Any, refused: str = "") -> bool:
        """Check an answer and write it to the journal; whether it can be used."""
        try:
            if refused:
                raise prompts.BadAnswerError(refused)
            answer = prompts.parse_completion(body)
            entry = {"key": task.key, "id": task.document.id, "answer": {**answer.scores, "why": answer.why}}
        except prompts.BadAnswerError as error:
            entry = {"key": task.key, "id": task.document.id, "bad": str(error)}
        if isinstance(body, dict) and isinstance(body.get("usage"), dict):
            entry["usage"] = {name: n for name, n in body["usage"].items() if isinstance(n, int)}
        self._journal.append(entry)
        self._take(entry)
        self.asked += 1
        return "answer" in entry

    def _take(self, entry: dict[str, Any]) -> None:
        if "answer" in entry:
            scores = {name: int(entry["answer"][name]) for name in prompts.SCORES}
            self._answers.setdefault(entry["key"], prompts.Answer(scores, entry["answer"]["why"]))
        else:
            self._bad.setdefault(entry["key"], []).append(entry.get("bad", ""))

    def read_answers(self, path: Path) -> None:
        """Take the answers of a batch into the journal; those of readings that have one already change nothing.

        Raises:
            UserError: no such file, or a line that is not an answer of a batch.
        """
        done = self._answers.keys() | {key for key, bad in self._bad.items() if len(bad) >= self.job.tries}
        for entry in _batch_answers(path):
            task = self._by_key.get(entry["custom_id"])
            if task is None:
                self.unknown += 1
            elif task.key not in done:
                done |= {task.key}
                response = entry.get("response") or {}
                code = response.get("status_code")
                refused = "" if code == 200 else f"status {code}: {_short(entry.get('error') or response.get('body'))}"
                self.record(task, response.get("body"), refused)

    def outcome(self) -> Outcome:
        """Write the labels, and say what came of the run so far."""
        rows, failed = [], {}
        pairs: list[tuple[prompts.Answer, prompts.Answer]] = []
        open_keys = {task.key for task in self.open()}
        for document in self.sample:
            tasks = _readings(self.job, document)
            answers = [self._answers[task.key] for task in tasks if task.key in self._answers]
            if len(answers) == 2:
                pairs.append((answers[0], answers[1]))
            if answers:
                rows.append(_row(document, answers))
            elif not any(task.key in open_keys for task in tasks):
                failed[document.id] = self._bad[tasks[0].key][-1]
        write_labels(self.job.output, rows)
        agreement = {}
        for name in prompts.SCORES if pairs else ():
            agreement[name] = compare(*zip(*((a.scores[name], b.scores[name]) for a, b in pairs), strict=True))
        return Outcome(
            len(self.sample),
            len(rows),
            self.asked,
            failed,
            len(open_keys),
            agreement,
            dict(self.left_out),
            self.unknown,
        )


def ask(state: State, endpoint: Endpoint, concurrency: int) -> None:
    """Ask the endpoint for every open reading, `concurrency` at a time, and record the answers.

    Raises:
        UserError: the endpoint cannot be used, or refuses everything. What was answered before is in the journal.
    """
    todo: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Task, Any]] = queue.SimpleQueue()

    def work() -> None:
        while (task := todo.get()) is not None:
            try:
                done.put((task, endpoint.complete(request_body(state.job, task.document))))
            except StoppedError:
                return
            except BaseException as error:
                done.put((task, error))

    # At most two tasks per thread are out, so that a run with an early end asks no more.
    waiting = state.open()
    waiting.reverse()
    outstanding = 0
    # Daemon threads: a thread that waits for an endpoint does not hold up the end of the process.
    for _ in range(concurrency):
        threading.Thread(target=work, daemon=True).start()
    answered = refusals = 0
    try:
        with Progress("annotate", total=len(waiting), unit="answers") as progress:
            while waiting or outstanding:
                while waiting and outstanding < 2 * concurrency:
                    todo.put(waiting.pop())
                    outstanding += 1
                task, result = done.get()
                outstanding -= 1
                if isinstance(result, RefusedError):
                    refusals += 1
                    state.record(task, None, str(result))
                    if refusals >= REFUSALS and not answered:
                        raise UserError(
                            f"--endpoint {endpoint.url}: refuses every request ({result}); check --model and --set"
                        )
                elif isinstance(result, BaseException):
                    raise result
                else:
                    answered += 1
                    if state.record(task, result):
                        progress.advance(1)
                        continue
                # A file that was refused or badly answered is asked again at the end, while it has tries left.
                if state.is_open(task):
                    waiting.insert(0, task)
                else:
                    progress.advance(1)
    finally:
        endpoint.stop.set()
        for _ in range(concurrency):
            todo.put(None)


def write_batch(state: State, path: Path) -> int:
    """Write the open readings as a batch file of the OpenAI form; returns how many there are."""
    tasks = state.open()
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for task in tasks:
            line = {
                "custom_id": task.key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": request_body(state.job, task.document),
            }
            file.write(json.dumps(line) + "\n")
    return len(tasks)


def request_body(job: Job, document: Document) -> dict[str, Any]:
    """The body of the request for one document."""
    body = {
        "model": job.model,
        "messages": prompts.messages(document.text, document.language, document.path, job.budget),
        "max_tokens": 512,
        **job.settings,
    }
    return {name: value for name, value in body.items() if value is not None}


def write_labels(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write labels as Parquet or, where the name ends so, as JSON Lines; whole or not at all."""
    table = pa.Table.from_pylist(rows, schema=LABELS)
    if path.suffix == ".jsonl":
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    else:
        write_table(path, table)


def _sample(job: Job, left_out: Counter[str]) -> list[Document]:
    """The documents of the sample, by id. The inputs are read twice: to choose, and for the texts."""

    def read(counts: Counter[str]) -> Iterator[Document]:
        return documents(job.inputs, job.options, job.by, counts)

    items = ((one.id, one.language, one.by) for one in read(left_out))
    chosen = stratified(items, job.sample, job.seed)
    found: dict[str, Document] = {}
    for document in read(Counter()):
        if document.id in chosen:
            found.setdefault(document.id, document)
    return [found[identity] for identity in sorted(found)]


def _readings(job: Job, document: Document) -> list[Task]:
    """The one or two readings of a document."""
    # The second one is decided by a hash against the share, so a larger share holds the smaller one.
    twice = draw(job.seed, document.id, "repeat") < job.repeat * 2.0**64
    # The text is in the key: the same id with another text is another question.
    digest = hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    name = hashlib.sha256(document.id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return [Task(document, reading, f"{name}-{digest}-{reading}") for reading in range(1 + twice)]


def _row(document: Document, answers: Sequence[prompts.Answer]) -> dict[str, Any]:
    means = {name: sum(answer.scores[name] for answer in answers) / len(answers) for name in prompts.SCORES}
    facts = {name: getattr(document, name) for name in ("id", "repo", "path", "language", "text")}
    return {**facts, **means, "why": answers[0].why, "annotations": len(answers)}


def _batch_answers(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below; only the opening is translated)
    except OSError as error:
        raise UserError(f"--answers {path}: {error.strerror}; name the file of answers that the batch gave") from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if not isinstance(entry["custom_id"], str) or not isinstance(entry.get("response") or {}, dict):
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(
                    f"--answers {path}: line {number} is no answer of a batch (custom_id, response); fetch it again"
                ) from None
            yield entry


def _short(value: Any) -> str:
    return " ".join(json.dumps(value).split())[:120]
