import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io import sealed_json
from richsem_schemas.io.canonical_json import canonical_json, json_sha256, parse_json
from richsem_schemas.io.files import temporary_path, write_atomically
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json

VALUE = {
    "name": 'größe\n"quoted" \\ \udcff',
    "count": 14_000_000,
    "seconds": {"read": 0.25, "write": 1e-05, "most": 1.5e300},
    "shards": [{"shard": 0, "bytes": 2**62}, {"shard": 1, "bytes": -1}],
    "limit": None,
    "done": True,
}


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.json"
    write_sealed_json(path, VALUE)
    return path


def test_it_reads_back_what_was_written(sealed):
    assert read_sealed_json(sealed) == VALUE


WHOLE_NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1)
FRACTIONS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda key: key != "checksum"),
        st.recursive(
            st.none() | st.booleans() | WHOLE_NUMBERS | FRACTIONS | st.text(),
            lambda children: st.lists(children) | st.dictionaries(st.text(max_size=8), children),
            max_leaves=10,
        ),
        max_size=5,
    )
)
def test_any_json_object_reads_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("sealed") / "a.json"
    write_sealed_json(path, value)
    assert read_sealed_json(path) == value


def test_the_file_is_json_with_one_line_a_field_and_the_checksum_last(sealed):
    lines = sealed.read_text("ascii").splitlines()
    assert json.loads(sealed.read_bytes()).keys() == VALUE.keys() | {"checksum"}
    assert (lines[0], lines[-1]) == ("{", "}")
    assert [line.split(":")[0] for line in lines[1:-1]] == [*(f'"{key}"' for key in sorted(VALUE)), '"checksum"']


def test_the_checksum_is_the_sha256_of_the_canonical_form(sealed):
    spelled = json.dumps(VALUE, sort_keys=True, separators=(",", ":")).encode()
    assert canonical_json(VALUE) == spelled
    assert json_sha256(VALUE) == hashlib.sha256(spelled).hexdigest()
    assert json.loads(sealed.read_bytes())["checksum"] == json_sha256(VALUE)


def test_the_order_of_the_fields_does_not_count(tmp_path, sealed):
    write_sealed_json(tmp_path / "b.json", dict(reversed(VALUE.items())))
    assert (tmp_path / "b.json").read_bytes() == sealed.read_bytes()


def test_numbers_that_are_none_are_not_written(tmp_path):
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_sealed_json(tmp_path / "a.json", {"a": number})
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_found(sealed):
    data = sealed.read_bytes()
    for length in range(len(data)):
        sealed.write_bytes(data[:length])
        with pytest.raises(CorruptCacheError, match=r"a\.json"):
            read_sealed_json(sealed)


def test_every_byte_replaced_by_any_other_is_found(sealed, monkeypatch):
    data = sealed.read_bytes()
    damaged = bytearray(data)
    monkeypatch.setattr(sealed_json, "read_file", lambda path, limit: bytes(damaged))
    for position, byte in enumerate(data):
        for other in range(256):
            if other == byte:
                continue
            damaged[position] = other
            with pytest.raises(CorruptCacheError, match=r"a\.json"):
                read_sealed_json(sealed)
        damaged[position] = byte


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data + b" ",
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b": ", b":"),
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(b'"done"', b'"more": 1,\n"done"'),
        lambda data: data.replace(b'"done": true', b'"done": true,\n"done": true'),
        lambda data: data.replace(b'"count": 14000000', b'"count": 14000000.0'),
    ],
)
def test_other_spellings_and_additions_are_found(sealed, change):
    data = sealed.read_bytes()
    assert change(data) != data
    sealed.write_bytes(change(data))
    with pytest.raises(CorruptCacheError, match="anew"):
        read_sealed_json(sealed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b'{"checksum": 3}',
        b'{"a": NaN, "checksum": "x"}',
        b'{"a": -Infinity, "checksum": "x"}',
        b'{"a": 1e999, "checksum": "x"}',
        b'{"a": ' + b"9" * 5_000 + b', "checksum": "x"}',
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b', "checksum": "x"}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "checksum": "x"}',
        b"\x80\x04\x95",
        bytes(1_000),
    ],
)
def test_hostile_content_is_a_corrupt_cache(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(CorruptCacheError, match=r"a\.json"):
        read_sealed_json(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_sealed_json(path, {"a": "x" * 200})
    monkeypatch.setattr(sealed_json, "MAX_JSON_BYTES", 100)
    with pytest.raises(CorruptCacheError):
        read_sealed_json(path)


def test_a_missing_file_is_told_from_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sealed_json(tmp_path / "a.json")


def test_writing_replaces_what_was_there_and_makes_the_folder(tmp_path):
    path = tmp_path / "x" / "y" / "a"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in path.parent.iterdir()] == ["a"]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    write_atomically(path, b"old")
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_content_is_fsynced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    def replace(source, target):
        steps.append("rename")
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(tmp_path / "a", b"x")
    assert steps == ["file", "rename", "folder"]


def test_temporary_names_are_hidden_beside_the_file_and_never_the_same():
    paths = {temporary_path(Path("/x/a.tar")) for _ in range(50)}
    assert len(paths) == 50
    for path in paths:
        assert path.parent == Path("/x")
        assert path.name.startswith(".a.tar.")
        assert path.suffix == ".tmp"


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**30, 10**4_000])
def test_numbers_that_no_field_holds_are_neither_written_nor_read(tmp_path, number):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="doesn't fit 64 bits"):
        write_sealed_json(path, {"a": [number]})
    assert not path.exists()
    # A forger seals it all the same.
    path.write_bytes(sealed_json._spelling({"a": [number]}, json_sha256({"a": [number]})))
    with pytest.raises(CorruptCacheError, match=r"a\.json: damaged .*doesn't fit 64 bits.*restore it") as caught:
        read_sealed_json(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_json_nested_without_end_is_no_json():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(b"[" * 1_000_000)
