"""Scorers: measures of documents, as columns beside them. A rule reads these columns; a scorer decides nothing.

A scorer is a class with the members of `Scorer`; `codeshell.scorers.text` is the first, examples/own_scorer.py one of a
user. The recipe's `score.scorers` names those that run over the distinct documents (codeshell/data/score.py). A scorer
that learns from the corpus, or reads columns of other scorers, has the members of `Learner` or `needs` as well.
Importing this module imports no Arrow.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from codeshell.errors import UserError
from codeshell.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from codeshell.documents.corpus import Corpus
    from codeshell.engine import Engine


class Scorer(Protocol):
    """What a scorer has. It is made once per worker process, with its settings as keyword arguments.

    A scorer that needs a model loads it when it is made; one that needs torch imports it there, not at the top of its
    file. Its columns must depend on the document alone (and on what `fit` learned of the whole corpus), not on the
    batch it is in, because shards may be cut otherwise.

    It may have a member `needs: Sequence[str]`, which names the columns that it reads beyond those of documents and of
    `scorers.text.SCORES`. The scorers that write them must come before it in the recipe, and it scores again if one of
    them does. Without the member, `score` is given no column of another scorer.

    It may have a member `absent: Mapping[str, str]`: a column that is null where a document cannot be measured, and the
    usual reasons in words. The score stage counts such documents and says so.

    It may have a member `lines(batch)`, which gives for each document a list of (number from 1, bytes, cost) of its
    lines: `codeshell explain --lines` shows them as a heat map.
    """

    version: int | str
    """Raised when the columns of a document change, so that a run scores again. (An edit of a FILE.py counts, too.)"""
    columns: pa.Schema
    """Name and type of each column that `score` gives. The names are unlike those of documents and other scorers."""

    def score(self, batch: pa.Table) -> Mapping[str, Any]:
        """The columns of a batch.

        Args:
            batch: some documents in order: the columns of `documents.shards.DOCUMENTS` (id, repo, path, language, text,
                bytes), of `scorers.text.SCORES`, and those that `needs` names.

        Returns:
            For each name in `columns` as many values as the batch has rows: a list, a NumPy or an Arrow array. None
            (null) where a document has no such score; a rule does not drop it for that.
        """
        ...


class Learner(Protocol):
    """What a scorer has besides if it learns from the corpus first, as a language model of the corpus does."""

    def fit(self, corpus: Corpus, home: Path, engine: Engine) -> None:
        """Learn from the corpus. Called once for a run, in the main process, before any document is scored.

        Args:
            corpus: the distinct documents of the run: those that are scored afterwards.
            home: a directory of its own (`score/NAME/state` of the run). What is written there is written whole, by
                rename (`codeshell.engine.files`). After a kill, `fit` is called again and finds what it left, so it
                resumes or starts again. It must write the same whatever the shards, the workers and the engine.
            engine: to map work over shards with (`codeshell.engine.map_shards`).
        """
        ...

    def load(self, home: Path) -> None:
        """Read what `fit` wrote. Called in each worker before the first `score`."""
        ...


SCORERS: Registry[Any] = Registry(
    "scorer",
    {
        "text": "codeshell.scorers.text:TextMeasures",
        "lexical": "codeshell.scorers.lexical:Lexical",
        "libraries": "codeshell.scorers.libraries:Libraries",
        "standards": "codeshell.scorers.standards:Standards",
        "syntax": "codeshell.scorers.syntax:Syntax",
        "perplexity": "codeshell.scorers.perplexity:Perplexity",
        "quality": "codeshell.scorers.quality:Quality",
        "encoder": "codeshell.scorers.encoder:EncoderScorer",
        "contamination": "codeshell.scorers.contamination:Contamination",
        "secrets": "codeshell.scorers.secrets:Secrets",
    },
)
"""The package's scorers by name. Each entry is a class (or a function) that makes a `Scorer` of its settings."""


def make(name: str, settings: Mapping[str, Any]) -> Scorer:
    """The scorer of this name or place with these settings.

    Raises:
        UserError: there is none of that name, it does not take these settings, or it is no scorer. What the scorer
            itself raises comes as it is.
    """
    found = SCORERS.get(name)
    if not callable(found):
        raise UserError(f"scorer {name}: is no class or function that makes a scorer; see codeshell.scorers.Scorer")
    # Before the call, so that a TypeError of the scorer's own code is not taken for one of its settings.
    with contextlib.suppress(ValueError):  # the signature of some classes written in C is not known
        signature = inspect.signature(found)
        try:
            signature.bind(**settings)
        except TypeError as error:
            known = ", ".join(signature.parameters) or "none"
            raise UserError(f"score.settings of {name}: {error}; its settings: {known}") from None
    # A class is called with its settings as a function would be; one without settings takes no arguments.
    scorer: Scorer = found(**settings)
    for member in ("version", "columns", "score"):
        if not hasattr(scorer, member):
            raise UserError(f"scorer {name}: has no {member!r}; see codeshell.scorers.Scorer")
    return scorer
