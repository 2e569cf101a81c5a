"""The parts of an evaluation that need one model and held-out documents: compression, infilling, functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codeshell.engine.progress import Progress
from codeshell.evaluate import scoring
from codeshell.evaluate.byte_model import ByteModel
from codeshell.evaluate.corpus import Corpus, Document
from codeshell.evaluate.generation import generate
from codeshell.evaluate.intervals import DIGITS
from codeshell.evaluate.tasks import compression, functions, infill
from codeshell.randomness import draw
from codeshell.recipe import Evaluate

BASELINE_BYTES = 16_777_216
"""Training text that the byte model and the most common lines are counted on, chosen by hash; of the order of what a
small run trains on, and an order-3 model gains little from more."""

TASK_BYTES = 16_777_216
"""Held-out text among which infilling tasks are chosen."""

PYTHON_BYTES = 4_194_304
"""Held-out Python that is searched for functions (about 2 s of parsing)."""

UNTRAINED_PARAMETERS = 2_000_000_000
"""No untrained twin of a larger model is made: its answer is known (nothing parses) and it would double the memory."""

SAMPLES = 20
"""Tasks of each kind that are kept with their text, for the report."""


class NotRunError(Exception):
    """A part cannot run on what is there; the message is the reason."""


class Evaluation:
    """One model against held-out documents.

    Args:
        model: a `CodeShellForCausalLM` in evaluation mode, on its device.
        tokenizer: its `codeshell.tokenizer.Tokenizer`.
        held_out: what it has not been trained on.
        train: what it was trained on, for the baselines; None leaves these out.
        settings: sample sizes.
        seed: of every choice and of the sampling.
        context: tokens that it was trained on at once.
        start: what stood before a document in training (`scoring`).
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        held_out: Corpus,
        train: Corpus | None,
        settings: Evaluate,
        *,
        seed: int,
        context: int,
        start: scoring.Start,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.held_out, self.train = held_out, train
        self.settings, self.seed, self.context, self.start = settings, seed, context, start
        self.before_text = [tokenizer.eot] if start == "eot" else []
        self.stop_ids = frozenset(tokenizer.specials.values())

    @cached_property
    def training_sample(self) -> list[Document]:
        return [] if self.train is None else self.train.choose(self.seed, "baseline", max_bytes=BASELINE_BYTES)

    @cached_property
    def byte_model(self) -> ByteModel | None:
        return ByteModel(document.data for document in self.training_sample) if self.training_sample else None

    def measure_compression(self) -> dict[str, Any]:
        """The `bits_per_byte` part (see the package's text)."""
        chosen = self.held_out.choose(self.seed, "bits per byte", max_bytes=self.settings.max_bytes)
        ids = self.tokenizer.encode_batch([document.text for document in chosen])
        # Tokens that do not give the file back have not coded it.
        exact = [
            self.tokenizer.decode_bytes(tokens) == document.data for document, tokens in zip(chosen, ids, strict=True)
        ]
        documents = [document for document, whole in zip(chosen, exact, strict=True) if whole]
        ids = [tokens for tokens, whole in zip(ids, exact, strict=True) if whole]
        if not documents:
            raise NotRunError("no held-out file that fits max_bytes and survives the tokenizer")
        stride = max(1, self.context * 3 // 4)
        nats = []
        with Progress("evaluate: bits per byte", total=len(ids), unit="files") as progress:
            for part in _parts(ids):
                nats += scoring.score(
                    self.model, part, eot=self.tokenizer.eot, window=self.context, stride=stride, start=self.start
                )
                progress.advance(len(part))
        systems = {"model": [float(values[:-1].sum()) / math.log(2) for values in nats]}
        if self.byte_model is not None:
            systems["byte_model"] = [self.byte_model.bits(document.data) for document in documents]
        result = compression.compare(documents, systems, seed=self.seed)
        ends = sum(float(values[-1]) for values in nats) / math.log(2)
        return result | {
            "tokens": sum(map(len, ids)),
            "window": self.context,
            "stride": stride,
            "start": self.start,
            "not_roundtrip": len(chosen) - len(documents),
            "end_of_text_bits_per_byte": round(ends / result["bytes"], DIGITS),
            "byte_model_trained_on_bytes": self.byte_model.trained_on_bytes if self.byte_model else None,
        }

    def measure_infill(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The `infill` part and its samples."""
        limit = min(infill.MAX_NEW_TOKENS, self.context // 4)
        if limit < 4:
            raise NotRunError(f"a context of {self.context} tokens holds no infilling prompt and answer")
        documents = self.held_out.choose(self.seed, "infill", max_bytes=TASK_BYTES, excluded=infill.NOT_CODE)
        tasks = infill.make_tasks(documents, seed=self.seed, count=self.settings.infill_lines)
        if not self.settings.infill_lines:
            raise NotRunError("evaluate.infill_lines is 0")
        if not tasks:
            raise NotRunError("no held-out line of code (by the column language)")
        prompts = [
            infill.prompt(task, self.tokenizer, context=self.context, max_new_tokens=limit, start=self.before_text)
            for task in tasks
        ]
        answers = self._continue(prompts, limit, temperature=0.0, purpose="infill", enough=infill.decided)
        texts = [self.tokenizer.decode(ids) for ids in answers]
        common = infill.CommonLines(self.training_sample) if self.training_sample else None
        result = infill.summarise(tasks, texts, common)
        result["protocol"] = (
            f"PSM, greedy, at most {limit} new tokens, no cut at the newline, equal after strip(); lines of at most "
            f"{infill.MAX_LINE} characters; trivial: at most one word"
        )
        samples = [
            {
                "id": task.document.id,
                "path": task.document.path,
                "language": task.document.language,
                "line": task.number + 1,
                "before": task.before[-400:],
                "target": task.line,
                "after": task.after[:200],
                "answer": text,
                "exact_match": infill.exact(text, task.line),
                "trivial": infill.trivial(task.line),
            }
            for task, text in list(zip(tasks, texts, strict=True))[:SAMPLES]
        ]
        return result, samples

    def measure_functions(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The `functions` part and its samples."""
        if not self.settings.functions:
            raise NotRunError("evaluate.functions is 0")
        limit = min(self.settings.max_new_tokens, max(1, self.context // 2))
        room = self.context - limit - len(self.before_text)
        documents = self.held_out.choose(
            self.seed, "functions", max_bytes=PYTHON_BYTES, languages=frozenset(["python"])
        )
        found = functions.find_headers(
            documents,
            seed=self.seed,
            count=self.settings.functions,
            fits=lambda header: len(self.tokenizer.encode(header)) <= room,
        )
        if not found:
            raise NotRunError("no held-out Python function (by the column language)")
        ids = self.tokenizer.encode_batch([header.text for header in found])
        prompts = [self.before_text + tokens for tokens in ids]
        systems = {"model": self._bodies(self.model, prompts, limit)}
        if sum(parameter.numel() for parameter in self.model.parameters()) <= UNTRAINED_PARAMETERS:
            systems["untrained"] = self._bodies(untrained(self.model, self.seed), prompts, limit)
        if self.byte_model is not None:
            size = sum(len(header.text.encode("utf-8")) for header in found) / sum(map(len, ids))
            written = self.byte_model.sample(
                [header.text.encode("utf-8") for header in found],
                max(1, round(limit * size)),
                temperature=functions.TEMPERATURE,
                key=draw(self.seed, "functions", "byte model"),
            )
            systems["byte_model"] = [
                functions.cut_at_dedent(data.decode("utf-8", "replace"), ended=False) for data in written
            ]
        judged = {name: (bodies, functions.judge(found, bodies)) for name, bodies in systems.items()}
        result = functions.summarise(found, judged)
        result["protocol"] = (
            f"temperature {functions.TEMPERATURE}, top-p {functions.TOP_P} (the byte model: temperature alone), one "
            f"sample a header, at most {limit} new tokens, cut at the dedent, parsed by the ast module, not executed"
        )
        bodies, verdicts = judged["model"]
        samples = [
            {
                "id": header.document.id,
                "path": header.document.path,
                "line": header.line,
                "header": header.text,
                "body": bodies[at].text,
                "verdict": verdicts[at],
                "finished": bodies[at].finished,
                "untrained": systems["untrained"][at].text if "untrained" in systems else None,
                "byte_model": systems["byte_model"][at].text if "byte_model" in systems else None,
            }
            for at, header in enumerate(found[:SAMPLES])
        ]
        return result, samples

    def _bodies(self, model: Any, prompts: list[list[int]], limit: int) -> list[functions.Body]:
        written = self._continue(
            prompts,
            limit,
            temperature=functions.TEMPERATURE,
            top_p=functions.TOP_P,
            purpose="functions",
            enough=functions.dedented,
            model=model,
        )
        return [functions.cut_at_dedent(self.tokenizer.decode(ids), ended=len(ids) < limit) for ids in written]

    def _continue(
        self,
        prompts: list[list[int]],
        limit: int,
        *,
        temperature: float,
        purpose: str,
        enough: Callable[[str], bool],
        top_p: float = 1.0,
        model: Any = None,
    ) -> list[list[int]]:
        return generate(
            self.model if model is None else model,
            prompts,
            max_new_tokens=limit,
            stop_ids=self.stop_ids,
            pad=self.tokenizer.eot,
            vocabulary=min(self.tokenizer.vocab_size, int(self.model.config.vocab_size)),
            temperature=temperature,
            top_p=top_p,
            seed=self.seed,
            purpose=purpose,
            stop=lambda tokens: enough(self.tokenizer.decode(tokens)),
        )


def untrained(model: Any, seed: int) -> Any:
    """A model of the same shape with fresh random weights, a function of the seed; the global generator is kept."""
    parameter = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(seed, "untrained") >> 1)
        twin = type(model)(model.config)
    return twin.to(device=parameter.device, dtype=parameter.dtype).eval()


def load_model(directory: Path) -> Any:
    """The model of a directory, ready to evaluate: fp32 on the CPU, as it was saved on a GPU."""
    from codeshell.model import CodeShellForCausalLM

    cuda = torch.cuda.is_available()
    model = CodeShellForCausalLM.from_pretrained(directory, dtype=None if cuda else torch.float32)
    return model.to("cuda" if cuda else "cpu").eval()


def head_tokens(
    held_out: Corpus, tokenizer: Any, *, seed: int, count: int, length: int, start: scoring.Start
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The first tokens of long held-out files, one sequence a file.

    Args:
        count: files at most, in the order of hash(seed, id, "positions").
        length: tokens of a sequence; shorter files are passed over.

    Returns:
        int64 (files, length).
    """
    rows: list[list[int]] = []
    before = [tokenizer.eot] if start == "eot" else []
    documents = held_out.choose(seed, "positions", max_bytes=2 * TASK_BYTES)
    for document in documents:
        if len(rows) == count:
            break
        if len(document.data) >= length - len(before):
            ids = before + tokenizer.encode(document.text[: length * infill.PROMPT_CHARACTERS])
            if len(ids) >= length:
                rows.append(ids[:length])
    return np.array(rows, dtype=np.int64).reshape(len(rows), length)


def _parts(items: list[Any], size: int = 64) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
