"""What a user writes of a recipe: `--set section.key=value`, and msgspec's errors in our words.

`codeshell.recipe` has the settings themselves; here they are a tree of dicts, or a type whose fields are keys.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from typing import Any

import msgspec

from codeshell.errors import UserError, say


def parse_toml(text: str) -> dict[str, Any]:
    """TOML; whatever is wrong with it is a `ValueError`, as a number of more digits than Python reads is."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def apply_override(tree: dict[str, Any], override: str, renamed: Iterable[tuple[str, str]]) -> None:
    """Put `"section.key=value"` into the tree; `renamed` are pairs of an old key and its name of today.

    Raises:
        UserError: no key or no value in it, or a key below another key's value.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    # An override in old words replaces the recipe's value in new ones.
    for old, new in renamed:
        if key == old != new:
            say(f"--set {override}: {key} is called {new} now; read as that")
            key = new
    names = key.split(".")
    if not equals or not all(names):
        raise UserError(f"--set {override}: write section.key=value, for example train.steps=100")
    # A name with dots of its own is quoted, as in TOML: score.settings."my_scorer.py:Lines".limit=3.
    if '"' in key or "'" in key:
        names = _quoted_names(key, override)
    # TOML, or else the text as it is: a shell user need not quote the quotes of train.precision=fp32.
    try:
        parsed = parse_toml(f"value = {text}")
    except ValueError:
        parsed = {"value": text}
    # A second line would be a key of its own.
    put(tree, names, parsed["value"] if parsed.keys() == {"value"} else text, f"--set {override}")


def _quoted_names(key: str, override: str) -> list[str]:
    try:
        node: Any = parse_toml(f"{key} = 0")
    except ValueError:
        raise UserError(f'--set {override}: quote a name as TOML does, section."a.name".key=value') from None
    names = []
    while isinstance(node, dict):
        name, node = next(iter(node.items()))
        names.append(name)
    return names


def put(tree: dict[str, Any], names: list[str], value: Any, what: str) -> None:
    """Set one value; tables on the way that the file lacks are made. `what` names it in errors."""
    node = tree
    for name in names[:-1]:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            raise UserError(f"{what}: {name} is a value, not a section; change it as a whole")
    node[names[-1]] = value


def explain(message: str, root: type[msgspec.Struct]) -> str:
    """Turn msgspec's sentence into ours: the key first, and the nearest known key for an unknown one.

    Args:
        root: the type that the message is about; its fields are sections.
    """
    # "Expected `int` >= 1 - at `$.train.steps`": the place comes last.
    found = re.search(r" - at `\$\.?(.*)`$", message)
    where = found.group(1) if found else ""
    text = message[: found.start()] if found else message
    unknown = re.match(r"Object contains unknown field `(.*)`", text)
    if unknown:
        name = unknown.group(1)
        known = _keys_at(where, root)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {where + '.' if where else ''}{name}; {hint}"
    text = text.replace("Expected", "expected").replace("`", "")
    return f"{where}: {text}" if where else text


def _keys_at(where: str, root: type[msgspec.Struct]) -> list[str]:
    """The names that are known at a place such as "train.phases[0]"."""
    node: Any = root
    # An index says nothing of the type, so it is cut off.
    for name in filter(None, re.sub(r"\[[^]]*\]", "", where).split(".")):
        hints = {field.name: field.type for field in msgspec.structs.fields(node)}
        node = hints.get(name)
        # A marked type is Annotated[...]; the type itself is its origin.
        if hasattr(node, "__metadata__"):
            node = node.__origin__
        # tuple[Phase, ...] has the keys of a Phase.
        arguments = getattr(node, "__args__", ())
        node = next((item for item in arguments if isinstance(item, type) and issubclass(item, msgspec.Struct)), node)
    return [field.name for field in msgspec.structs.fields(node)]
