"""Sizes as the arguments of commands give them."""

from __future__ import annotations

import pytest

from codeshell.cli.sizes import parse_size
from codeshell.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("500MB", 500_000_000),
        ("1073741824", 1 << 30),
        ("0.5 g", 500_000_000),
        (" 64mib ", 64 << 20),
        ("1.5TiB", 3 << 39),
        ("80GB", 80_000_000_000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("much", "--memory: 'much' is not a size; write 2GiB or 500MB"),
        ("", "is not a size"),
        ("-1GB", "is not a size"),
        ("2 pints", "is not a size"),
        ("63MiB", "63MiB is too little; give 64MiB or more"),
        ("9999999TiB", "is more than any machine has"),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_size(text, "--memory")
