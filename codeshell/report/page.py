"""Filling of a template: what both pages share, and a policy that pins their style and script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from codeshell import __version__
from codeshell.report import format
from codeshell.report.charts import bar, kept_and_dropped
from codeshell.report.pairs import Document
from codeshell.report.sections import flatten

HERE = Path(__file__).parent


def fill(template: str, context: dict[str, Any]) -> str:
    """The page as text: `template`, which extends `page.html`, filled with the values of `context`."""
    # Style and script are part of the page; the policy names their hashes, so they must be inserted unchanged.
    css, js = (HERE / "style.css").read_text("utf-8"), (HERE / "script.js").read_text("utf-8")
    shared = {"css": Markup(css), "js": Markup(js), "policy": _policy(css, js), "version": __version__}
    return format.show_controls(_template(template).render(shared | context)) + "\n"


def _template(name: str) -> jinja2.Template:
    # StrictUndefined: a wrong name in a template is an error in the tests, not a blank in a page.
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(HERE), trim_blocks=False
    )
    environment.globals |= {"bar": bar, "kept_and_dropped": kept_and_dropped}
    environment.filters |= {
        "count": format.count,
        "short": format.short_count,
        "size": format.size,
        "share": format.share,
        "duration": format.duration,
        "plain": format.plain,
        "words": format.words,
        "cut": format.cut,
        "about": _about,
        "fixed": lambda value: format.MISSING if format.number(value) is None else f"{value:.2f}",
        "jaccard": lambda value: format.MISSING if format.number(value) is None else f"{value:.3f}",
        "value": show_value,
    }
    return environment.get_template(name)


def _policy(css: str, js: str) -> str:
    """Nothing may be loaded, and only these two texts count as style and script: injected ones would be dead."""
    # base64 of the SHA-256 of the exact text between the tags, as the policy's grammar wants it.
    pins = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, js)]
    return (
        f"default-src 'none'; style-src 'sha256-{pins[0]}'; script-src 'sha256-{pins[1]}'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def show_value(value: Any) -> str:
    """Any JSON scalar for a reader."""
    # Text and yes or no as `flatten` writes them; numbers short if they are large.
    if format.number(value) is None:
        return flatten(value)[0][1] if not isinstance(value, dict | list) else str(value)
    return format.short_count(value) if abs(value) >= 1e6 else format.plain(value)


def make_card(title: str, value: str, lines: list[str], unit: str = "") -> dict[str, Any]:
    """A card of the first screen; a caller may add bars with their caption."""
    return {"title": title, "value": value, "unit": unit, "lines": lines, "bars": [], "caption": ""}


def _about(document: Document) -> str:
    """Language, size and place of a document, as far as they are known."""
    amount = format.size(document.bytes) if document.bytes is not None else ""
    return " · ".join(
        part for part in (format.cut(document.language or ""), amount, format.cut(document.where)) if part
    )
