"""What a run reads fits together: caches share a text bank, and categories are joined by name."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.manifest import LabelSpec
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_train.data.extra import ExtraDataset
from richsem_train.run.detectors.dino import build_criterion
from richsem_train.run.named_files import data_folder
from richsem_train.run.open_data import open_data, open_vocabulary
from tests.caches import CLASSES, DIM, WindowsCache
from tests.trainer.tiny import LINEAR, make_cache


@pytest.fixture(scope="module")
def windows(world, tmp_path_factory):
    data = read_annotations(world.data / "train.json", world.data / "train")
    return WindowsCache(data, tmp_path_factory.mktemp("windows") / "out").make().layout.out


def write_text(folder, cache, names, **teacher):
    """A text folder of the teacher of a cache."""
    spec = open_cache(cache).label_set(None).spec
    features = np.random.default_rng(5).standard_normal((len(names), DIM)).astype(np.float32)
    bank = TextBank(tuple(names), tuple(names), ("{}",), spec.teacher.logit_scale, features)
    write_text_folder(folder, TextFolder(bank, spec.teacher.model_copy(update=teacher), "mine", "raw"))
    return folder


OTHER_NAMES = ("none", "something else", *reversed(CLASSES))


def test_detection_and_extra_caches_share_their_text(world, windows):
    data = open_data(world.config(detection__labels="cache", detection__cache=str(windows)))
    assert set(data.fingerprints) == {"extra", "detection"}
    assert data.windows.cache.text is not None
    assert data.vocabulary.class_names == ("none", *CLASSES)
    np.testing.assert_array_equal(data.vocabulary.category_ids, np.arange(7))


def test_a_detection_cache_alone_gives_the_text(world, windows):
    changes = {"detection__labels": "cache", "detection__cache": str(windows), "extra": None}
    data = open_data(world.config(**changes))
    assert data.vocabulary.text.features.shape == (7, DIM)
    assert data.extras == {}
    assert open_vocabulary(world.config(**changes)).text is not None


def test_embeddings_are_scored_with_a_text_folder_of_their_teacher(world, windows, tmp_path):
    text = write_text(tmp_path / "text", world.cache, OTHER_NAMES)
    config = world.config(text={"folder": str(text)}, detection__labels="cache", detection__cache=str(windows))
    data = open_data(config)
    assert data.vocabulary.class_names == OTHER_NAMES
    # Rows moved; the names went along, in labels, boxes and back.
    rows = [0, *(OTHER_NAMES.index(name) for name in CLASSES)]
    np.testing.assert_array_equal(data.extras["extra"].rows, rows)
    np.testing.assert_array_equal(data.val.category_ids, [-1, -1, 6, 5, 4, 3, 2, 1])
    plain = open_data(world.config(extra=None, text={"cache": str(world.cache)}))
    np.testing.assert_array_equal(data.train.category_ids, np.array(rows)[plain.train.category_ids])
    np.testing.assert_array_equal(data.image_counts[rows[1:]], plain.image_counts[1:])
    assert [data.vocabulary.frequencies[row] for row in rows[1:]] == list(plain.vocabulary.frequencies[1:])
    assert "text" in data.fingerprints


def test_classes_that_the_text_lacks_leave_extra_pictures_unlabelled(world, tmp_path):
    text = write_text(tmp_path / "text", world.cache, ("none", *CLASSES))
    few = write_text(tmp_path / "few", world.cache, ("none", *CLASSES[:2]))
    config = world.config(text={"folder": str(few)})
    with pytest.raises(RichSemError, match=r"4 of 6 categories don't fit the vocabulary of 3 rows: 'c <script"):
        open_data(config)
    assert open_data(world.config(text={"folder": str(text)})).extras["extra"].classes_without_row == ()


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({}, {"weights_sha256": "9" * 64}, r"teacher\.weights_sha256 is '0{64}' there, '9{64}' here"),
        ({"extra__labels": "topk"}, {}, r"text\.class_names has 7 names there, 8 here, first differing in row 1"),
    ],
)
def test_text_that_does_not_fit_the_labels_is_refused_by_field(world, tmp_path, changes, teacher, message):
    text = write_text(tmp_path / "text", world.cache, OTHER_NAMES, **teacher)
    with pytest.raises(ManifestMismatchError, match=message):
        open_data(world.config(text={"folder": str(text)}, **changes))


def test_several_caches_share_one_text_or_are_refused_by_field(world, tmp_path):
    first = {"cache": str(world.cache)}
    second = make_cache(tmp_path)
    both = [first, {"cache": str(second.layout.out), "weight": 2, "views": "crops"}]
    data = open_data(world.config(extra=both))
    assert set(data.fingerprints) == {"extra.0", "extra.1"}
    change_text(second)
    with pytest.raises(ManifestMismatchError, match=r"text\.features are others there.*\(extra\.1\.cache, extra\.1\."):
        open_data(world.config(extra=both))


def change_text(cache):
    from richsem_schemas.cache.text_bank import read_text_bank, write_text_bank

    bank = read_text_bank(cache.label_set)
    write_text_bank(cache.label_set, replace(bank, features=bank.features + 1))
    assert LabelSpec.read(cache.label_set.spec)


def test_ids_with_gaps_are_rows_of_the_same_names(world, tmp_path):
    for split in ("train", "val"):
        content = json.loads((world.data / f"{split}.json").read_text())
        for each in [*content["annotations"], *content["categories"]]:
            key = "category_id" if "image_id" in each else "id"
            each[key] = 100 - 10 * each[key]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        (tmp_path / split).symlink_to(world.data / split)
    same, gaps = open_data(world.config()), open_data(world.config(data=str(tmp_path)))
    np.testing.assert_array_equal(gaps.train.category_ids, same.train.category_ids)
    np.testing.assert_array_equal(gaps.train.offsets, same.train.offsets)
    np.testing.assert_array_equal(gaps.val.category_ids, [-1, 90, 80, 70, 60, 50, 40])
    assert gaps.vocabulary.frequencies == same.vocabulary.frequencies
    assert gaps.image_counts.tolist() == same.image_counts.tolist()


def test_stored_labels_have_their_temperature_built_in(world):
    with pytest.raises(ManifestMismatchError, match=r"temperature is 1\.0 there, loss\.temperature is 2\.0 here"):
        open_data(world.config(loss__temperature=2, extra__labels="topk"))
    config = world.config(loss__temperature=2)
    data = open_data(config)
    criterion = build_criterion(
        config.model, config.loss, text=data.vocabulary.text, image_counts_C=torch.from_numpy(data.image_counts)
    )
    assert criterion.soft_loss.temperature == 2


def test_labels_may_lie_apart_from_the_pictures(world, tmp_path):
    apart = tmp_path / "labels"
    for folder in ("labels", "index/labels", "plan"):
        shutil.copytree(world.cache / folder, apart / folder)
    pictures = tmp_path / "pictures"
    shutil.copytree(world.cache, pictures, ignore=shutil.ignore_patterns("labels"))
    with pytest.raises(RichSemError, match=r"no finished label set 'hashed'"):
        open_data(world.config(extra__cache=str(pictures)))
    joined = open_data(world.config(extra__cache=str(pictures), extra__labels_from=str(apart)))
    whole = open_data(world.config())
    assert joined.fingerprints == whole.fingerprints
    one, other = (ExtraDataset(data.extras["extra"], seed=0, lanes=2)[5] for data in (joined, whole))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.target.soft_labels.embeddings, other.target.soft_labels.embeddings)
    others = make_cache(tmp_path / "other", pictures=8)
    with pytest.raises(ManifestMismatchError, match=r"listed is 24"):
        open_data(world.config(extra__cache=str(others.layout.out), extra__labels_from=str(apart)))


def numbered_otherwise(world, folder, ids):
    """The world with other category ids, the same in both splits."""
    shutil.copytree(world.data, folder)
    for split in ("train", "val"):
        path = folder / f"{split}.json"
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["id"] = ids[category["id"] - 1]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"] - 1]
        for image in content["images"]:
            image["neg_category_ids"] = [ids[each - 1] for each in image["neg_category_ids"]]
        path.write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("ids", "rows"),
    [
        ((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6)),
        ((2, 3, 13, 44, 90, 1203), (2, 3, 13, 44, 90, 1203)),
        ((0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6)),
        ((1, 2, 3, 4, 5, 900_000), (1, 2, 3, 4, 5, 6)),
        ((900_000, 12, 3, 4, 5, 0), (6, 5, 2, 3, 4, 1)),
    ],
)
def test_a_vocabulary_without_text_has_rows_of_ids_unless_they_begin_at_0_or_have_large_gaps(
    world, tmp_path, ids, rows
):
    data = open_data(world.config(data=numbered_otherwise(world, tmp_path / "data", ids), **LINEAR))
    plain = open_data(world.config(**LINEAR))
    vocabulary = data.vocabulary
    assert [vocabulary.class_names[row] for row in rows] == list(plain.vocabulary.class_names[1:])
    assert vocabulary.class_names[0] == ""
    assert vocabulary.category_ids[list(rows)].tolist() == list(ids)
    assert data.val.category_ids[list(rows)].tolist() == list(ids)
    assert data.train.category_ids.tolist() == [rows[each - 1] for each in plain.train.category_ids]
    assert len(vocabulary.class_names) == max(rows) + 1
    assert (vocabulary.rows_note is None) == (ids == rows)
    if ids != rows:
        expected = f"category ids {min(ids):,} to {max(ids):,} are rows 1 to 6"
        assert vocabulary.rows_note.startswith(expected)
    assert [data.image_counts[row].item() for row in rows] == plain.image_counts[1:].tolist()


def test_category_id_0_is_joined_to_the_text_by_its_name(world, tmp_path):
    data = open_data(world.config(data=numbered_otherwise(world, tmp_path / "data", (0, 1, 2, 3, 4, 5))))
    assert data.vocabulary.class_names == ("none", *CLASSES)
    assert data.vocabulary.category_ids.tolist() == [-1, 0, 1, 2, 3, 4, 5]
    assert set(data.train.category_ids.tolist()) <= set(range(1, 7))
    assert data.vocabulary.rows_note is None


def test_names_that_do_not_tell_categories_apart_are_refused_with_the_remedy(world, tmp_path):
    folder = numbered_otherwise(world, tmp_path / "data", (0, 1, 2, 3, 4, 5))
    path = tmp_path / "data" / "train.json"
    content = json.loads(path.read_text())
    content["categories"][3]["name"] = content["categories"][2]["name"]
    path.write_text(json.dumps(content))
    with pytest.raises(RichSemError, match=r"has several rows.*Give each category a name of its own"):
        open_data(world.config(data=folder, **LINEAR))


def test_a_url_in_the_environment_is_refused_where_a_folder_is_needed(world, monkeypatch):
    config = world.config().model_copy(update={"data": None})
    monkeypatch.setenv("RICHSEM_DATA", "s3://bucket/data")
    with pytest.raises(RichSemError, match=r"RICHSEM_DATA: s3://bucket/data is a URL, .* fetch or mount it first"):
        data_folder(config)
    monkeypatch.setenv("RICHSEM_DATA", "")
    assert str(data_folder(config)) == "data"
