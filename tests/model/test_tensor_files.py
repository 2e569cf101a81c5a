"""Safetensors written piece by piece are those of the library, and parts make whole tensors or are refused."""

from __future__ import annotations

import errno
import hashlib
import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM, tensor_files
from codeshell.model.tensor_files import ROWS, Layout, TensorFileError, TensorParts, TensorWriter, part_name, part_names

DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
TENSORS = st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), st.tuples(st.sampled_from(DTYPES), SHAPES))


def made(dtype: torch.dtype, shape: tuple[int, ...], salt: int = 0) -> torch.Tensor:
    count = 1
    for length in shape:
        count *= length
    return ((torch.arange(count) + salt) % 120).to(dtype).view(shape)


def layout(tensor: torch.Tensor) -> Layout:
    return Layout(tensor.dtype, tuple(tensor.shape))


def write(path: Path, tensors: dict[str, torch.Tensor], rows: dict[str, list[int]] | None = None) -> None:
    metadata = {"format": "pt"} | ({ROWS: json.dumps(rows)} if rows else {})
    with TensorWriter(path, {name: layout(tensor) for name, tensor in tensors.items()}, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TENSORS, st.randoms())
def test_the_bytes_are_those_of_the_library_in_any_order_of_writing(tmp_path, kinds, chance):
    tensors = {name: made(*kind, salt) for salt, (name, kind) in enumerate(kinds.items())}
    names = list(tensors)
    chance.shuffle(names)
    write(tmp_path / "ours", {name: tensors[name] for name in names})
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    # And the library reads what we write.
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(tmp_path / "ours").items())


def test_a_checksum_sees_every_byte_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "CHUNK", 64)
    tensors = {"a": torch.randn(50, 3), "b": torch.randn(7).bfloat16(), "step": torch.tensor(3.0)}
    hasher = hashlib.sha256()
    kinds = {name: layout(tensor) for name, tensor in tensors.items()}
    with TensorWriter(tmp_path / "file", kinds, None, hasher.update) as writer:
        for name in writer.names:
            writer.write(name, tensors[name])
        writer.flush()
    data = (tmp_path / "file").read_bytes()
    assert hasher.hexdigest() == hashlib.sha256(data).hexdigest() and writer.nbytes == len(data)


def test_tensors_with_strides_are_written_by_their_rows(tmp_path):
    turned = torch.arange(12.0).view(3, 4).t()
    write(tmp_path / "file", {"turned": turned})
    assert torch.equal(load_file(tmp_path / "file")["turned"], turned)


def test_a_tensor_that_was_announced_and_not_written_is_a_fault(tmp_path):
    kinds = dict.fromkeys("ab", Layout(torch.float32, (2,)))
    with pytest.raises(AssertionError, match="b was not written"), TensorWriter(tmp_path / "file", kinds) as writer:
        writer.write("a", torch.zeros(2))


def test_the_error_of_a_full_disk_has_its_number():
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OSError) as error:
        TensorWriter(device, {})
    assert error.value.errno == errno.ENOSPC


def cut(directory: Path, tensors: dict[str, torch.Tensor], borders: list[int]) -> list[str]:
    """Write parts with the rows between these borders, each tensor's own as far as it has them."""
    names = []
    for part, (low, high) in enumerate(zip([0, *borders], [*borders, 1 << 30], strict=True)):
        pieces, rows = {}, {}
        for name, tensor in tensors.items():
            if tensor.dim() == 0:
                if part == 0:
                    pieces[name] = tensor
            elif low < len(tensor):
                pieces[name] = tensor[low:high].contiguous()
                rows[name] = [low, len(tensor)]
        names.append(part_name("model", part, len(borders) + 1))
        write(directory / names[-1], pieces, rows)
    return names


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), max_size=3, unique=True).map(sorted), st.integers(0, 9), st.integers(0, 9))
def test_any_rows_of_any_parts_are_those_of_the_whole(tmp_path, borders, first, last):
    tensors = {
        "w": torch.randn(9, 2),
        "b": torch.randn(9).bfloat16(),
        "short": torch.randn(2, 1),
        "s": torch.tensor(2.0),
    }
    names = cut(tmp_path, tensors, borders)
    parts = TensorParts(tmp_path, names[::-1])
    assert parts.layouts == {name: layout(tensor) for name, tensor in sorted(tensors.items())}
    first, last = min(first, last), max(first, last)
    for name in ("w", "b"):
        assert torch.equal(parts.read(name, first, last), tensors[name][first:last])
        target = torch.full((last - first, *tensors[name].shape[1:]), -1.0, dtype=torch.float64)
        parts.read_into(name, target, first)
        assert torch.equal(target, tensors[name][first:last].double())
    assert all(torch.equal(parts.read(name), tensors[name]) for name in tensors)
    for path in tmp_path.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"w": [0, 4]}, {"w": [3, 4]}], "do not make one tensor of 4 rows"),  # a gap
        ([{"w": [0, 4]}, {"w": [1, 4]}], "do not make one tensor"),  # an overlap
        ([{"w": [0, 5]}, {"w": [2, 5]}], "do not make one tensor of 5 rows"),  # the end is missing
        ([{"w": [0, 4]}, {"w": [2, 5]}], "do not make one tensor"),  # two lengths
        ([{"w": [0, 4]}, {}], "do not make one tensor"),  # a part and a whole
        ([{"w": [-1, 4]}, {"w": [2, 4]}], "rows of w are beyond the tensor"),
        ([{"w": [0, 4]}, {"w": [3, 4], "x": [0, 1]}], "rows of tensors that are not in it"),
        ([{"w": [0, 4]}, {"w": ["2", 4]}], "rows of w are beyond the tensor"),
        ([{"w": [0, 4]}, {"w": 2}], "model.part-00002"),
        ([{"w": [0, 4]}, [1]], "rows of tensors that are not in it"),
    ],
)
def test_parts_that_make_no_whole_tensor_are_refused(tmp_path, rows, words):
    names = []
    for part, these in enumerate(rows):
        names.append(part_name("model", part, 2))
        write(
            tmp_path / names[-1], {"w": torch.zeros(1 if words.startswith("do not make one tensor of 4") else 2)}, these
        )
    with pytest.raises(TensorFileError, match=words) as error:
        TensorParts(tmp_path, names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(64),
        struct.pack("<Q", 64) + b'{"w":{"dtype":"I8","shape":[2],"data_offsets":[0,1]}}'.ljust(64) + b"x",
        struct.pack("<Q", 64) + b'{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'.ljust(64) + b"x",
    ],
)
def test_what_is_no_safetensors_is_one_line(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(TensorFileError, match=r"model\.safetensors: ") as error:
        TensorParts(tmp_path, ["model.safetensors"])
    assert "\n" not in str(error.value)


def test_a_set_of_parts_is_whole_or_refused(tmp_path):
    assert part_names(tmp_path, "model") == []
    names = cut(tmp_path, {"w": torch.zeros(3)}, [1, 2])
    assert part_names(tmp_path, "model") == names and part_names(tmp_path, "optimizer") == []
    (tmp_path / part_name("model", 0, 2)).touch()
    with pytest.raises(TensorFileError, match="parts of more than one set"):
        part_names(tmp_path, "model")
    (tmp_path / part_name("model", 0, 2)).unlink()
    (tmp_path / names[1]).unlink()
    with pytest.raises(TensorFileError, match=r"model\.part-00002-of-00003\.safetensors is missing"):
        part_names(tmp_path, "model")


def test_a_model_in_parts_is_loaded_and_a_damaged_one_refused(tmp_path):
    config = CodeShellConfig(vocab_size=9, n_positions=8, n_embd=16, n_layer=1, n_head=4, num_query_groups=1, n_inner=7)
    model = CodeShellForCausalLM(config)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    names = cut(tmp_path, tensors, [2, 5])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    loaded = CodeShellForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(parameter, tensors[name]) for name, parameter in loaded.named_parameters())
    (tmp_path / names[2]).unlink()
    with pytest.raises(UserError, match=r"a damaged checkpoint: model\.part-00003-of-00003\.safetensors is missing"):
        CodeShellForCausalLM.from_pretrained(tmp_path)
