import pytest
from hypothesis import given
from hypothesis import strategies as st

from richsem_schemas.cache.layout import CacheLayout, check_dataset_name, check_set_name, sample_key

UNSAFE = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/a",
    "a\\b",
    "a/../b",
    "-a",
    "_a",
    ".hidden",
    "a b",
    "a\n",
    "a\0",
    "größe",
    "pipe:x",
    "a{0..1}",
    "s3://x",
    "a%",
    "a" * 101,
]


@pytest.mark.parametrize("name", ["inet-lvis", "demo", "A_1", "0", "a" * 64])
def test_plain_names_name_a_dataset(name):
    assert check_dataset_name(name) == name


@pytest.mark.parametrize("name", [*UNSAFE, "a.b", "a+b", "a" * 65])
def test_names_that_could_be_paths_or_extensions_name_no_dataset(name):
    with pytest.raises(ValueError, match="can't name a dataset; use up to 64 letters"):
        check_dataset_name(name)


@pytest.mark.parametrize("name", ["RN50-openai", "ViT-B-16.laion2b", "a+b", "A_1", "0", "a" * 100])
def test_plain_names_name_a_label_set(name):
    assert check_set_name(name) == name


@pytest.mark.parametrize("name", [*UNSAFE, "a..b", "a.."])
def test_names_that_could_be_paths_name_no_label_set(name):
    with pytest.raises(ValueError, match="can't name a label set; use up to 100 letters"):
        check_set_name(name)


@given(st.text(max_size=12))
def test_an_accepted_name_is_one_component_of_a_path(name):
    for check in (check_dataset_name, check_set_name):
        try:
            check(name)
        except ValueError:
            continue
        assert name not in {"", ".", ".."}
        assert not set(name) & set("/\\:{}\0")


def test_keys_hold_no_dots_and_sort_as_the_samples_do():
    keys = [sample_key(shard, sample) for shard in (0, 1, 9, 10, 13_999) for sample in (0, 9, 10, 1_023, 99_999)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert not any("." in key for key in keys)
    assert sample_key(12, 345) == "000012-00345"


def test_files_lie_where_the_contract_says(tmp_path):
    layout = CacheLayout(tmp_path, "inet-lvis")
    labels = layout.label_set("RN50")
    found = {
        path.relative_to(tmp_path).as_posix()
        for path in (
            layout.manifest,
            layout.pictures_tar(3),
            layout.pictures_index(3),
            layout.pictures_receipt(3),
            layout.quarantine(3),
            layout.listing_quarantine,
            labels.manifest,
            labels.tar(3),
            labels.index(3),
            labels.receipt(3),
            labels.text,
            labels.text_features,
        )
    }
    assert found == {
        "manifest.json",
        "pictures/inet-lvis-000003.tar",
        "index/pictures/inet-lvis-000003.parquet",
        "receipts/pictures/inet-lvis-000003.json",
        "quarantine/inet-lvis-000003.jsonl",
        "quarantine/listing.jsonl",
        "labels/RN50/manifest.json",
        "labels/RN50/inet-lvis-000003.tar",
        "index/labels/RN50/inet-lvis-000003.parquet",
        "receipts/labels/RN50/inet-lvis-000003.json",
        "labels/RN50/text/text.json",
        "labels/RN50/text/features.npy",
    }


@pytest.mark.parametrize("name", ["../x", "a/b", ""])
def test_layouts_refuse_unsafe_names(tmp_path, name):
    with pytest.raises(ValueError, match="can't name a dataset"):
        CacheLayout(tmp_path, name)
    with pytest.raises(ValueError, match="can't name a label set"):
        CacheLayout(tmp_path, "demo").label_set(name)


def test_label_sets_are_the_folders_that_have_begun(tmp_path):
    layout = CacheLayout(tmp_path, "demo")
    assert layout.label_sets() == []
    for name in ("b", "a", "empty", "not a name"):
        (tmp_path / "labels" / name).mkdir(parents=True)
    for name in ("b", "a", "not a name"):
        (tmp_path / "labels" / name / "spec.json").touch()
    (tmp_path / "labels" / "file").touch()
    assert layout.label_sets() == ["a", "b"]


def test_every_label_set_found_can_be_opened(tmp_path):
    # Folders of a cache are untrusted: a name that `label_set` refuses must not stop a reader.
    layout = CacheLayout(tmp_path, "demo")
    for name in ("good", "a..b"):
        layout_folder = tmp_path / "labels" / name
        layout_folder.mkdir(parents=True)
        (layout_folder / "spec.json").touch()
    assert [layout.label_set(name).name for name in layout.label_sets()] == ["good"]
