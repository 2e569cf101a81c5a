"""Fixtures of the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.ranks import Ranks
from helpers.tiny_run import MemoryCorpus, byte_tokenizer, texts, tiny_recipe, write_run

from codeshell.tokenizer import Tokenizer
from codeshell.train import run


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def memory_corpus(tokenizer):
    """`memory_corpus(texts, ids=None)` makes a corpus in memory."""
    return lambda texts, ids=None: MemoryCorpus(tokenizer, texts, ids)


@pytest.fixture
def tiny(tmp_path, tokenizer):
    """`tiny(**train)` makes (recipe, directory): 24 steps in two phases with FIM, accumulation and dropout."""

    def make(directory: Path = tmp_path / "run", seed: int = 0, dropout: float = 0.1, **train: object):
        if not directory.exists():
            write_run(directory, tokenizer, texts(60), texts(12, "v"))
        return tiny_recipe(seed=seed, dropout=dropout, **train), directory

    return make


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, tokenizer):
    """Directory and statistics of the run of `tiny()` in one go; tests only read it."""
    directory = tmp_path_factory.mktemp("unbroken") / "run"
    write_run(directory, tokenizer, texts(60), texts(12, "v"))
    return directory, run(tiny_recipe(), directory, None)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """`ranks.run(count, what)` starts several ranks at once; torch is imported once for all tests of this process."""
    with Ranks(tmp_path_factory.mktemp("ranks")) as started:
        yield started
