"""Times of calls: in alternated rounds on a CPU; by CUDA events, or replays of a graph, on a GPU."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Step: TypeAlias = Callable[[int], Any]
"""One call on the data of a slot. Returns what it wrote, which is kept alive, and compared once."""

GRAPH_BELOW = 50.0
"""Microseconds. The cost of a launch shows in shorter calls, so these are timed as replays of a graph."""
CPU_ROUND, HOST_ROUND = 5e-3, 1e-3
"""Seconds. Shorter calls are repeated until a round takes as long, far above the 50 ns of the clock. The second is for
the time that calls on a GPU take on the host: the queue must not fill up, or the host would wait for it."""
GPU_TURNS = 3
"""How often contenders take turns on a GPU."""


@dataclass
class Timing:
    microseconds: list[float]
    method: str
    calls: int


def time_cpu(
    steps: dict[str, Step], slots: int, rounds: int, shortest: float = CPU_ROUND
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Alternated rounds, each of `shortest` seconds or more; (timings, errors) by name."""
    counts: dict[str, int] = {}
    kept: dict[str, list[Any]] = {name: [None] * slots for name in steps}
    times: dict[str, list[float]] = {name: [] for name in steps}
    errors: dict[str, str] = {}

    def turn(name: str, count: int) -> float:
        step, outputs = steps[name], kept[name]
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the host time of calls on a GPU starts with an empty queue
        start = time.perf_counter()
        for index in range(count):
            outputs[index % slots] = step(index % slots)
        return (time.perf_counter() - start) / count

    gc.collect()
    with no_collection():
        # How many calls make a round of each, then the rounds: one of each step in turn.
        for name in list(steps):
            try:
                turn(name, 1)
                counts[name] = 1
                while (seconds := turn(name, counts[name])) * counts[name] < shortest:
                    counts[name] = max(2 * counts[name], min(math.ceil(shortest / seconds), 1_000_000))
            except Exception as error:
                errors[name] = first_line(error)
                counts.pop(name, None)
        for _ in range(rounds):
            for name, count in counts.items():
                times[name].append(1e6 * turn(name, count))
    return {name: Timing(times[name], "alternated rounds", count) for name, count in counts.items()}, errors


def time_gpu(step: Step, slots: int, rounds: int, graph: bool) -> Timing:
    """CUDA events around each call, or around replays of a graph where a call takes less than `GRAPH_BELOW`."""
    kept: list[Any] = [None] * slots
    for index in range(max(3, slots)):
        kept[index % slots] = step(index % slots)
    torch.cuda.synchronize()
    with no_collection():
        timing = Timing(time_events(step, slots, kept, rounds), "events", 1)
        if graph and statistics.median(timing.microseconds) < 2 * GRAPH_BELOW:
            # The limit is doubled here, because a pair of events around a short call measures the launch too.
            calls = math.ceil(max(1000 / statistics.median(timing.microseconds), slots, 20))
            try:
                replayed = Timing(time_replays(step, slots, kept, calls, rounds), "graph", calls)
            except Exception as error:
                return Timing(timing.microseconds, f"events (no graph: {first_line(error)})", 1)
            if statistics.median(replayed.microseconds) < GRAPH_BELOW:
                return replayed
    return timing


def take_turns(
    steps: dict[str, Step], slots: int, rounds: int, graphs: set[str]
) -> tuple[dict[str, Timing], dict[str, str]]:
    """`time_gpu` of each step in turn, `GPU_TURNS` times. Those named in `graphs` may be captured. Returns (timings,
    errors) by name."""
    timings: dict[str, Timing] = {}
    errors: dict[str, str] = {}
    for _ in range(GPU_TURNS):
        for name, step in steps.items():
            if name in errors:
                continue
            try:
                timing = time_gpu(step, slots, math.ceil(rounds / GPU_TURNS), name in graphs)
            except Exception as error:
                errors[name] = first_line(error)
                timings.pop(name, None)
                continue
            earlier = timings.setdefault(name, Timing([], f"{timing.method} in {GPU_TURNS} turns", timing.calls))
            earlier.microseconds.extend(timing.microseconds)
    return timings, errors


def time_events(step: Step, slots: int, kept: list[Any], rounds: int) -> list[float]:
    """Microseconds of each of `rounds` calls, by an event before it and one after it."""
    marks = []
    for index in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        kept[index % slots] = step(index % slots)
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in marks]


def time_replays(step: Step, slots: int, kept: list[Any], calls: int, rounds: int) -> list[float]:
    """Microseconds per call, for each of `rounds` replays of a graph of so many calls."""
    # Once outside the capture, on the stream where it will be: allocations and first-time work happen here.
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(slots):
            kept[index] = step(index)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        for index in range(calls):
            kept[index % slots] = step(index % slots)
    graph.replay()
    times = time_events(lambda _: graph.replay(), 1, [None], rounds)
    return [value / calls for value in times]


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection while times are taken."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle(limit: float) -> None:
    """Work until the clocks no longer change: the last five products of a large matrix took the same time, to 1 %."""
    a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    last: list[float] = []
    end = time.monotonic() + limit
    while time.monotonic() < end:
        last = [*last[-4:], statistics.median(time_events(lambda _: a @ a, 1, [None], 20))]
        if len(last) == 5 and max(last) < 1.01 * min(last):
            return


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
