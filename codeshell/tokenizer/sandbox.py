"""Renders chat templates, which are programs that come with a model: in jinja2's sandbox, with limits of our own.

The sandbox keeps a template from the rest of the process. It does not keep it from working for ever or from filling
the memory. So every turn of a loop and every call takes one from a budget, whatever could make a text longer is
checked, and only the filters that templates of models use are there. A template gets no clock: the same messages give
the same text on every day (Llama-3.2's template then writes its own fixed date).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

from codeshell.errors import UserError

MOST_SOURCE = 1 << 18
"""Characters of a template; the longest of a known model has 20,000."""

MOST_WORK = 100_000
"""Turns of loops and calls in one rendering; a known template takes about five for each message."""

MOST_TEXT = 1 << 25
"""Characters that a rendering, or a string on the way, may have."""

BEGIN, END = "generation_begins", "generation_ends"
"""Variables that a template's `{% generation %}` block writes before and after what it holds."""

_BUDGET = "work left"
"""With a space, so that no template can name it."""

_FILTERS = frozenset(
    {"abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "join", "last"}
    | {"length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe"}
    | {"select", "selectattr", "sort", "string", "title", "tojson", "trim", "unique", "upper", "wordcount"}
)
"""Left out are those that pad, such as `center` and `format`."""

_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map", "encode", "translate"})
"""Methods of strings that make long texts of short ones, and that no template needs."""


_FAULTS = (RecursionError, MemoryError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""What a template's own mistakes raise."""


class TooMuchError(Exception):
    """A template works or writes more than it may."""


class _Generation(jinja2.ext.Extension):
    """transformers' `{% generation %} … {% endgeneration %}`, which marks what an assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def mark(name: str) -> jinja2.nodes.Node:
            return jinja2.nodes.Output([jinja2.nodes.Name(name, "load", lineno=line)], lineno=line)

        return [mark(BEGIN), *body, mark(END)]


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """A sum, product, power or format, of numbers and texts that stay small."""
        if operator == "%" and isinstance(left, str):
            raise TooMuchError("it formats with %, which is left out")
        if operator == "**":
            raise TooMuchError("it takes a power, which is left out")
        # What repeats a text or a list, before it is made.
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, str | list | tuple) and isinstance(times, int) and len(one) * times > MOST_WORK:
                    raise TooMuchError("it repeats a text too often")
        return _small(super().call_binop(context, operator, left, right))

    def call(self, context: jinja2.runtime.Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        _spend(context, 1)
        text, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if isinstance(text, str):
            if name in _PADDING:
                raise TooMuchError(f"it calls {name} of a string, which is left out")
            if name == "replace":
                _check_replacement(text, *args[:2])
            if name == "join":
                args = (_check_join(args[0], text), *args[1:])
        return _small(super().call(context, function, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> None:
        """Refuse `format` of a string, which reads attributes and pads."""
        if isinstance(getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            raise TooMuchError(f"it calls {value.__name__} of a string, which is left out")


def _spend(context: jinja2.runtime.Context, amount: int) -> None:
    left = context.resolve(_BUDGET)
    left[0] -= amount
    if left[0] < 0:
        raise TooMuchError(f"it takes more than {MOST_WORK:,} steps")


def _small(value: Any) -> Any:
    """The value, if it is not a text or a number beyond the limits."""
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise TooMuchError(f"it writes more than {MOST_TEXT:,} characters")
    if isinstance(value, int) and abs(value) > 1 << 64:
        raise TooMuchError("it computes with numbers beyond 64 bits")
    if isinstance(value, list | tuple) and len(value) > MOST_WORK:
        raise TooMuchError(f"it makes a list of more than {MOST_WORK:,} values")
    return value


def _shallow(value: Any) -> Any:
    """A value that is about to be written, if it holds a sensible number of others: ten lists can hold 2^10."""
    if isinstance(value, str):
        return _small(value)
    waiting, seen, size = [value], 0, 0
    while waiting:
        one = waiting.pop()
        seen += 1
        size += len(one) if isinstance(one, str) else 0
        if seen > MOST_WORK or size > MOST_WORK * 10:
            raise TooMuchError(f"it writes a list of more than {MOST_WORK:,} values, or of long ones")
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            waiting += one
    return _small(value)


def _string(value: Any) -> str:
    return str(_shallow(value))


@jinja2.pass_context
def _turns(context: jinja2.runtime.Context, values: Any) -> list[Any]:
    """What a loop runs over, as a list that is paid for."""
    known = isinstance(values, Sequence | Mapping)
    _spend(context, len(values) if known else 1)
    rows = []
    for value in values:
        if not known:
            _spend(context, 1)
        rows.append(value)
    return rows


def _joined(values: list[Any]) -> str:
    """The texts of all values in one: jinja2's `~`."""
    if sum(len(value) for value in values if isinstance(value, str)) > MOST_TEXT:
        raise TooMuchError(f"it writes more than {MOST_TEXT:,} characters")
    return "".join(map(_string, values))


def _check_replacement(text: str, old: object = "", new: object = "", *_: object) -> None:
    """Refuse a replacement whose result would be too long, before it is made."""
    if len(text) + text.count(str(old)) * len(str(new)) > MOST_TEXT:
        raise TooMuchError(f"it writes more than {MOST_TEXT:,} characters")


def _check_join(values: Any, between: str) -> list[str]:
    """The texts to join, where the result is not too long."""
    texts = [_string(value) for value in values]
    if sum(map(len, texts)) + len(texts) * len(between) > MOST_TEXT:
        raise TooMuchError(f"it writes more than {MOST_TEXT:,} characters")
    return texts


def _replace(text: object, old: str, new: str, count: int = -1) -> str:
    _check_replacement(str(text), old, new)
    return str(text).replace(old, new, count)


@jinja2.pass_environment
def _join(environment: jinja2.Environment, values: Any, between: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = [environment.getitem(value, attribute) for value in values]
    return between.join(_check_join(values, between))


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is looked at."""

    def run(*args: Any, **kwargs: Any) -> Any:
        return _small(function(*args, **kwargs))

    # jinja2 reads from a function's attribute whether it takes the context or the environment first.
    run.__dict__.update(getattr(function, "__dict__", {}))
    return run


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **others: Any) -> str:
    """JSON without jinja2's escapes for HTML, as transformers gives it to templates."""
    return json.dumps(
        _shallow(value), ensure_ascii=ensure_ascii, indent=None if indent is None else min(indent, 16), **others
    )


def _refuse(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _environment() -> _Environment:
    made = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"], finalize=_shallow
    )
    made.filters = {name: _checked(one) for name, one in made.filters.items() if name in _FILTERS}
    made.filters |= {"tojson": _to_json, "replace": _replace, "join": _join, "string": _string}
    made.filters |= {"turns_of_a_loop": _turns, "joined_texts": _joined}
    known = {name: made.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")}
    made.globals = known | {"raise_exception": _refuse}
    return made


_ENVIRONMENT = _environment()


class Program:
    """A template, compiled once.

    Args:
        text: jinja2, in the dialect of transformers' chat templates.
        origin: names it in errors.

    Raises:
        UserError: it is too long, or no jinja2.
    """

    def __init__(self, text: str, origin: str) -> None:
        self.origin = origin
        if len(text) > MOST_SOURCE:
            raise UserError(
                f"{origin}: a chat template of {len(text):,} characters; give one of at most {MOST_SOURCE:,}"
            )
        try:
            tree = _ENVIRONMENT.parse(text)
            # What a loop runs over and what `~` joins are looked at, too.
            for loop in tree.find_all(jinja2.nodes.For):
                assert isinstance(loop.iter, jinja2.nodes.Expr)
                loop.iter = _filter(loop.iter, "turns_of_a_loop")
            self._template = _ENVIRONMENT.from_string(_without_concatenation(tree))
        except jinja2.TemplateError as error:
            raise UserError(
                f"{origin}: not a chat template ({_line(error)}); give jinja2 as transformers reads"
            ) from None
        except RecursionError:
            raise UserError(f"{origin}: a chat template that is nested too deep; give a simpler one") from None

    def render(self, messages: Sequence[Mapping[str, str]], variables: Mapping[str, object]) -> str:
        """The text for some messages.

        Args:
            messages: `{"role": …, "content": …}` each.
            variables: what else the template reads, such as `bos_token` and `add_generation_prompt`.

        Raises:
            UserError: the template refuses the messages, fails, or takes more than the limits.
        """
        own: dict[str, object] = {BEGIN: "", END: "", "tools": None, "documents": None, _BUDGET: [MOST_WORK]}
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(own | dict(variables) | {"messages": list(messages)}):
                parts.append(part)
                size += len(part)
                if size > MOST_TEXT:
                    raise TooMuchError(f"it writes more than {MOST_TEXT:,} characters")
        except TooMuchError as error:
            raise UserError(f"{self.origin}: the chat template is stopped: {error}; give a simpler one") from None
        except jinja2.UndefinedError as error:
            raise UserError(
                f"{self.origin}: the chat template reads what is not there ({_line(error)}); give messages of another "
                "form, or another template"
            ) from None
        except jinja2.TemplateError as error:
            raise UserError(
                f"{self.origin}: the chat template refuses these messages: {_line(error)}; change them, or give "
                "another template"
            ) from None
        except (
            RecursionError,
            MemoryError,
            ValueError,
            TypeError,
            ArithmeticError,
            LookupError,
            AttributeError,
        ) as error:
            name = type(error).__name__
            raise UserError(
                f"{self.origin}: the chat template fails ({name}: {_line(error)}); give another template"
            ) from None
        return "".join(parts)


def _filter(value: jinja2.nodes.Expr, name: str) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _without_concatenation(tree: jinja2.nodes.Template) -> jinja2.nodes.Template:
    """The template with a filter in place of each `~`."""
    waiting: list[jinja2.nodes.Node] = [tree]
    while waiting:
        node = waiting.pop()
        for field, value in node.iter_fields():
            if isinstance(value, list):
                value[:] = [_replaced(item) for item in value]
            else:
                setattr(node, field, _replaced(value))
        waiting += node.iter_child_nodes()
    return tree


def _replaced(value: Any) -> Any:
    if not isinstance(value, jinja2.nodes.Concat):
        return value
    return _filter(jinja2.nodes.List(value.nodes, lineno=value.lineno), "joined_texts")


def _line(error: BaseException) -> str:
    """The error's message in one line of a sensible length."""
    return " ".join(str(error).split())[:300]
