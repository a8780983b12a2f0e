"""Quarantine files: read line by line, and never trusted."""

import os

import pytest

from richsem_schemas.cache import quarantine
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import open_place

LINES = b'{"name": "a.jpg", "reason": "empty", "sample": 3}\n{"name": "b.jpg", "reason": "cut"}\n'
RECORDS = [{"name": "a.jpg", "reason": "empty", "sample": 3}, {"name": "b.jpg", "reason": "cut"}]


@pytest.mark.parametrize("where", ["file", "memory"])
def test_records_come_in_their_order(tmp_path, where):
    path = tmp_path / "q.jsonl" if where == "file" else open_place(f"memory://{tmp_path.name}/q.jsonl")
    path.write_bytes(LINES)
    assert list(read_quarantine(path)) == RECORDS


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"null", b'{"name": "a"}', b'{"reason": 1}', b"\xff", b"[" * 100_000], ids=range(7)
)
def test_other_lines_are_refused_with_their_file(tmp_path, line):
    path = tmp_path / "q.jsonl"
    path.write_bytes(LINES + line + b"\n")
    with pytest.raises(CorruptCacheError, match=r"q\.jsonl: a line"):
        list(read_quarantine(path))


def test_a_file_that_is_missing_or_none_is_no_quarantine(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in ("nothing", "fifo"):
        with pytest.raises(FileNotFoundError):
            list(read_quarantine(tmp_path / name))


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "MAX_BYTES", 10)
    (tmp_path / "q.jsonl").write_bytes(LINES)
    with pytest.raises(CorruptCacheError, match="at most 10"):
        list(read_quarantine(tmp_path / "q.jsonl"))
