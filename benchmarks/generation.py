"""Tokens per second of one stream: codeshell with fp32, bf16 and int8 weights, and other programs with the same model.

    python benchmarks/generation.py --json generation-cpu.json
    python benchmarks/generation.py --gguf model-q8_0.gguf --gguf model-f16.gguf --model DIRECTORY

A model of about 100 million parameters is drawn and written in the Starcoder2 layout, which transformers reads; with
`--model` it is that of a directory. Each contender reads the same prompt and writes tokens greedily. In every round all
of them take their turn, so that a change of the machine's speed affects all; a turn is one answer of a single token and
one of `--tokens`, and the difference is the time of decoding. Medians, and every round is kept.

The floor of decoding is one read of the weights: their bytes over the rate at which torch reads an array that no cache
holds, measured in the same run. `same_tokens` counts the tokens from the first on that equal those of codeshell in
fp32; a model that was drawn has no opinions, so a small error changes its choice early.

Peers: transformers in fp32 and bf16, torch's dynamic quantisation (int8 weights and activations) and torchao's int8
weights on it, and llama.cpp through llama-cpp-python on the files of `codeshell export`, where they are installed.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import first_line

from codeshell.engine.files import write_json
from codeshell.environment import environment, usable_cores

LARGE = {"vocab_size": 32_768, "n_embd": 768, "n_layer": 11, "n_head": 12, "num_query_groups": 4, "n_positions": 2048}
SMOKE = {"vocab_size": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "num_query_groups": 2, "n_positions": 256}

Answer = Callable[[int], list[int]]
"""So many new tokens after the prompt."""


def ours(directory: Path, weights: str, prompt: list[int]) -> tuple[Answer, int]:
    """codeshell, and the bytes of its weights."""
    from codeshell.model.loading import load

    model = load(directory, weights)
    held = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    ids = torch.tensor([prompt])
    return lambda count: model.generate(ids, max_new_tokens=count)[0], sum(held.values())


def theirs(directory: Path, kind: str, prompt: list[int]) -> tuple[Answer, int]:
    """transformers, as it is or with int8 weights."""
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    if kind == "dynamic int8":
        from torch.ao.quantization import quantize_dynamic

        model = quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    if kind == "torchao int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model, Int8WeightOnlyConfig())
    held = {t.data_ptr(): t.nbytes for t in model.parameters()}
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)

    def answer(count: int) -> list[int]:
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
            )
        return out[0, len(prompt) :].tolist()

    return answer, sum(held.values())


def llama(file: Path, threads: int, prompt: list[int]) -> tuple[Answer, int]:
    """llama.cpp on a GGUF file."""
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answer(count: int) -> list[int]:
        model.reset()
        found: list[int] = []
        for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(token)
            if len(found) == count:
                break
        return found

    return answer, file.stat().st_size


def read_rate(threads: int, smoke: bool) -> float:
    """Bytes per second at which an array is read that is several times the last cache."""
    values = torch.ones((1 << 20) if smoke else (1 << 26))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - start)
    return values.nbytes / statistics.median(times)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(answer: Answer, count: int) -> tuple[float, float, list[int]]:
    """Wall and CPU seconds of an answer, and the answer."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    found = answer(count)
    return time.perf_counter() - wall, cpu_seconds() - cpu, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="DIR", help="in the Starcoder2 layout; default: one is drawn")
    parser.add_argument("--gguf", type=Path, action="append", default=[], metavar="FILE", help="for llama.cpp")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: all")
    parser.add_argument("--prompt", type=int, default=64, metavar="N", help="tokens of the prompt (default: 64)")
    parser.add_argument("--tokens", type=int, default=65, metavar="N", help="tokens of an answer (default: 65)")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only contenders with TEXT")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, which measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE")
    # `codeshell bench` gives the options that the benchmarks of kernels have.
    parser.add_argument("--device", choices=("cpu",), default="cpu", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        directory = args.model
        if directory is None:
            directory = Path(temporary) / "model"
            drawn(directory, SMOKE if args.smoke else LARGE)
        return measure(directory, args)


def drawn(directory: Path, shape: dict[str, int]) -> None:
    from codeshell.model import CodeShellConfig, CodeShellForCausalLM

    model = CodeShellForCausalLM(CodeShellConfig(**shape, bos_token_id=0, eos_token_id=0))
    model.reset_parameters(torch.Generator().manual_seed(0))
    model.save_pretrained(directory, layout="starcoder2")


def measure(directory: Path, args: argparse.Namespace) -> int:
    from codeshell.model.checkpoints import read_config

    config = read_config(directory)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(config.vocab_size, (args.prompt,), generator=generator).tolist()
    makers: dict[str, Callable[[], tuple[Answer, int]]] = {}
    for weights in ("fp32", "bf16", "int8"):
        makers[f"codeshell {weights}"] = lambda weights=weights: ours(directory, weights, prompt)
    for kind in ("fp32", "bf16", "dynamic int8", "torchao int8"):
        makers[f"transformers {kind}"] = lambda kind=kind: theirs(directory, kind, prompt)
    for file in args.gguf:
        makers[f"llama.cpp {file.stem}"] = lambda file=file: llama(file, args.threads, prompt)
    contenders: dict[str, Answer] = {}
    rows: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {} if args.gguf else {"llama.cpp": "no --gguf file of codeshell export was given"}
    answers: dict[str, list[int]] = {}
    for name, make in makers.items():
        if args.only and not any(text in name for text in args.only):
            continue
        try:
            contenders[name], held = make()
            # Warm: the first answer allocates and chooses algorithms.
            answers[name] = contenders[name](args.tokens)
        except Exception as error:  # a peer that is not installed, or does not take the model
            contenders.pop(name, None)
            absent[name] = first_line(error)
            print(f"without {name}: {absent[name]}")
            continue
        rows[name] = {"name": name, "ours": name.startswith("codeshell"), "weight_bytes": held, "rounds": []}
        gc.collect()
    rate = read_rate(args.threads, args.smoke)
    for _ in range(1 if args.smoke else args.rounds):
        for name, answer in contenders.items():
            one, cpu_one, _ = timed(answer, 1)
            all_, cpu_all, _ = timed(answer, args.tokens)
            steps = args.tokens - 1
            rows[name]["rounds"].append(
                {"first_seconds": one, "step_seconds": (all_ - one) / steps, "cpu_seconds": (cpu_all - cpu_one) / steps}
            )
    first = answers.get("codeshell fp32", [])
    for name, row in rows.items():
        step = statistics.median(one["step_seconds"] for one in row["rounds"])
        row["tokens_per_second"] = round(1 / step, 2)
        row["milliseconds_per_token"] = round(step * 1e3, 3)
        row["cpu_milliseconds_per_token"] = round(statistics.median(x["cpu_seconds"] for x in row["rounds"]) * 1e3, 3)
        row["first_token_milliseconds"] = round(statistics.median(x["first_seconds"] for x in row["rounds"]) * 1e3, 2)
        row["floor_milliseconds"] = round(row["weight_bytes"] / rate * 1e3, 3)
        pairs = zip(first, answers[name], strict=False)
        row["same_tokens"] = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(answers[name])))
        print(
            f"{name:28} {row['tokens_per_second']:8.1f} tokens/s  {row['milliseconds_per_token']:8.2f} ms "
            f"(CPU {row['cpu_milliseconds_per_token']:7.2f}, floor {row['floor_milliseconds']:6.2f})  first token "
            f"{row['first_token_milliseconds']:8.1f} ms  {row['weight_bytes'] / 1e6:7.1f} MB  same {row['same_tokens']}"
        )
    result = {
        "benchmark": "generation",
        "environment": environment(args.threads),
        "threads": args.threads,
        "smoke": args.smoke,
        "model": {"parameters": config_parameters(directory), **{key: getattr(config, key) for key in LARGE}},
        "prompt_tokens": args.prompt,
        "new_tokens": args.tokens,
        "read_gigabytes_per_second": round(rate / 1e9, 2),
        "absent": absent,
        "rows": list(rows.values()),
    }
    if args.json:
        write_json(args.json, result)
    return 0


def config_parameters(directory: Path) -> int:
    from codeshell.model import CodeShellForCausalLM
    from codeshell.model.checkpoints import read_config

    with torch.device("meta"):
        return CodeShellForCausalLM(read_config(directory)).num_parameters()


if __name__ == "__main__":
    sys.exit(main())
