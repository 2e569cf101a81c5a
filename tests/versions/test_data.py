"""The data side with these versions of NumPy, pandas and pyarrow: frames, files, and NumPy's way to torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from codeshell.dedup import deduplicate, find_duplicates

pd = pytest.importorskip("pandas")

TEXTS = [f"def f{i}(x):\n    return [x + {i} * y for y in range({i}, x)]  # {'word ' * i}\n" for i in range(30)]
COPIES = [*TEXTS, TEXTS[3], TEXTS[7] + " "]


def test_frames_become_arrow_and_back():
    frame = pd.DataFrame({"text": COPIES, "n": np.arange(len(COPIES))})
    table = pa.Table.from_pandas(frame)
    assert table.column("text").to_pylist() == COPIES
    assert table.to_pandas().equals(frame)


def test_duplicates_of_a_frame():
    frame = pd.DataFrame({"text": COPIES, "n": np.arange(len(COPIES))}, index=[f"row {i}" for i in range(len(COPIES))])
    kept = deduplicate(frame, column="text")
    assert isinstance(kept, pd.DataFrame) and list(kept.columns) == ["text", "n"]
    assert 0 < len(kept) < len(COPIES) and set(kept["text"]) <= set(COPIES)
    assert kept.equals(frame.loc[kept.index])
    table = pa.table({"text": COPIES})
    assert deduplicate(table, column="text").column("text").to_pylist() == kept["text"].tolist()
    pairs = find_duplicates(COPIES)
    assert pairs.num_rows == len(COPIES) - len(kept)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_the_command(tmp_path, suffix):
    source, out = tmp_path / f"in.{suffix}", tmp_path / "out"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": COPIES}), source)
    else:
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in COPIES))
    command = [sys.executable, "-m", "codeshell", "dedup", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_numpy_and_torch():
    from codeshell import ops
    from codeshell.randomness import draw

    assert draw(1, "x") == draw(1, "x")
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(torch.from_numpy(array).numpy(), array)
    generator = np.random.default_rng(0)
    q, k, v = (torch.from_numpy(generator.standard_normal((1, 9, 2, 16), dtype=np.float32)) for _ in range(3))
    want = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)
    assert float((ops.attention(q, k, v) - want.transpose(1, 2)).abs().max()) < 1e-5
