"""Time to save and load a training's checkpoint on this machine, in one process.

    python benchmarks/checkpoints.py --json benchmarks/results/checkpoints.json

The model has 110 million parameters in fp32 with its two moments: 1.3 GB. In turns, round by round, with an fsync in
each: the time for which `Saver.begin` blocks the training and the time until the checkpoint is in place; `save`, which
blocks until then; what codeshell did before (save_file, then SHA-256 of the files); torch.save of the same tensors; and
torch's distributed checkpoint in safetensors. Then `read_state`, which checks all bytes, and `load`. Each contender's
seconds are wall time and the time of all its threads on the processor; the disk's share is the difference. The speeds
of XXH3-128 and SHA-256 are over one tensor in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import save_file

from codeshell.engine.files import write_json
from codeshell.engine.memory import keep_large_blocks
from codeshell.environment import environment, usable_cores
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.optim import AdamW
from codeshell.train import checkpoints, manifest, shards
from codeshell.train.checkpoints import Saver, State


def made(smoke: bool) -> tuple[CodeShellForCausalLM, AdamW]:
    """A model and its optimizer after one update."""
    width, layers, rows = (64, 2, 512) if smoke else (768, 12, 32_000)
    shape = {"n_embd": width, "n_layer": layers, "n_head": width // 32, "num_query_groups": width // 32}
    model = CodeShellForCausalLM(CodeShellConfig(vocab_size=rows, n_positions=1024, **shape))
    optimizer = AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def spent() -> tuple[float, float]:
    """Wall seconds, and seconds of this process's threads on the processor."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), use.ru_utime + use.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary one")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT", help="no contender with TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, which tests the benchmark")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_large_blocks()  # as the trainer does
    model, optimizer = made(args.smoke)
    home = Path(tempfile.mkdtemp(dir=args.folder))
    steps = iter(range(1, 1 << 30))

    def tensors() -> dict[str, torch.Tensor]:
        return shards.model_tensors(model) | shards.optimizer_tensors(model, optimizer)

    def blocking(root: Path) -> None:
        checkpoints.save(root, State(step=next(steps)), model, optimizer)

    def earlier(root: Path) -> None:
        root.mkdir()
        save_file(shards.model_tensors(model), root / "model.safetensors")
        save_file(shards.optimizer_tensors(model, optimizer), root / "optimizer.safetensors")
        for path in root.iterdir():
            manifest.digest(path, "sha256")
        manifest.flush_directory(root)

    def torch_save(root: Path) -> None:
        root.mkdir()
        torch.save(tensors(), root / "all.pt")
        manifest.flush_directory(root)

    def distributed(root: Path) -> None:
        import torch.distributed.checkpoint as dcp

        writer = dcp.HuggingFaceStorageWriter(str(root), save_distributed=True)
        dcp.save(tensors(), storage_writer=writer, no_dist=True)
        manifest.flush_directory(root)

    contenders: dict[str, Callable[[Path], None]] = {
        "save": blocking,
        "before: save_file, SHA-256": earlier,
        "torch.save": torch_save,
        "torch DCP, safetensors": distributed,
    }
    contenders = {name: work for name, work in contenders.items() if not any(text in name for text in args.without)}
    seconds: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        before = spent()
        result = work()
        after = spent()
        seconds.setdefault(name, []).append((after[0] - before[0], after[1] - before[1]))
        return result

    try:
        for number in range(args.rounds):
            saves = Saver(home / f"background-{number}")
            state = State(step=next(steps))
            path = timed(
                "Saver: begin to finish",
                lambda saves=saves, state=state: (
                    timed("Saver: begin, which blocks", lambda: saves.begin(state, model, optimizer)),
                    saves.finish(),
                )[1],
            )
            timed("read_state", lambda path=path: checkpoints.read_state(path))
            timed("load", lambda path=path: checkpoints.load(path, model, optimizer))
            size = sum(file.stat().st_size for file in path.iterdir())
            shutil.rmtree(path.parent)
            for name, work in contenders.items():
                timed(name, lambda work=work: work(home / "other"))
                shutil.rmtree(home / "other")
        block = torch.randn(1 << 12 if args.smoke else 1 << 26).numpy()
        rates = {}
        for name, hasher in {"XXH3-128": xxhash.xxh3_128, "SHA-256": hashlib.sha256}.items():
            best = min(_seconds(lambda hasher=hasher: hasher(block.data.cast("B")).digest()) for _ in range(5))
            rates[name] = round(block.nbytes / best / 1e9, 2)
    finally:
        shutil.rmtree(home)

    rows = []
    for name, rounds in seconds.items():
        wall, processor = (statistics.median(part) for part in zip(*rounds, strict=True))
        rows.append({"name": name, "seconds": round(wall, 3), "processor_seconds": round(processor, 3)})
        rows[-1]["rounds"] = [[round(value, 3) for value in one] for one in rounds]
        print(f"{name:28} {wall:8.3f} s  {processor:8.3f} s on the processor  {size / wall / 1e9:6.2f} GB/s")
    print(", ".join(f"{name} {rate} GB/s" for name, rate in rates.items()))
    if args.json:
        result = {"benchmark": "checkpoints", "environment": environment(0), "threads": args.threads}
        result |= {"parameters": model.num_parameters(), "bytes": size, "smoke": args.smoke}
        write_json(args.json, result | {"rows": rows, "gigabytes_per_second": rates})
    return 0


def _seconds(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(main())
