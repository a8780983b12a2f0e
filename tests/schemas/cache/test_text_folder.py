import dataclasses

import numpy as np
import pytest

from richsem_schemas.cache.manifest import TeacherIdentity
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, read_text_folder, text_path, write_text_folder
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json
from richsem_schemas.vocabularies.known import KNOWN_VOCABULARIES, known_vocabulary

TEACHER = TeacherIdentity(
    name="tiny", weights_sha256="0" * 64, model_config_sha256="1" * 64, quick_gelu=False, embed_dim=4, mean=(0, 0, 0),
    std=(1, 1, 1), input_hw=(32, 32), interpolation="bicubic", logit_scale=20.0, logit_bias=None,
)  # fmt: skip


def text_of(names=("none", "a cat", "dög"), **changes):
    features = np.random.default_rng(0).standard_normal((len(names), 4)).astype(np.float32)
    bank = TextBank(names, names, ("a {}.",), 20.0, features)
    return TextFolder(dataclasses.replace(bank, **changes), TEACHER, "pets", "raw")


def test_a_text_folder_reads_back_as_it_was_written(tmp_path):
    write_text_folder(tmp_path / "text", text_of())
    found = read_text_folder(tmp_path / "text")
    np.testing.assert_array_equal(found.bank.features, text_of().bank.features)
    assert found.bank.class_names == ("none", "a cat", "dög")
    assert (found.teacher, found.vocabulary, found.names) == (TEACHER, "pets", "raw")
    assert found.spec.prompts_sha256 == json_sha256([["none", "a cat", "dög"], ["a {}."]])
    assert (found.spec.classes, found.spec.templates) == (3, 1)


@pytest.mark.parametrize("file", ["text.json", "features.npy"])
def test_a_changed_byte_of_either_file_is_refused(tmp_path, file):
    write_text_folder(tmp_path, text_of())
    data = bytearray((tmp_path / file).read_bytes())
    data[-20] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(CorruptCacheError, match=file):
        read_text_folder(tmp_path)


@pytest.mark.parametrize("file", ["text.json", "features.npy"])
def test_a_folder_without_one_of_its_files_says_how_to_make_it(tmp_path, file):
    write_text_folder(tmp_path, text_of())
    (tmp_path / file).unlink()
    with pytest.raises(RichSemError, match=f"{file}.*richsem-prep text"):
        read_text_folder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("cat", "dog", "none")}, "row 0"),
        ({"class_names": ("none", "dog", "dog")}, "twice"),
        ({"logit_scale": 21.0}, "logit scale"),
        ({"features": np.zeros((3, 4), np.float32)}, "zero or no numbers"),
        ({"features": np.ones((3, 5), np.float32)}, "4 numbers a class"),
    ],
)
def test_a_sealed_text_that_does_not_fit_together_is_refused(tmp_path, changes, message):
    write_text_folder(tmp_path, text_of(**changes))
    with pytest.raises(CorruptCacheError, match=message):
        read_text_folder(tmp_path)


def test_a_text_of_another_version_or_with_unknown_fields_is_refused(tmp_path):
    write_text_folder(tmp_path, text_of())
    value = read_sealed_json(text_path(tmp_path))
    write_sealed_json(text_path(tmp_path), value | {"format_version": 2})
    with pytest.raises(CorruptCacheError, match="format version"):
        read_text_folder(tmp_path)
    write_sealed_json(text_path(tmp_path), value | {"surprise": 1})
    with pytest.raises(CorruptCacheError, match="surprise"):
        read_text_folder(tmp_path)


def test_known_vocabularies_have_their_published_sizes_and_no_name_twice():
    sizes = {"lvis": 1203, "coco": 80, "objects365": 365, "openimages": 601}
    assert set(sizes) == set(KNOWN_VOCABULARIES)
    for name, classes in sizes.items():
        names = known_vocabulary(name).class_names
        assert names[0] == "none"
        assert len(names) == len(set(names)) == classes + 1


def test_coco_names_are_those_of_torchvision():
    meta = pytest.importorskip("torchvision.models._meta")
    expected = [name for name in meta._COCO_CATEGORIES if name not in {"N/A", "__background__"}]
    assert list(known_vocabulary("coco").class_names[1:]) == expected
