"""Typed decoding reads what the standard library's parser reads, and says the same of what it refuses."""

import json
import random

import numpy as np
import pytest
from msgspec import Struct

from richsem_schemas.annotations import json_stream
from richsem_schemas.annotations.coco_file import read_coco_file
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError
from tests.schemas.annotations.coco_content import BROKEN, annotation, category, content, image, written


@pytest.fixture
def small_reads(monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 50)
    monkeypatch.setattr(json_stream, "_PIECE", 700)


def lvis_content(count=40, **changes):
    rng = random.Random(0)
    images = [
        image(
            n, neg_category_ids=[1, 2], not_exhaustive_category_ids=[] if n % 2 else [3], coco_url=f"http://x/é/{n}.jpg"
        )
        for n in range(count)
    ]
    annotations = [
        annotation(
            n,
            image_id=rng.randrange(count),
            category_id=rng.randint(1, 3),
            bbox=[rng.uniform(0, 30), rng.randint(0, 30), rng.uniform(1, 9), 2.5],
            area=rng.choice([None, 3, 4.5]),
            iscrowd=rng.choice([None, 0, 1]),
            segmentation=rng.choice([[[1.5, 2, 3, 4]], {"counts": [3, 4], "size": [2, 2]}]),
            attributes=rng.choice([[{"a": 1}, {"b": "}, {"}], "} , {", {"x": {"y": {}}}, '日本 \\ " ]']),
        )
        for n in range(count)
    ]
    categories = [category(n, f"c{n}", frequency="rcf"[n % 3]) for n in (1, 2, 3)]
    return content(images, annotations, categories) | changes


def arrays_of(found):
    fields = found.metric_fields
    arrays = [found.image_ids, found.hws_px, found.boxes.image_index, found.boxes.category_ids]
    arrays += [found.boxes.boxes_xywh, found.boxes.is_crowd]
    if fields is not None:
        arrays += [fields.areas, fields.are_ignored, *(fields.negative_ids or []), *(fields.not_exhaustive_ids or [])]
    return arrays


def outcome(path, metric, *, is_typed):
    try:
        return read_coco_file(path, metric=metric, is_typed=is_typed)
    except SourceError as error:
        return str(error)


def assert_read_alike(path, metric):
    typed, plain = (outcome(path, metric, is_typed=is_typed) for is_typed in (True, False))
    if isinstance(plain, str):
        assert typed == plain
        return
    for one, other in zip(arrays_of(typed), arrays_of(plain), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert typed.categories == plain.categories
    assert typed.problems == plain.problems
    for one, other in zip(typed.name_rules.values(), plain.name_rules.values(), strict=True):
        assert [one(index) for index in range(len(typed.image_ids))] == [other(i) for i in range(len(plain.image_ids))]


STRANGE = {
    "NaN": (30, "bbox", [1, float("nan"), 3, 4]),
    "infinity": (30, "bbox", [1, 2, float("inf"), 4]),
    "beyond float64": (30, "bbox", [1, 2, 10**400, 4]),
    "large integers": (30, "bbox", [1, 2, 10**30, 4]),
    "booleans": (30, "bbox", [True, 2, 3, 4]),
    "a flag as boolean": (30, "iscrowd", True),
    "a flag as text": (30, "iscrowd", "no"),
    "a null id": (30, "id", None),
    "a text id": (30, "id", "a7"),
    "a float id": (30, "image_id", 3.0),
    "an id of 64 bits": (30, "image_id", 2**63),
    "an id of 100 bits": (30, "id", 2**100),
    "an area as text": (30, "area", "large"),
    "no such picture": (30, "image_id", 12345),
}


@pytest.mark.parametrize("metric", [None, "coco", "lvis"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_typed_decoding_reads_the_same(tmp_path, small_reads, metric, indent, ascii_only):
    path = written(tmp_path, json.dumps(lvis_content(), indent=indent, ensure_ascii=ascii_only))
    assert_read_alike(path, metric)


@pytest.mark.parametrize("metric", [None, "coco", "lvis"])
@pytest.mark.parametrize("name", STRANGE)
def test_typed_decoding_reads_strange_values_the_same_or_says_the_same(tmp_path, small_reads, metric, name):
    position, key, value = STRANGE[name]
    dataset = lvis_content()
    dataset["annotations"][position][key] = value
    assert_read_alike(written(tmp_path, dataset), metric)


@pytest.mark.parametrize("metric", [None, "coco", "lvis"])
@pytest.mark.parametrize("name", BROKEN)
def test_typed_decoding_says_the_same_of_a_broken_file(tmp_path, small_reads, metric, name):
    assert_read_alike(written(tmp_path, BROKEN[name][0]), metric)


def test_typed_decoding_says_the_same_of_every_cut_and_flip(tmp_path, small_reads):
    data = json.dumps(lvis_content(count=6), ensure_ascii=False).encode()
    rng = random.Random(1)
    path = tmp_path / "annotations.json"
    for _ in range(300):
        position = rng.randrange(len(data))
        cut = data[:position] if rng.random() < 0.3 else data[:position] + rng.choice(b'{}[],:"0-e\xb8 ').to_bytes(1)
        path.write_bytes(cut if rng.random() < 0.3 else cut + data[position + 1 :])
        assert_read_alike(path, "lvis")


class Numbered(Struct):
    id: int


def test_most_records_are_decoded_by_their_type(tmp_path, small_reads):
    path = written(tmp_path, lvis_content())
    batches = list(stream_json(path, {"annotations": Numbered}))
    kinds = [type(record) for name, batch in batches if name == "annotations" for record in batch]
    assert len(kinds) == 40
    assert kinds.count(Numbered) > 20
    assert all(len({type(record) for record in batch}) <= 1 for _, batch in batches)


def test_a_number_of_5000_digits_is_named_by_its_record(tmp_path):
    text = json.dumps(content()).replace('"image_id": 1', '"image_id": ' + "9" * 5_000)
    with pytest.raises(SourceError, match=r"annotations\[0\] holds a number of more than 4,300 digits"):
        read_coco_file(written(tmp_path, text))


def test_wrong_json_is_named_by_its_record(tmp_path):
    text = json.dumps(content([image(1), image(2)])).replace('"id": 2', '"id": nought')
    with pytest.raises(SourceError, match=r"not a JSON file \(Expecting value in images\[1\]\)"):
        read_coco_file(written(tmp_path, text))


@pytest.mark.parametrize("image_id", [2**63, 9223372036854775817, -(2**63) - 1, 10**30])
def test_ids_beyond_64_bits_are_refused_with_the_range(tmp_path, image_id):
    with pytest.raises(
        SourceError, match=rf"images\[0\] must be an integer from -2\^63 to 2\^63 - 1; it is {image_id}"
    ):
        read_coco_file(written(tmp_path, content([image(image_id)])))


def test_the_smallest_and_the_largest_id_are_read(tmp_path):
    ids = [2**63 - 1, -(2**63)]
    dataset = content([image(n) for n in ids], [annotation(n, image_id=n) for n in ids])
    found = read_coco_file(written(tmp_path, dataset))
    assert found.image_ids.tolist() == ids
    assert found.boxes.image_index.tolist() == [0, 1]


def test_numbers_beyond_float64_are_refused_with_the_range(tmp_path):
    dataset = content(annotations=[annotation(area=10**400)])
    with pytest.raises(
        SourceError, match=r"`area` of annotations\[0\] must be a number of at most 1.8e308; it is 1000"
    ):
        read_coco_file(written(tmp_path, dataset), metric="coco")
    assert len(read_coco_file(written(tmp_path, dataset)).boxes) == 1, "only the metric needs areas"


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
@pytest.mark.parametrize(("value", "said"), [("absent", "none"), (None, "None"), (["a"], r"\['a'\]"), (3, "3")])
def test_what_lvis_metric_needs_of_pictures_is_required_where_it_scores(tmp_path, key, value, said):
    dataset = lvis_content()
    if value == "absent":
        del dataset["images"][17][key]
    else:
        dataset["images"][17][key] = value
    path = written(tmp_path, dataset)
    message = rf"`{key}` of images\[17\] must be a list of integers; it is {said}\. LVIS's metric needs it"
    with pytest.raises(SourceError, match=message):
        read_coco_file(path, metric="lvis")
    assert len(read_coco_file(path, metric="coco").image_ids) == 40
    assert len(read_coco_file(path).image_ids) == 40
