"""The process that holds a candidate and nothing else: it executes the code, then answers calls of its functions.

The tests are in another process, and what they expect never comes here. So there is nothing in this process to read,
patch or replace that could change a verdict: all that it can do is answer, and the answer is compared elsewhere. It
may be taken over by the candidate at any time; the other side treats whatever comes from here as hostile bytes.

Questions, each a tuple: ("call", name, arguments), ("invoke" | "next" | "iter" | "len", handle, arguments), and for the
few problems whose tests need the candidate's own classes ("run", setup, tests, entry_point, wrapped, nonce).
Answers: ("loaded", names), ("value", value, arguments or None), ("raised", names of the type and its bases, arguments,
line), ("exit", status), ("missing", name), ("compile", why), ("refused", why), ("memory",), ("done", nonce),
("wrong", why).

This file runs inside the sandbox and imports the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

from codeshell.evaluate.sandbox import values
from codeshell.evaluate.sandbox.values import Handle, ValueRefusedError

NAME = "candidate"
"""Name of the candidate's module. It is not `__main__`: what a file does when it is run as a script is no answer."""

FILE = "<candidate>"


class _Handles:
    """What the candidate returned and cannot travel, by number."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def export(self, value: Any) -> Handle:
        kind = type(value)
        if hasattr(kind, "__next__"):
            name = "iterator"
        elif hasattr(kind, "__iter__"):
            name = "iterable"
        elif callable(value) and not isinstance(value, type):
            name = "function"
        else:
            name = "object"
        truth = True
        with contextlib.suppress(Exception):
            truth = bool(value)
        # Kept values live on, so an address is of one value only.
        number = self._numbers.setdefault(id(value), len(self._kept))
        if number == len(self._kept):
            self._kept.append(value)
        return Handle(name, truth, number, kind.__name__)

    def resolve(self, handle: Handle) -> Any:
        return self._kept[handle.number]

    def __getitem__(self, number: int) -> Any:
        return self._kept[number]


def execute(code: str, module: types.ModuleType) -> tuple[Any, ...]:
    """Execute the candidate as the body of a module; the answer that says what came of it."""
    try:
        body = compile(code, FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        told = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deep"
        return ("compile", f"{type(error).__name__}: {told}{where}")
    # Where dataclasses and typing look for it.
    sys.modules[module.__name__] = module
    try:
        exec(body, module.__dict__)
    except BaseException as error:
        return raised(error)
    names = [name for name, value in module.__dict__.items() if isinstance(value, types.FunctionType | type)]
    return ("loaded", names[:1000])


def raised(error: BaseException) -> tuple[Any, ...]:
    """The answer for an exception of the candidate."""
    if isinstance(error, SystemExit):
        return ("exit", error.code if type(error.code) is int else repr(error.code)[:200])
    if isinstance(error, MemoryError):
        return ("memory",)
    names = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, BaseException)]
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    arguments: tuple[Any, ...] = error.args
    try:
        if len(values.encode(arguments)) > 1 << 16:
            raise ValueRefusedError
    except ValueRefusedError:
        arguments = (str(error)[:10_000],)
    return ("raised", names, arguments, line)


def _called(function: Callable[..., Any], blob: bytes, handles: _Handles) -> tuple[Any, ...]:
    """Call with the arguments in `blob`; the answer says how the call changed them."""
    # References are followed here: two equal names for one list in the tests are one list in the candidate, too.
    positional, named = values.decode(blob, handles.resolve, share=True)
    try:
        result = function(*positional, **named)
    except BaseException as error:
        answer = raised(error)
        return answer if answer[0] != "raised" else (*answer, _changed(positional, named, blob, handles))
    return ("value", result, _changed(positional, named, blob, handles))


def _changed(positional: Any, named: Any, blob: bytes, handles: _Handles) -> Any:
    """The arguments, if a call has changed them; None if not."""
    arguments = (positional, named)
    with contextlib.suppress(ValueRefusedError):
        if values.encode(arguments, handles.export, share=True) == blob:
            return None
    return arguments


def _answer(question: Any, module: types.ModuleType, handles: _Handles) -> tuple[Any, ...]:
    match question:
        case ("call", str(name), bytes(blob)):
            function = module.__dict__.get(name)
            if not callable(function):
                return ("missing", name)
            return _called(function, blob, handles)
        case ("invoke", int(number), bytes(blob)):
            return _called(handles[number], blob, handles)
        case ("next", int(number), bytes()):
            return _called(lambda: next(handles[number]), _NOTHING, handles)
        case ("iter", int(number), bytes()):
            return _called(lambda: iter(handles[number]), _NOTHING, handles)
        case ("len", int(number), bytes()):
            return _called(lambda: len(handles[number]), _NOTHING, handles)
        case ("run", str(setup), str(tests), str(entry_point), list(wrapped), bytes(nonce)):
            return _run_tests(module, setup, tests, entry_point, wrapped, nonce)
    return ("refused", "an unknown question")


_NOTHING = values.encode(((), {}))


def _run_tests(
    module: types.ModuleType, setup: str, tests: str, entry_point: str, wrapped: list[Any], nonce: bytes
) -> tuple[Any, ...]:
    """Execute setup and tests beside the candidate, in its process; the nonce proves that they came to their end."""
    namespace = dict(module.__dict__)
    for name in wrapped:
        if isinstance(namespace.get(name), types.FunctionType):
            namespace[name] = _plain(namespace[name])
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), namespace)
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), namespace)
        if entry_point and callable(namespace.get("check")):
            if entry_point not in namespace:
                return ("missing", entry_point)
            namespace["check"](namespace[entry_point])
    except AssertionError as error:
        # Of the tests, not of the candidate.
        trace, file, line = error.__traceback__, "", 0
        while trace is not None:
            file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            trace = trace.tb_next
        if file == "<tests>":
            return ("wrong", tests.splitlines()[line - 1].strip()[:300] if line else "")
        return raised(error)
    except BaseException as error:
        return raised(error)
    return ("done", nonce)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its results reduced to exact builtin values, where they are some."""

    def call(*positional: Any, **named: Any) -> Any:
        result = function(*positional, **named)
        with contextlib.suppress(ValueRefusedError):
            return values.decode(values.encode(result))
        return result

    return call


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()


def serve(channel: socket.socket, code: str) -> NoReturn:
    """Execute the candidate and answer questions until the other side is gone."""
    process = os.getpid()
    # Made now: after a MemoryError there may be no room for it.
    no_memory = values.encode(("memory",))
    module = types.ModuleType(NAME)
    handles = _Handles()
    answer = execute(code, module)
    while True:
        # A copy of this process that the candidate made, and that came back from its code, has nothing to answer.
        if os.getpid() != process:
            os._exit(0)
        try:
            try:
                data = values.encode(answer, handles.export)
            except ValueRefusedError as error:
                data = values.encode(("refused", str(error)))
        except MemoryError:
            data = no_memory
        except BaseException as error:
            data = values.encode(("refused", f"{type(error).__name__} while the result was read"))
        _flush()
        del answer
        try:
            values.send(channel, data)
            question = values.receive(channel)
        except OSError:
            os._exit(0)
        if question is None:
            os._exit(0)
        try:
            answer = _answer(values.decode(question), module, handles)
        except BaseException as error:
            answer = raised(error)
