"""Scorers: measures of documents, as columns beside them. A rule reads these columns; a scorer decides nothing.

A scorer is a class with the members of `Scorer`; `codeshell.scorers.text` is the first, examples/own_scorer.py one of a
user. The recipe's `score.scorers` names those that run after the collect stage (codeshell/data/score.py). Importing
this module imports no Arrow.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from codeshell.errors import UserError
from codeshell.registry import Registry

if TYPE_CHECKING:
    import pyarrow as pa


class Scorer(Protocol):
    """What a scorer has. It is made once per worker process, with its settings as keyword arguments.

    A scorer that needs a model loads it when it is made; one that needs torch imports it there, not at the top of its
    file. Its columns must depend on the document alone, not on the batch it is in, because shards may be cut otherwise.
    """

    version: int | str
    """Raised when the columns of a document change, so that a run scores again. (An edit of a FILE.py counts, too.)"""
    columns: pa.Schema
    """Name and type of each column that `score` gives. The names are unlike those of documents and other scorers."""

    def score(self, batch: pa.Table) -> Mapping[str, Any]:
        """The columns of a batch.

        Args:
            batch: some documents in order: the columns of `documents.shards.DOCUMENTS` (id, repo, path, language, text,
                bytes), of `scorers.text.SCORES`, and of the scorers that the recipe names before this one.

        Returns:
            For each name in `columns` as many values as the batch has rows: a list, a NumPy or an Arrow array. None
            (null) where a document has no such score; a rule does not drop it for that.
        """
        ...


SCORERS: Registry[Any] = Registry(
    "scorer",
    {
        "text": "codeshell.scorers.text:TextMeasures",
        "lexical": "codeshell.scorers.lexical:Lexical",
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
