import io
import zipfile

import numpy as np
import pytest

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import TextManifest, TextSpec
from richsem_schemas.cache.text_bank import TextBank, has_text_bank, read_text_bank, write_text_bank
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.files import hash_bytes
from richsem_schemas.vocabularies.vocabulary import NONE_NAME


@pytest.fixture
def layout(tmp_path):
    return CacheLayout(tmp_path, "demo").label_set("RN50")


def bank(classes=5, dim=16):
    names = (NONE_NAME, *(f"class_{index}_(größe)" for index in range(1, classes)))
    features = np.random.default_rng(0).normal(size=(classes, dim)).astype(np.float32)
    return TextBank(names, tuple(name.replace("_", " ") for name in names), ("{}.", "a photo of {}."), 100.0, features)


def test_a_text_bank_reads_back(layout):
    write_text_bank(layout, bank())
    found = read_text_bank(layout)
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, bank().features)
    assert (found.class_names, found.prompted_names) == (bank().class_names, bank().prompted_names)
    assert (found.templates, found.logit_scale) == (bank().templates, 100.0)
    assert found.class_names[0] == "none"


def test_a_bank_is_known_by_its_prompts(layout):
    prompts = [list(bank().prompted_names), list(bank().templates)]
    spec = TextSpec(vocabulary="x", names="clean", classes=5, templates=2, prompts_sha256=json_sha256(prompts))
    assert not has_text_bank(layout, spec)
    write_text_bank(layout, bank())
    assert has_text_bank(layout, spec)
    assert not has_text_bank(layout, spec.model_copy(update={"prompts_sha256": json_sha256([])}))
    layout.text_features.write_bytes(b"")
    assert not has_text_bank(layout, spec)


def test_features_are_a_plain_float32_array_on_disk(layout):
    write_text_bank(layout, bank())
    features = np.load(layout.text_features, allow_pickle=False)
    assert features.dtype == np.dtype("<f4")
    assert features.shape == (5, 16)


def test_features_of_any_memory_order_are_written_the_same(layout):
    write_text_bank(layout, bank())
    first = layout.text_features.read_bytes()
    plain = bank()
    turned = TextBank(
        plain.class_names, plain.prompted_names, plain.templates, 100.0, np.asfortranarray(plain.features)
    )
    write_text_bank(layout, turned)
    assert layout.text_features.read_bytes() == first


def test_every_flipped_byte_and_truncation_of_the_features_is_found(layout):
    write_text_bank(layout, bank(3, 2))
    data = layout.text_features.read_bytes()
    for position in range(len(data)):
        for damaged in (data[:position], data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]):
            layout.text_features.write_bytes(damaged)
            with pytest.raises(CorruptCacheError, match=r"features\.npy"):
                read_text_bank(layout)


def test_a_changed_name_is_found(layout):
    write_text_bank(layout, bank())
    layout.text.write_bytes(layout.text.read_bytes().replace(b"class_1", b"class_9"))
    with pytest.raises(CorruptCacheError, match=r"text\.json"):
        read_text_bank(layout)


def test_a_missing_bank_is_told_from_a_damaged_one(layout):
    with pytest.raises(FileNotFoundError):
        read_text_bank(layout)


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def hand_made(layout, content):
    """A bank of five classes whose hashes fit, whatever its features are."""
    layout.text.parent.mkdir(parents=True, exist_ok=True)
    layout.text_features.write_bytes(content)
    TextManifest(
        class_names=bank().class_names,
        prompted_names=bank().prompted_names,
        templates=("{}",),
        logit_scale=100.0,
        features=hash_bytes(content),
    ).write(layout.text)


@pytest.mark.parametrize("shape", [(4, 16), (6, 16), (80,), (5, 4, 4), ()])
def test_another_number_of_rows_is_refused(layout, shape):
    hand_made(layout, saved(np.zeros(shape, np.float32)))
    with pytest.raises(CorruptCacheError, match="one float32 row a class"):
        read_text_bank(layout)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, "S4", "M8[s]"])
def test_other_types_are_refused(layout, dtype):
    hand_made(layout, saved(np.zeros((5, 16), dtype)))
    with pytest.raises(CorruptCacheError, match="one float32 row a class"):
        read_text_bank(layout)


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.npy", saved(np.zeros((5, 16), np.float32)))
    return buffer.getvalue()


def claiming(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(320)


HOSTILE = {
    "nothing": b"",
    "no array": b"hello",
    "a cut array": saved(np.zeros((5, 16), np.float32))[:-1],
    "pickled objects": saved(np.array([{}], dtype=object), allow_pickle=True),
    "a bare pickle": b"\x80\x04\x95\x00",
    "an archive": archive(),
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "more rows than memory": claiming((5, 2**45)),
    "an open header": b"\x93NUMPY\x01\x00\x02\x00{'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_features_whose_hash_fits_are_a_corrupt_cache(layout, name):
    hand_made(layout, HOSTILE[name])
    with pytest.raises(CorruptCacheError, match=r"features\.npy"):
        read_text_bank(layout)


def test_hashes_are_size_and_sha256():
    found = hash_bytes(b"abc")
    assert found.bytes == 3
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
