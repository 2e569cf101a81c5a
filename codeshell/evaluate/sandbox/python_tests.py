"""The process that holds the tests of a problem and nothing else: it executes them with stubs in the candidate's place.

A stub sends its arguments to the candidate's process and gives back what comes: exact builtin values, which were
decoded here, or stand-ins for what cannot travel. Comparing them calls no code of the candidate. What the candidate
did to its own process does not reach this one; whether it ended, hung or sent rubbish is seen here and decides the
verdict, whatever the tests catch.

The report is a tuple (verdict, why, mode) of strings, sent on a channel that the candidate does not have; the verdict
"same-process" asks for the other way of judging.

This file runs inside the sandbox and imports the standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import os
import random
import reprlib
import socket
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from codeshell.evaluate.sandbox import python_names, values
from codeshell.evaluate.sandbox.values import Handle, ValueRefusedError

FILE = "<tests>"


class CandidateError(Exception):
    """An exception of the candidate that has no builtin type, or cannot be made from its arguments."""


class TestsTooLongError(BaseException):
    """The tests used up their CPU time. It comes from the timer of the server that runs them."""


class NoFormError(ValueRefusedError):
    """An argument of the tests is of a type that does not travel: a function, a class, an object of their own."""


class CandidateLostError(BaseException):
    """The candidate answers no more. It is no `Exception`, so that tests do not catch it by accident."""


class Stranger:
    """A value of the candidate that cannot travel. It is equal to itself alone."""

    def __init__(self, candidate: Candidate, handle: Handle) -> None:
        self._candidate = candidate
        self._handle = handle

    def __bool__(self) -> bool:
        return self._handle.truth

    def __repr__(self) -> str:
        return f"<{self._handle.name} object of the candidate>"


class StrangeIterable(Stranger):
    """A set of keys, a deque, and others that can be walked."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._candidate.ask("iter", self._handle.number, (), {}))

    def __len__(self) -> int:
        length = self._candidate.ask("len", self._handle.number, (), {})
        if type(length) is not int:
            raise TypeError("the candidate's value has no length")
        return length


class StrangeIterator(Stranger):
    """A generator, a map, and others: each step is one question."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._candidate.ask("next", self._handle.number, (), {})


class StrangeFunction(Stranger):
    """A function that the candidate returned."""

    def __call__(self, *positional: Any, **named: Any) -> Any:
        return self._candidate.ask("invoke", self._handle.number, positional, named)


_STRANGERS: dict[str, type[Stranger]] = {
    "object": Stranger,
    "iterable": StrangeIterable,
    "iterator": StrangeIterator,
    "function": StrangeFunction,
}


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def short(value: Any) -> str:
    """A value for a message."""
    try:
        return _short.repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def described(names: list[Any], arguments: tuple[Any, ...], line: int) -> str:
    """An exception of the candidate, for a message."""
    name = names[0] if names and type(names[0]) is str else "?"
    where = f" in line {line} of the candidate" if line else ""
    return f"{name}({', '.join(map(short, arguments[:2]))}){where}"


class Candidate:
    """The other process: asks it, and remembers what became of it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.lost: tuple[str, str] | None = None
        """Verdict and reason once it answers no more."""
        self.calls = 0
        self.last = ""
        """The last call and what came of it, for messages."""
        self.raised: list[BaseException] = []
        """What the stubs raised for it, to tell these from the tests' own."""

    def lose(self, verdict: str, why: str) -> NoReturn:
        # The first reason stands: tests may catch it and ask again.
        self.lost = self.lost or (verdict, why)
        raise CandidateLostError(why)

    def receive(self) -> tuple[Any, ...]:
        """The next answer."""
        try:
            data = values.receive(self._channel)
            if data is None:
                self.lose("ended", "it ended before the tests did")
            answer = values.decode(data, self._resolve)
        except ValueRefusedError as error:
            self.lose("exception", f"the candidate's answer: {error}")
        except OSError:
            self.lose("ended", "it ended before the tests did")
        if type(answer) is not tuple or not answer or type(answer[0]) is not str:
            self.lose("exception", "the candidate's answer is not of the protocol")
        return answer

    def send(self, question: tuple[Any, ...]) -> None:
        try:
            values.send(self._channel, values.encode(question))
        except OSError:
            self.lose("ended", "it ended before the tests did")

    def _resolve(self, handle: Handle) -> Stranger:
        return _STRANGERS[handle.kind](self, handle)

    def _export(self, value: Any) -> Handle:
        if isinstance(value, Stranger):
            return value._handle
        raise NoFormError(f"an argument of type {type(value).__name__!r} cannot be sent")

    def ask(self, question: str, target: str | int, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Ask and wait; the value, or the exception, that the candidate answered with."""
        if self.lost:
            raise CandidateLostError(self.lost[1])
        try:
            blob = values.encode((positional, named), self._export, share=True)
            message = values.encode((question, target, blob))
        except NoFormError as error:
            self.lose("same-process", str(error))
        except ValueRefusedError as error:
            # Its size, to which the candidate may have contributed: no reason to judge in another way.
            self.lose("wrong", f"an argument of {target}: {error}")
        self.calls += 1
        try:
            values.send(self._channel, message)
        except OSError:
            self.lose("ended", "it ended before the tests did")
        call = target if question == "call" else f"its {question}"
        return self._answer(str(call), (positional, named), self.receive())

    def _answer(self, call: str, arguments: tuple[Any, ...], answer: tuple[Any, ...]) -> Any:
        """What an answer says: a value to return, an exception to raise, or the end."""
        match answer:
            case ("value", result, changed):
                self._carry_back(arguments, changed)
                self.last = f"{call} gave {short(result)}"
                return result
            case ("raised", list(names), tuple(told), int(line), *rest):
                if rest:
                    self._carry_back(arguments, rest[0])
                error = exception(names, told)
                self.raised.append(error)
                self.last = f"{call} raised {described(names, told, line)}"
                raise error
            case ("exit", status):
                self.lose("early_exit", f"{call} ended the process with status {short(status)}")
            case ("missing", str(name)):
                self.lose("exception", f"NameError: the candidate defines no function {name!r}")
            case ("memory",):
                self.lose("memory", f"MemoryError in {call}")
            case ("refused", str(why)):
                self.lose("wrong", f"{call} gave {why}")
        return self.lose("exception", "the candidate's answer is not of the protocol")

    def _carry_back(self, arguments: Any, changed: Any) -> None:
        """Change the tests' own lists, sets and dicts as the call has changed those that were sent."""
        if changed is None:
            return
        pairs = [(arguments, changed)]
        while pairs:
            old, new = pairs.pop()
            if type(old) is not type(new):
                continue
            # A container inside keeps its identity where the other side has one of the same type at its place.
            if type(old) is list:
                kept = [_keep(a, b, pairs) for a, b in zip(old, new, strict=False)]
                old[:] = kept + new[len(kept) :]
            elif type(old) is tuple:
                pairs += zip(old, new, strict=False)
            elif type(old) is dict:
                kept_items = {key: _keep(old[key], item, pairs) if key in old else item for key, item in new.items()}
                old.clear()
                old.update(kept_items)
            elif type(old) is set:
                old.clear()
                old.update(new)
            elif type(old) is bytearray:
                old[:] = new


def _keep(old: Any, new: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """`old` if it is a container that can take over what is in `new`, which is then still to do; else `new`."""
    if type(old) is type(new) and type(old) in (list, dict, set, bytearray):
        pairs.append((old, new))
        return old
    # A tuple cannot change, but a list in it can.
    if type(old) is tuple and type(new) is tuple and len(old) == len(new):
        return tuple(_keep(a, b, pairs) for a, b in zip(old, new, strict=True))
    return new


def exception(names: list[Any], arguments: tuple[Any, ...]) -> BaseException:
    """The exception of a builtin type that stands for one of the candidate: the first of its bases that is builtin."""
    for name in names:
        kind = builtins.__dict__.get(name) if type(name) is str else None
        # No SystemExit, KeyboardInterrupt or GeneratorExit: these would act here.
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(*arguments)
            except Exception:
                break
    return CandidateError(*arguments)


def stub(candidate: Candidate, name: str) -> Callable[..., Any]:
    """A function that calls the candidate's function of that name."""

    def call(*positional: Any, **named: Any) -> Any:
        return candidate.ask("call", name, positional, named)

    call.__name__ = call.__qualname__ = name
    return call


def _failing_line(error: BaseException, source: str) -> str:
    """The line of the tests that raised."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = source.splitlines()
    return f"{lines[line - 1].strip()[:200]!s}" if 0 < line <= len(lines) else ""


@functools.lru_cache(maxsize=16)
def _compiled(source: str, file: str) -> types.CodeType:
    return compile(source, file, "exec", dont_inherit=True)


def _run(candidate: Candidate, request: dict[str, Any], needs: python_names.Needs) -> None:
    """Execute helpers, setup and tests. Raises what a failing test raises."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["tests"]
    namespace = module.__dict__
    if request["helpers"]:
        # The prompt may hold functions that the tests call. What it needs of its end is not here, so it may fail.
        with contextlib.suppress(Exception):
            exec(_compiled(request["helpers"], "<prompt>"), namespace)
    for name in needs.modules:
        namespace[name] = importlib.import_module(name)
    for name in needs.stubs:
        namespace[name] = stub(candidate, name)
    exec(_compiled(request["setup"], "<setup>"), namespace)
    exec(_compiled(request["tests"], FILE), namespace)
    if needs.call_check:
        namespace["check"](namespace[needs.entry_point])
    if "unittest" in sys.modules and not candidate.calls:
        _run_cases(namespace)


def _run_cases(namespace: dict[str, Any]) -> None:
    """Run the classes of `unittest` that the tests define and do not run themselves."""
    import unittest

    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(case)
        for case in list(namespace.values())
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case is not unittest.TestCase
    )
    result = suite.run(unittest.TestResult())
    for _, text in [*result.failures, *result.errors]:
        raise AssertionError(text.strip().splitlines()[-1])


def analysed(request: dict[str, Any]) -> python_names.Needs | str:
    """What the tests of a request need of the candidate; if they are no Python, why not."""
    try:
        return _needs(request["tests"], request["setup"], request["helpers"], request["entry_point"])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the tests do not compile: {type(error).__name__}: {error}"


# Many programs of one problem follow one another.
_needs = functools.lru_cache(maxsize=8)(python_names.needs)


def verdict(candidate: Candidate, request: dict[str, Any], needs: python_names.Needs | str) -> tuple[str, str, str]:
    """Run the tests; (verdict, why, mode)."""
    if isinstance(needs, str):
        return ("not_run", needs, "")
    try:
        match candidate.receive():
            case ("loaded", list()):
                pass
            case ("raised", list(names), tuple(told), int(line), *_):
                return ("exception", described(names, told, line), "")
            case ("exit", status):
                return ("early_exit", f"the code ended the process with status {short(status)}", "")
            case ("compile", str(why)):
                return ("compile", why, "")
            case ("memory",):
                return ("memory", "MemoryError", "")
            case _:
                return ("exception", "the candidate's answer is not of the protocol", "")
        if request["same_process"] or needs.classes:
            return _same_process(candidate, request, needs)
        if not needs.stubs:
            return ("not_run", "the tests call nothing of the candidate", "")
        return _separate(candidate, request, needs)
    except CandidateLostError:
        assert candidate.lost
        return (*candidate.lost, "")


def _separate(candidate: Candidate, request: dict[str, Any], needs: python_names.Needs) -> tuple[str, str, str]:
    report: tuple[str, str, str]
    try:
        _run(candidate, request, needs)
        report = ("pass", "", "")
    except AssertionError as error:
        line = _failing_line(error, request["tests"])
        why = ": ".join(part for part in (line or "a test does not hold", str(error)[:200]) if part)
        report = ("wrong", f"{why}; {candidate.last}" if candidate.last else why, "")
        if any(error is other for other in candidate.raised):
            report = ("exception", candidate.last, "")
    except SystemExit as error:
        # `unittest.main()` ends so; the candidate's own SystemExit never comes here.
        ended = error.code in (None, 0)
        report = ("pass", "", "") if ended else ("wrong", f"the tests ended with {short(error.code)}", "")
    except CandidateLostError:
        report = ("exception", "", "")
    except TestsTooLongError as error:
        return ("cpu_time", f"{error}; {candidate.last}", "")
    except BaseException as error:
        own = not any(error is other for other in candidate.raised)
        why = f"{type(error).__name__}: {error}; in {_failing_line(error, request['tests'])}"
        report = ("exception", f"{why}; {candidate.last}" if own and candidate.last else candidate.last or why, "")
    # Whatever the tests made of it: without its answers nothing was tested.
    if candidate.lost:
        return (*candidate.lost, "")
    if report[0] == "pass" and not candidate.calls:
        return ("not_run", "the tests call nothing of the candidate", "")
    return report


def _same_process(candidate: Candidate, request: dict[str, Any], needs: python_names.Needs) -> tuple[str, str, str]:
    """Send the tests to the candidate's process, now that its code has run, and wait for the proof of their end."""
    mode = "same-process"
    nonce = os.urandom(16)
    entry_point = needs.entry_point if needs.call_check else ""
    candidate.send(("run", request["setup"], request["tests"], entry_point, needs.stubs, nonce))
    match candidate.receive():
        case ("done", bytes(proof)) if proof == nonce:
            return ("pass", "", mode)
        case ("wrong", str(line)):
            return ("wrong", line, mode)
        case ("raised", list(names), tuple(told), int(line), *_):
            return ("exception", described(names, told, line), mode)
        case ("exit", status):
            return ("early_exit", f"the process ended with status {short(status)}", mode)
        case ("missing", str(name)):
            return ("exception", f"NameError: the candidate defines no function {name!r}", mode)
        case ("memory",):
            return ("memory", "MemoryError", mode)
    return ("exception", "the tests did not come to their end", mode)


def judge(
    channel: socket.socket, reports: socket.socket, request: dict[str, Any], needs: python_names.Needs | str
) -> None:
    """Judge one candidate and send the report."""
    # Tests draw random numbers; each program gets the same ones.
    random.seed(0)
    report = verdict(Candidate(channel), request, needs)
    cleaned = tuple(part.encode("utf-8", "replace").decode()[:1000] for part in report)
    values.send(reports, values.encode(cleaned))
