"""What the sections of the recipe are made of: ranges of values, and the marks that say what another value means."""

from __future__ import annotations

import enum
from typing import Annotated, TypeVar

import msgspec

from codeshell.values import LARGEST

# The upper limits are far beyond any use. They keep sums and products of settings within 64 bits and within float32.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Width = Annotated[int, msgspec.Meta(ge=1, le=2**20)]
"""A dimension of the model."""
Tokens = Annotated[int, msgspec.Meta(ge=1, le=2**32)]
"""Tokens of a sequence or a batch."""
Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Part = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]
Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1e30)]


class Change(enum.Enum):
    """What another value of a key means to a run that has begun."""

    RESUME = "resume"
    """What is done stays done, and what has begun continues with the new value."""
    REDO = "redo"
    """The stages that read the key are done again from their beginning, and so are those after them. A trained model
    is moved aside, not deleted. `codeshell train`, which does one stage alone, refuses."""
    REFUSE = "refuse"
    """Once the stage that reads the key is done, another value is an error: nothing of the run would remain."""


T = TypeVar("T")
Resume = Annotated[T, Change.RESUME]
Redo = Annotated[T, Change.REDO]
Refuse = Annotated[T, Change.REFUSE]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every section: immutable, keyword only, unknown keys refused."""
