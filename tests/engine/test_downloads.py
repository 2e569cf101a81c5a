"""What is in place of a downloaded file, and the remedy."""

from __future__ import annotations

import gzip

import pytest

from codeshell.engine.downloads import fault, read_downloaded_json
from codeshell.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "Git LFS pointer.*git lfs pull"),
        (POINTER.replace(b"\n", b"\r\n"), "Git LFS pointer"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML><title>Sign in</title>", "web page.*download it again"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "answer of the server"),
        (b"", "empty; download it again"),
        (b"\0" * 4096, "nothing but zeros; download it again"),
        (gzip.compress(b"{}"), "compressed with gzip; decompress it"),
        (b'{"a": ', "not valid JSON .*download it again"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8; download it again"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_the_fault_and_its_remedy(tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_downloaded_json(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and "run again" not in str(caught.value)


def test_a_byte_order_mark_costs_nothing(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_downloaded_json(tmp_path / "a.json") == {"a": 1}


def test_a_file_whose_beginning_tells_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    assert fault(tmp_path / "a") is None
    assert "cannot be read" in str(fault(tmp_path / "gone"))
