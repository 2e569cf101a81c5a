"""The harness of all benchmarks of operations: contenders in one process, against the machine's own floor.

A benchmark describes cases. A case is one piece of work (a number of bytes to read and write, a number of FLOPs) and
the contenders that do it. Before anything is timed, their results are compared. Then

    CPU   the contenders take turns, round by round, so that a change of the machine's speed affects all of them;
    GPU   CUDA events are set around each call after the clocks have settled; a contender whose call takes less than
          50 us on the device is captured in a CUDA graph of many calls, and the replay is timed, which leaves the host
          out. Contenders come one after another, or in three turns where a case says so.

Data is random. A case has enough slots (copies of its data) that a call never finds in the last cache what the call
before it left there. The outputs of all slots are kept alive, so that they rotate too. Times are medians; every round
is kept.

The floor is what the machine does in the same run: copying, updating in place, reading, and, where a case counts FLOPs,
a matrix product. Copying on a CPU is the faster of torch's copy_ and memcpy on the same number of threads. It reads
most cache lines before it writes them, and that is not counted, so work in place can be above 100 % of it (`update` is
the floor for work in place).

The result is one JSON document:

    benchmark, environment, device, kernels {source: hash}, threads, smoke, floors {copy, update, read, gemm},
    copy_at_end, absent {peer: why}, finished,
    rows [{case, name, ours, microseconds, fastest_microseconds, rounds_microseconds, method, calls, slots, bytes,
           gigabytes_per_second, flops, teraflops, floor, ratio_to_floor, ratio_to_peer, error}]

`ratio_to_floor` is the rate divided by the floor's; `ratio_to_peer` is the fastest peer's time divided by this row's
(above 1: faster than every peer). A contender that fails or computes something else keeps its row, with the error and
without times.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib
import math
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chart
import numpy as np
import torch
from timing import (
    CPU_ROUND,
    HOST_ROUND,
    Step,
    Timing,
    first_line,
    settle,
    take_turns,
    time_cpu,
    time_gpu,
)

from codeshell.engine.files import write_json
from codeshell.engine.memory import keep_large_blocks
from codeshell.environment import environment, usable_cores
from codeshell.kernels import hashes

CACHE_TURNS = 4
"""All slots of a case together are this many times as large as the last cache."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a case. `make` prepares it and returns its step, and is called just before that is
    needed."""

    name: str
    make: Callable[[], Step]
    ours: bool = False
    peer: bool = True
    """False for a reference that does another piece of work, and is not compared."""
    graph: bool = True
    """Whether its step may be captured in a CUDA graph."""


@dataclass(frozen=True)
class Case:
    """A piece of work, and the contenders that do it.

    `prepare` fills the data of the slots again, with the same values each time. It runs before the first call of each
    contender, whose output is compared with the first peer's, to within `tolerance` of the largest value (None: it is
    not compared).
    """

    name: str
    contenders: Sequence[Contender]
    bytes: int = 0
    """Bytes read and written, each array once: what the work needs, whoever does it."""
    flops: int = 0
    floor: str = "copy"
    slots: int = 1
    prepare: Callable[[], None] = lambda: None
    tolerance: float | None = None
    turns: bool = False
    """Whether the contenders take turns on a GPU too, `GPU_TURNS` times, so that all have the same clocks and
    temperatures. All their data then exists at once. (On a CPU they always take turns.)"""


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all benchmarks share."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    result.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads; default: all")
    result.add_argument("--rounds", type=int, default=0, help="default: 9 on a CPU, 30 on a GPU")
    result.add_argument("--seconds", type=float, default=math.inf, help="start no further case after this time")
    result.add_argument("--only", action="append", default=[], metavar="TEXT", help="only cases whose name has TEXT")
    result.add_argument(
        "--without", action="append", default=[], metavar="TEXT", help="no contender whose name has TEXT"
    )
    result.add_argument("--progress", action="store_true", help="print each contender's name before it is measured")
    result.add_argument("--smoke", action="store_true", help="tiny sizes, which test the benchmark and measure nothing")
    result.add_argument("--json", type=Path, metavar="FILE", help="write every row here, after each case")
    result.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw the rows here")
    return result


class Session:
    """One run of a benchmark: measures cases, prints their rows, keeps the JSON on disk up to date.

    >>> session = Session("rotary", args)
    >>> session.run(cases)
    >>> sys.exit(session.finish())
    """

    def __init__(
        self, name: str, args: argparse.Namespace, floors: Iterable[str] = ("copy", "update", "read"), clock: str = ""
    ) -> None:
        """With `clock` "host", measure the time of a call on the calling thread, whatever the device does meanwhile."""
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise SystemExit("--device cuda: torch finds no CUDA device here; use --device cpu")
        if args.threads < 1 or args.rounds < 0:
            raise SystemExit(
                f"--threads {args.threads} --rounds {args.rounds}: threads must be 1 or more, rounds 0 or more"
            )
        for path in (args.json, args.chart):
            if path and not path.parent.is_dir():
                raise SystemExit(f"{path}: there is no folder {path.parent}")
        self.device = torch.device(device)
        self.events = device == "cuda" and clock != "host"
        self.args = args
        self.threads = args.threads
        self.rounds = args.rounds or (3 if args.smoke else 9 if device == "cpu" else 30)
        self.shortest = 1e-5 if args.smoke else HOST_ROUND if device == "cuda" else CPU_ROUND
        self.started = time.monotonic()
        self.failed = False
        if args.smoke:
            self.threads = 1
        torch.set_num_threads(self.threads)
        if device == "cpu":
            keep_large_blocks()  # as the trainer does
        else:
            settle(0.05 if args.smoke else 2.0)
        self.cache = 1 << 20 if args.smoke else last_cache(self.device)
        self.floors = {kind: measure_floor(kind, self) for kind in floors}
        self.result: dict[str, Any] = {
            "benchmark": name,
            "environment": environment(self.threads),
            "device": device_facts(self.device),
            "kernels": hashes(),
            "threads": self.threads,
            "smoke": args.smoke,
            "floors": self.floors,
            "absent": {},
            "finished": False,
            "rows": [],
        }
        for kind, floor in self.floors.items():
            print(f"{kind:7} {floor['rate']:9.1f} {floor['unit']}   ({floor['by']})")

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.result["rows"]

    def absent(self, peer: str, why: str) -> None:
        """Note a peer that cannot take part, and why."""
        self.result["absent"][peer] = why
        print(f"without {peer}: {why}")

    def found(self, peer: str, modules: Sequence[str], name: str) -> tuple[str, Callable[..., Any]] | None:
        """The first of the modules that has a function `name`, with that function; the others are noted as absent."""
        for module in modules:
            try:
                return module, getattr(importlib.import_module(module), name)
            except Exception as error:  # a wheel of another torch fails to load in many ways
                self.absent(f"{peer} ({module})", first_line(error))
        return None

    def slots(self, footprint: int) -> int:
        """How many copies of a call's data, `footprint` bytes of memory, are `CACHE_TURNS` times the last cache."""
        return max(1, math.ceil(CACHE_TURNS * self.cache / max(footprint, 1)))

    def run(self, cases: Iterable[Case]) -> None:
        """Measure the cases in turn. They may come from a generator that makes the data of a case when it is reached. A
        case that fails there ends the run, and `finish` says so."""
        for case in self._made(cases):
            if self.args.only and not any(text in case.name for text in self.args.only):
                continue
            if time.monotonic() - self.started > self.args.seconds:
                print(f"{case.name}: left out, the time of --seconds {self.args.seconds:g} is over")
                self.result["absent"][case.name] = f"left out: the time of --seconds {self.args.seconds:g} was over"
                continue
            contenders = [c for c in case.contenders if not any(text in c.name for text in self.args.without)]
            rows = self._measure(dataclasses.replace(case, contenders=contenders))
            self.rows.extend(rows)
            print(chart.table(case.name, rows), flush=True)
            self._save()

    def _made(self, cases: Iterable[Case]) -> Iterator[Case]:
        made = iter(cases)
        while True:
            try:
                case = next(made)
            except StopIteration:
                return
            except Exception as error:  # no memory for its data, or a peer has broken the GPU's context for good
                self.failed = True
                self.absent("the cases from here on", first_line(error))
                return
            yield case

    def finish(self) -> int:
        """Measure copying again and write the result. Returns 1 if a contender of ours failed or a case could not be
        made, else 0."""
        if "copy" in self.floors and not self.failed:
            self.result["copy_at_end"] = measure_floor("copy", self)["rate"]
        self.result["finished"] = not self.failed
        self._save()
        return int(self.failed or any(row["ours"] and row["error"] for row in self.rows))

    def _save(self) -> None:
        if self.args.json:
            write_json(self.args.json, self.result)
        if self.args.chart:
            self.args.chart.write_text(chart.draw(self.result))

    def _measure(self, case: Case) -> list[dict[str, Any]]:
        timings: dict[str, Timing] = {}
        errors: dict[str, str] = {}
        steps: dict[str, Step] = {}
        reference: tuple[str, list[np.ndarray]] | None = None
        # Ours come last: their results are compared with a peer's, and not the other way round.
        for contender in sorted(case.contenders, key=lambda contender: contender.ours):
            if self.args.progress:
                print(f"{case.name}: {contender.name}", flush=True)
            try:
                case.prepare()
                step = contender.make()
                output = samples(step(0))
                if case.tolerance is not None:
                    reference = reference or (contender.name, output)
                    compare(output, *reference, case.tolerance)
                del output
                if self.events and not case.turns:
                    timings[contender.name] = time_gpu(step, case.slots, self.rounds, contender.graph)
                else:
                    steps[contender.name] = step
            except Exception as error:  # a peer that cannot do this case must not end the run
                errors[contender.name] = first_line(error)
            if self.events:
                step = None  # type: ignore[assignment]  # frees its memory before the next contender needs some
                give_memory_back()
        if steps:
            steps = {contender.name: steps[contender.name] for contender in case.contenders if contender.name in steps}
            if self.events:
                graphs = {contender.name for contender in case.contenders if contender.graph}
                times, failed = take_turns(steps, case.slots, self.rounds, graphs)
            else:
                times, failed = time_cpu(steps, case.slots, self.rounds, self.shortest)
            timings |= times
            errors |= failed
        steps.clear()
        give_memory_back()
        return self._rows(case, timings, errors)

    def _rows(self, case: Case, timings: dict[str, Timing], errors: dict[str, str]) -> list[dict[str, Any]]:
        medians = {name: statistics.median(timing.microseconds) for name, timing in timings.items()}
        best_peer = min(
            (medians[c.name] for c in case.contenders if c.peer and not c.ours and c.name in medians), default=None
        )
        rows = []
        for contender in case.contenders:
            row: dict[str, Any] = {"case": case.name, "name": contender.name, "ours": contender.ours}
            timing, middle = timings.get(contender.name), medians.get(contender.name)
            counted = {"bytes": case.bytes, "flops": case.flops, "floor": case.floor if case.bytes + case.flops else ""}
            measured: dict[str, Any] = dict.fromkeys(
                ("microseconds", "fastest_microseconds", "rounds_microseconds", "method", "calls", "slots")
            )
            rates: dict[str, Any] = dict.fromkeys(
                ("gigabytes_per_second", "teraflops", "ratio_to_floor", "ratio_to_peer")
            )
            if timing is not None and middle is not None:
                measured = {
                    "microseconds": rounded(middle),
                    "fastest_microseconds": rounded(min(timing.microseconds)),
                    "rounds_microseconds": [rounded(value) for value in timing.microseconds],
                    "method": timing.method,
                    "calls": timing.calls,
                    "slots": case.slots,
                }
                if case.bytes:
                    rates["gigabytes_per_second"] = rounded(case.bytes / middle / 1e3)
                if case.flops:
                    rates["teraflops"] = rounded(case.flops / middle / 1e6)
                floor = self.floors.get(counted["floor"])
                if floor:
                    rate = rates["teraflops"] if floor["unit"] == "TFLOP/s" else rates["gigabytes_per_second"]
                    rates["ratio_to_floor"] = rounded(rate / floor["rate"])
                if best_peer is not None and (contender.ours or contender.peer):
                    rates["ratio_to_peer"] = rounded(best_peer / middle)
            rows.append(row | measured | counted | rates | {"error": errors.get(contender.name)})
        return rows


def give_memory_back() -> None:
    gc.collect()
    with contextlib.suppress(RuntimeError):  # an error of an earlier call, which is in its row
        torch.cuda.empty_cache()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for each shape that comes. Too many shapes are an error, and do not fall back to eager code."""
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = 64
    dynamo.fail_on_recompile_limit_hit = True
    return torch.compile(function, dynamic=False)


# The floor


def measure_floor(kind: str, session: Session) -> dict[str, Any]:
    """`{rate, unit, by, variants}` of the machine at the session's threads; `kind` is copy, update, read or gemm."""
    makers = {"copy": copies, "update": updates, "read": reads, "gemm": products}
    device, unit = session.device, "TFLOP/s" if kind == "gemm" else "GB/s"
    steps, work = makers[kind](session)
    if device.type == "cuda":
        timings = {name: time_gpu(step, 1, session.rounds, False) for name, step in steps.items()}
    else:
        timings, _ = time_cpu(steps, 1, session.rounds, session.shortest)
    scale = 1e6 if kind == "gemm" else 1e3
    rates = {name: rounded(work / statistics.median(t.microseconds) / scale) for name, t in timings.items()}
    by = max(rates, key=lambda name: rates[name])
    return {"rate": rates[by], "unit": unit, "by": by, "variants": rates}


def floor_elements(session: Session) -> int:
    """fp32 values in one array of a floor: 4 times the last cache, at least 128 MB (1 GB on a GPU)."""
    if session.args.smoke:
        return 1 << 16
    return max(CACHE_TURNS * session.cache, 1 << 30 if session.device.type == "cuda" else 1 << 27) // 4


def copies(session: Session) -> tuple[dict[str, Step], int]:
    source = torch.randn(floor_elements(session), device=session.device)
    target = torch.empty_like(source).fill_(1)
    steps: dict[str, Step] = {"torch copy_": lambda _: target.copy_(source)}
    if session.device.type == "cuda":
        steps["torch neg to another array"] = lambda _: torch.neg(source, out=target)
        from codeshell import _C
        from codeshell.ops import devices

        lacking = devices.missing(session.device, "copy/copy.cu")
        if lacking is not None:
            print(f"without codeshell's copy kernel: {lacking}")
        else:
            stream = torch.cuda.current_stream().cuda_stream
            arguments = source.data_ptr(), target.data_ptr(), 4 * source.numel(), stream
            steps["codeshell's copy kernel"] = lambda _: _C.copy_cuda(*arguments)
    else:
        pool = ThreadPoolExecutor(session.threads)
        parts = list(
            zip(
                np.array_split(target.numpy(), session.threads),
                np.array_split(source.numpy(), session.threads),
                strict=True,
            )
        )
        steps[f"memcpy on {session.threads} threads"] = lambda _: list(pool.map(lambda p: np.copyto(*p), parts))
    return steps, 8 * source.numel()


def updates(session: Session) -> tuple[dict[str, Step], int]:
    source = torch.randn(floor_elements(session), device=session.device)
    return {"torch neg_": lambda _: source.neg_()}, 8 * source.numel()


def reads(session: Session) -> tuple[dict[str, Step], int]:
    source = torch.randn(floor_elements(session), device=session.device)
    steps: dict[str, Step] = {
        "torch sum": lambda _: source.sum(),
        "torch amax": lambda _: source.amax(),
        "torch dot": lambda _: torch.dot(source, source),
    }
    return steps, 4 * source.numel()


def products(session: Session) -> tuple[dict[str, Step], int]:
    gpu = session.device.type == "cuda"
    n = 256 if session.args.smoke else 8192 if gpu else 2048
    dtypes = (torch.bfloat16,) if gpu else (torch.float32, torch.bfloat16)
    steps: dict[str, Step] = {}
    for dtype in dtypes:
        a, b = (torch.randn(n, n, device=session.device).to(dtype) for _ in range(2))
        steps[f"torch matmul {str(dtype).removeprefix('torch.')} {n}^3"] = lambda _, a=a, b=b: a @ b
    return steps, 2 * n**3


# Results


def samples(output: Any) -> list[np.ndarray]:
    """At most 32 values along each dimension of the tensors in `output`, as fp64."""
    if isinstance(output, torch.Tensor):
        part = output.detach()[tuple(slice(None, None, max(1, size // 32)) for size in output.shape)]
        return [part.double().cpu().numpy()]
    if isinstance(output, list | tuple):
        return [sample for item in list(output)[:8] for sample in samples(item)]
    return []


def compare(output: list[np.ndarray], name: str, reference: list[np.ndarray], tolerance: float) -> None:
    """Raises ArithmeticError where `output` is not `reference` (of contender `name`) within `tolerance`."""
    shapes, expected = [value.shape for value in output], [value.shape for value in reference]
    if shapes != expected:
        raise ArithmeticError(f"not the result of {name}: shapes {shapes}, expected {expected}")
    for value, right in zip(output, reference, strict=True):
        largest = max(float(np.abs(right).max(initial=0.0)), 1e-30)
        difference = float(np.abs(value - right).max(initial=0.0)) / largest
        if not difference <= tolerance:
            raise ArithmeticError(f"not the result of {name}: differs by {difference:.2g} of its largest value")


# The machine


def last_cache(device: torch.device) -> int:
    """Bytes of the GPU's L2, or of the CPU's last cache as the system reports it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(sizes, default=64 << 20)  # a virtual machine may report none, so this is more than most have


SMI = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu",
)  # fmt: skip


def device_facts(device: torch.device) -> dict[str, Any]:
    """What identifies the speed of a device: its name and caches; for a GPU also its driver and its present clocks."""
    if device.type == "cpu":
        return {"type": "cpu", "last_cache_bytes": last_cache(device)}
    properties = torch.cuda.get_device_properties(device)
    found: dict[str, Any] = {
        "type": "cuda",
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "last_cache_bytes": last_cache(device),
        "cuda": torch.version.cuda,
    }
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader", "-i", str(device.index or 0)]
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        found |= dict(zip(SMI, (value.strip() for value in line.split(",")), strict=False))
    return found


def rounded(value: float) -> float:
    """Five significant digits: more than a repetition can confirm."""
    return float(f"{value:.5g}")
