import json
import tracemalloc

import pytest

from richsem_schemas.annotations import json_stream
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError

VALUE = {
    "info": {"a": [1, 2, {"b": None}], "text": 'quotes " and \\ and 日本 \u2028'},
    "images": [{"id": n, "name": "ü" * (n % 5)} for n in range(20)],
    "numbers": [1, -2.5e10, 0.125, True, None, "x", [], {}],
    "empty": [],
    "count": 1234567,
}


def gathered(path):
    found = {}
    for name, batch in stream_json(path):
        found.setdefault(name, []).extend(batch)
    return found


@pytest.fixture
def small_reads(monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 3)
    monkeypatch.setattr(json_stream, "BATCH", 4)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_records_are_those_of_the_whole_file_however_it_is_cut_into_reads(tmp_path, small_reads, indent, ascii_only):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUE, indent=indent, ensure_ascii=ascii_only))
    expected = {key if isinstance(value, list) else key + "!": value for key, value in VALUE.items()}
    expected |= {key: [value] for key, value in expected.items() if key.endswith("!")}
    assert gathered(path) == expected


def test_a_file_that_is_one_list_has_no_name(tmp_path, small_reads):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps(VALUE["images"]) + "\n")
    assert gathered(path) == {"": VALUE["images"]}


def test_every_cut_is_said(tmp_path):
    path = tmp_path / "a.json"
    data = json.dumps(VALUE, ensure_ascii=False).encode()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError, match="not a JSON file"):
            gathered(path)


@pytest.mark.parametrize(
    "text", ["[1 2]", "[1,,2]", "[1,]x", '{"a" 1}', "{1: 2}", '{"a": [}', "[1] [2]", "nul", "[tru, 1]"]
)
def test_what_is_no_json_is_said(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(SourceError, match="not a JSON file"):
        gathered(path)


def test_a_record_without_end_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_RECORD", 10_000)
    monkeypatch.setattr(json_stream, "_CHUNK", 1_000)
    path = tmp_path / "a.json"
    path.write_text('["' + "a" * 50_000 + '"]')
    with pytest.raises(SourceError, match="more than 10,000 characters"):
        gathered(path)


def test_wrong_json_ends_at_once_and_not_at_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_RECORD", 10_000)
    path = tmp_path / "a.json"
    path.write_text('[{"a": oops' + " " * 3_000_000 + "]")
    with pytest.raises(SourceError, match="Expecting value"):
        gathered(path)


def test_memory_is_that_of_a_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 2**16)
    monkeypatch.setattr(json_stream, "_BATCH_CHARACTERS", 2**16)
    path = tmp_path / "a.json"
    record = json.dumps({"id": 1, "segmentation": [[7] * 1_000]})
    with path.open("w") as file:
        file.write('{"annotations": [' + ",".join([record] * 1_000) + "]}")
    assert path.stat().st_size > 3e6
    tracemalloc.start()
    count = sum(len(batch) for _, batch in stream_json(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1_000
    assert peak < 2e6  # all at once take 3 MB of text and 8 MB of objects
