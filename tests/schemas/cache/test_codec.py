import io
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richsem_schemas.cache.codec import MAX_HEADER_BYTES, RecordLayout, pack_view, stored_embeddings, unpack_view
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs, top_k_soft_labels
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.errors import CorruptCacheError

EMBEDDINGS = ("float16", "int8", "none")
MEMBER = "mosaic-3.npy"


def unit_features(regions, dim, seed=0):
    features = np.random.default_rng(seed).normal(size=(regions, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def sample_view(tiles, regions, seed=0):
    rng = np.random.default_rng(seed)
    tile_rows = np.zeros(tiles, TILE_DTYPE)
    tile_rows["sample"] = rng.integers(0, 1_024, tiles)
    tile_rows["source_xyxy_px"] = rng.uniform(0, 500, (tiles, 4))
    tile_rows["paste_xyxy_px"] = rng.integers(0, 1_280, (tiles, 4))
    tile_rows["flip"] = rng.integers(0, 2, tiles)
    region_rows = np.zeros(regions, REGION_DTYPE)
    region_rows["box_xyxy_px"] = rng.uniform(0, 1_280, (regions, 4))
    region_rows["tile"] = rng.integers(0, max(tiles, 1), regions)
    region_rows["category_id"] = rng.integers(0, 1_204, regions)
    region_rows["annotation"] = rng.integers(-1, 300, regions)
    region_rows["noise_scale"] = rng.uniform(0, 2, regions)
    return View("mosaic", 3, (1_280, 960), tile_rows, region_rows)


def sample_labels(regions, top_k, seed=0):
    log_probs = np.random.default_rng(seed).normal(size=(regions, top_k + 5))
    return top_k_soft_labels(log_probs - np.log(np.exp(log_probs).sum(axis=1, keepdims=True)), top_k=top_k)


def packed(embeddings="float16", tiles=4, regions=4, dim=32, top_k=5, seed=0):
    layout = RecordLayout(embeddings, dim, top_k)
    view, features = sample_view(tiles, regions, seed), unit_features(regions, dim, seed)
    return pack_view(view, features, sample_labels(regions, top_k, seed), layout)


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("tiles", [1, 2, 3, 4])
@pytest.mark.parametrize("regions", range(7))
def test_a_view_reads_back_as_it_was_packed(embeddings, tiles, regions):
    layout = RecordLayout(embeddings, 32, 5)
    view, features = sample_view(tiles, regions), unit_features(regions, 32)
    labels = sample_labels(regions, 5)
    found = unpack_view(pack_view(view, features, labels, layout), view.member)
    assert (found.view.kind, found.view.pass_index, found.view.canvas_hw) == ("mosaic", 3, (1_280, 960))
    assert found.view.tiles.tobytes() == view.tiles.tobytes()
    assert found.view.regions.tobytes() == view.regions.tobytes()
    assert found.view.tiles.dtype == TILE_DTYPE
    assert found.view.regions.dtype == REGION_DTYPE
    assert np.array_equal(found.labels.class_ids, labels.class_ids)
    assert np.array_equal(found.labels.log_probs, labels.log_probs)
    assert np.array_equal(found.labels.log_rest, labels.log_rest)
    assert found.labels.class_ids.dtype == np.int32
    assert found.labels.log_probs.dtype == np.float16
    assert found.labels.log_rest.dtype == np.float32
    if embeddings == "none":
        assert found.embeddings is None
    else:
        assert found.embeddings.dtype == np.float32
        assert np.array_equal(found.embeddings, stored_embeddings(features, embeddings))


@settings(max_examples=40, deadline=None)
@given(
    embeddings=st.sampled_from(EMBEDDINGS),
    tiles=st.integers(0, 6),
    regions=st.integers(0, 9),
    dim=st.integers(1, 70),
    top_k=st.integers(1, 70),
    seed=st.integers(0, 1_000),
)
def test_any_layout_reads_back(embeddings, tiles, regions, dim, top_k, seed):
    layout = RecordLayout(embeddings, dim, top_k)
    view, features = sample_view(tiles, regions, seed), unit_features(regions, dim, seed)
    data = pack_view(view, features, sample_labels(regions, top_k, seed), layout)
    assert len(data) % 8 == 0
    found = unpack_view(data, MEMBER)
    again = RecordLayout(embeddings, dim, top_k)
    repacked = pack_view(found.view, features, found.labels, again)
    assert repacked == data


def test_memoryviews_read_as_bytes_do():
    data = packed()
    found = unpack_view(memoryview(bytearray(b"x" + data))[1:], MEMBER)
    assert np.array_equal(found.embeddings, unpack_view(data, MEMBER).embeddings)


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize(("dim", "top_k"), [(1_024, 64), (32, 5), (7, 3), (1, 1)])
def test_plain_numpy_reads_the_documented_fields_without_gaps(embeddings, dim, top_k):
    record = np.load(io.BytesIO(packed(embeddings, 4, 3, dim, top_k)), allow_pickle=False)
    assert record.shape == ()
    assert record.dtype.names == ("canvas_hw", "tiles", "regions")
    expected = [
        "box_xyxy_px",
        "tile",
        "category_id",
        "annotation",
        "noise_scale",
        "log_rest",
        "class_ids",
        "log_probs",
        "embedding",
    ]
    if embeddings == "int8":
        expected.insert(5, "scale")
    if embeddings == "none":
        expected.remove("embedding")
    region = record.dtype["regions"].base
    assert [name for name in region.names if name != "pad"] == expected
    assert region.names[-1] == "pad" or "pad" not in region.names
    for dtype in (record.dtype, record.dtype["tiles"].base, region):
        sizes = [dtype[name].itemsize for name in dtype.names]
        offsets = [dtype.fields[name][1] for name in dtype.names]
        assert offsets == [sum(sizes[:index]) for index in range(len(sizes))]
        assert dtype.itemsize == sum(sizes)
        assert dtype.itemsize % 8 == 0
    items = [region[name].base.itemsize for name in region.names]
    assert items == sorted(items, reverse=True)
    assert not record.dtype.hasobject
    assert region["class_ids"].shape == (top_k,)
    assert {str(region[name].base.byteorder) for name in region.names} <= {"=", "<", "|"}


def test_a_region_costs_the_bytes_that_the_design_states():
    assert RecordLayout("float16", 1_024, 1).region_dtype()["embedding"].itemsize == 2_048
    assert RecordLayout("float16", 1_024, 64).region_dtype().itemsize == 32 + 4 + 64 * 6 + 2_048 + 4
    assert RecordLayout("int8", 1_024, 64).region_dtype().itemsize == 32 + 4 + 4 + 64 * 6 + 1_024
    assert RecordLayout("none", 1_024, 64).region_dtype().itemsize == 32 + 4 + 64 * 6 + 4


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
def test_the_same_view_packs_to_the_same_bytes(embeddings):
    assert packed(embeddings) == packed(embeddings)


@pytest.mark.parametrize("embeddings", ["float16", "int8"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_stored_embeddings_are_exactly_what_is_read_back(embeddings, dtype):
    features = unit_features(6, 97).astype(dtype)
    features[1] = 0
    features[2] *= 1e-4
    features[3, 0] = 5
    data = pack_view(sample_view(1, 6), features, sample_labels(6, 3), RecordLayout(embeddings, 97, 3))
    assert unpack_view(data, MEMBER).embeddings.tobytes() == stored_embeddings(features, embeddings).tobytes()


def test_labels_regenerate_exactly_from_what_is_read_back():
    features, text = unit_features(4, 64), unit_features(50, 64, seed=1)
    for embeddings in ("float16", "int8"):
        stored = stored_embeddings(features, embeddings)
        labels = top_k_soft_labels(class_log_probs(stored, text, logit_scale=100), top_k=5)
        data = pack_view(sample_view(4, 4), features, labels, RecordLayout(embeddings, 64, 5))
        found = unpack_view(data, MEMBER)
        again = top_k_soft_labels(class_log_probs(found.embeddings, text, logit_scale=100), top_k=5)
        assert again.log_probs.tobytes() == found.labels.log_probs.tobytes()
        assert again.class_ids.tobytes() == found.labels.class_ids.tobytes()


def test_without_embeddings_labels_are_those_of_float16():
    features = unit_features(3, 16)
    assert np.array_equal(stored_embeddings(features, "none"), features.astype(np.float16).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(dim=st.integers(1, 300), seed=st.integers(0, 10_000), factor=st.sampled_from([1e-3, 1.0, 50.0]))
def test_int8_is_within_half_a_step_of_the_largest_component(dim, seed, factor):
    features = unit_features(3, dim, seed) * np.float32(factor)
    error = np.abs(stored_embeddings(features, "int8").astype("f8") - features.astype("f8"))
    step = np.abs(features.astype("f8")).max(axis=1, keepdims=True) / 127
    assert (error <= 0.5001 * step).all()


def test_a_zero_embedding_stays_zero_in_int8():
    assert not stored_embeddings(np.zeros((2, 8), np.float32), "int8").any()
    assert stored_embeddings(np.zeros((0, 8), np.float32), "int8").shape == (0, 8)


# --- damage ---------------------------------------------------------------------------------------------------------


def refuse(data, member=MEMBER):
    with pytest.raises(CorruptCacheError, match="not a packed view") as caught:
        unpack_view(data, member)
    assert len(str(caught.value)) < 2 * MAX_HEADER_BYTES
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
@pytest.mark.parametrize("regions", [0, 2])
def test_every_truncation_is_refused(embeddings, regions):
    data = packed(embeddings, 2, regions, dim=8, top_k=3)
    for length in range(len(data)):
        refuse(data[:length])


def test_bytes_too_many_are_refused():
    refuse(packed() + b"\0")
    refuse(packed() * 2)


def test_the_member_must_be_a_views():
    for member in ("jpg", "mosaic-3.pyd", "mosaic-x.npy", "", "../mosaic-3.npy"):
        refuse(packed(), member)


def npy(header):
    header = header.encode("latin1") if isinstance(header, str) else header
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


DESCR = np.lib.format.dtype_to_descr(RecordLayout("float16", 4, 2).record_dtype(1, 1))
CANVAS, TILES, REGIONS = DESCR
REGION_FIELDS = REGIONS[1]


def header(descr=DESCR, shape="()", fortran="False"):
    descr = descr if isinstance(descr, str) else repr(descr)
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


def regions_with(*fields):
    return header([CANVAS, TILES, ("regions", list(fields), (1,))])


def without(name):
    return [field for field in REGION_FIELDS if field[0] != name]


HOSTILE = {
    "empty": "",
    "not a dictionary": "[1, 2]",
    "other keys": "{'descr': '<i4'}",
    "object dtype": header("'O'"),
    "object field": header([CANVAS, TILES, ("regions", [*REGION_FIELDS, ("more", "O")], (1,))]),
    "an object among the tiles": header([CANVAS, ("tiles", [("sample", "|O")], (1,)), REGIONS]),
    "plain array": header("'<f4'", "(3,)"),
    "other shape": header(shape="(1,)"),
    "shape beyond memory": header(shape=f"({2**62},)"),
    "shape beyond int64": header(shape=f"({10**30},)"),
    "negative shape": header(shape="(-1,)"),
    "shape is a list": header(shape="[]"),
    "billions of regions": header([CANVAS, TILES, (*REGIONS[:2], (2**20,))]),
    "regions beyond an int": header([CANVAS, TILES, (*REGIONS[:2], (2**31,))]),
    "regions beyond int64": header([CANVAS, TILES, (*REGIONS[:2], (2**80,))]),
    "negative regions": header([CANVAS, TILES, (*REGIONS[:2], (-1,))]),
    "regions in a table": header([CANVAS, TILES, (*REGIONS[:2], (1, 1))]),
    "regions alone": header([CANVAS, TILES, REGIONS[:2]]),
    "too many tiles": header([CANVAS, (*TILES[:2], (65,)), REGIONS]),
    "huge embedding": regions_with(*without("embedding"), ("embedding", "<f2", (2**30,))),
    "embedding without axes": regions_with(*without("embedding"), ("embedding", "<f2")),
    "class ids without axes": regions_with(*without("class_ids")[:5], ("class_ids", "<i4")),
    "no class ids": regions_with(*without("class_ids")),
    "no boxes": regions_with(*without("box_xyxy_px")),
    "a field more": regions_with(*REGION_FIELDS, ("more", "<i8")),
    "a scale at float16": regions_with(*REGION_FIELDS, ("scale", "<f4")),
    "big-endian boxes": regions_with(("box_xyxy_px", ">f4", (4,)), *REGION_FIELDS[1:]),
    "float64 embedding": regions_with(*without("embedding"), ("embedding", "<f8", (4,))),
    "regions of numbers": header([CANVAS, TILES, ("regions", "<i4", (1,))]),
    "canvas of floats": header([("canvas_hw", "<f4", (2,)), TILES, REGIONS]),
    "fields in another order": header([TILES, CANVAS, REGIONS]),
    "a fourth field": header([*DESCR, ("more", "<i4")]),
    "titles": header([(("title", "canvas_hw"), "<i4", (2,)), TILES, REGIONS]),
    "twice the same field": header([CANVAS, CANVAS, TILES, REGIONS]),
    "descr is a number": header("5"),
    "descr is None": header("None"),
    "descr is a dictionary": header("{'names': ['a'], 'formats': ['O']}"),
    "descr of bytes": header("[(b'canvas_hw', '<i4')]"),
    "unknown dtype": header("'canvas_hw'"),
    "void beyond memory": header("'V99999999999999999999'"),
    "a call": "__import__('os').system('touch /tmp/pwned')",
    "a call for a value": header("__import__('os').getcwd()"),
    "an attribute": "().__class__.__bases__",
    "a comprehension": "[x for x in (1,)]",
    "an f-string": "f'{1}'",
    "unhashable keys": "{[]: 1}",
    "NUL": "{\0}",
    "a power": header(shape="(9**9**9,)"),
    "digits": header(shape=f"({'9' * 5_000},)"),
    "longer than any view's": header() + " " * MAX_HEADER_BYTES,
    "bad indentation": " x\n  y\n z",
    "a lone backslash": "\\",
    "deep addition": "1+" * 4_000 + "1",
    "deep lists": "[" * 90 + "]" * 90,
    "deep dtypes": header("[('a', " * 80 + "'<i4'" + ")]" * 80),
    "high bytes": bytes(range(128, 256)),
}
UNTOKENIZABLE = {
    "cut inside a bracket": "{'descr': (",
    "an open string": "'''",
    "thousands of brackets": "(" * 8_000,
    "thousands of signs": "-" * 8_000 + "1",
    "a cut header": header()[:-20],
}


@pytest.mark.parametrize("name", [*HOSTILE, *UNTOKENIZABLE])
def test_hostile_headers_are_refused_in_little_memory(name):
    data = npy((HOSTILE | UNTOKENIZABLE)[name]) + bytes(256)
    tracemalloc.start()
    try:
        refuse(data)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "magic", [b"\x93NUMPY\x02\x00", b"\x93NUMPY\x03\x00", b"\x93NUMPY\x00\x01", b"PK\x03\x04", b"\x80\x04"]
)
def test_other_formats_are_refused(magic):
    refuse(magic + packed()[len(magic) :])
    refuse(magic)
    buffer = io.BytesIO()
    np.savez(buffer, a=1)
    refuse(buffer.getvalue())


def test_a_pickle_behind_an_object_header_is_not_run(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array(tmp_path / "x", dtype=object), allow_pickle=True)
    refuse(buffer.getvalue())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    refuse(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_random_bytes_behind_the_magic_are_refused(content):
    refuse(npy(content))


@settings(max_examples=200, deadline=None)
@given(st.text("{}[]()'\",:\\\n <>=0123456789fiOVdescrshapefortran_orderTrueFalse#L-+*.", max_size=120))
def test_random_headers_are_refused(text):
    refuse(npy(text))


def test_flipped_header_bytes_raise_nothing_but_a_corrupt_cache():
    data = packed("int8", 1, 1, dim=3, top_k=2)
    start = len(npy(b"")) + int.from_bytes(data[8:10], "little")
    rng = random.Random(0)
    for position in range(start):
        for _ in range(4):
            damaged = bytearray(data)
            damaged[position] ^= rng.randrange(1, 256)
            try:
                unpack_view(bytes(damaged), MEMBER)
            except CorruptCacheError:
                continue


def test_values_of_any_bits_read_without_an_exception():
    # Whether values make sense is for `verify`; a reader must not fail on NaN, infinities or negative sizes.
    data = packed("float16", 2, 2)
    start = 10 + int.from_bytes(data[8:10], "little")
    found = unpack_view(data[:start] + b"\xff" * (len(data) - start), MEMBER)
    assert isinstance(found.labels, TopKSoftLabels)
    assert np.isnan(found.embeddings).all()
