import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.demo.dataset import write_demo
from richsem_prep.shard.plan import freeze_listing, planned_entries
from richsem_prep.sources.datasets import DATASETS, find_dataset, open_source
from richsem_prep.sources.entry import SourceEntry
from richsem_prep.teacher.class_lists import read_vocabulary
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import RichSemError, SourceError
from tests import detection_trees as trees
from tests.pictures import jpeg
from tests.pipeline.sources.img2dataset_tree import write_shard, write_tar

BIRD, MACHINE, BEE = "n02012849", "n03126707", "n02206856"


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet-21k as the release of winter 2021 unpacks, of three classes, one of them still a tar."""
    root = tmp_path / "winter21_whole"
    for wnid in (BIRD, BEE):
        (root / wnid).mkdir(parents=True)
        (root / wnid / f"{wnid}_1.JPEG").write_bytes(wnid.encode())
    write_tar(root / f"{MACHINE}.tar", {f"{MACHINE}_2.JPEG": MACHINE.encode()})
    (root / "n99999999").mkdir()
    (root / "n99999999" / "unknown.JPEG").write_bytes(b"no class of ImageNet-21k")
    return root


def entries(source):
    return [item for item in source.entries() if isinstance(item, SourceEntry)]


def test_imagenet_21k_takes_every_class_under_its_own_name(imagenet):
    source = open_source("inet-21k", imagenet)
    names = source.vocabulary.class_names
    assert (len(names), names[0], source.class_count) == (21_842, "none", 21_841)
    assert len(source.absent) == 21_838
    assert not {BIRD, MACHINE, BEE} & set(source.absent)
    found = {entry.name: names[entry.category_id] for entry in entries(source)}
    assert set(found) == {f"{BIRD}/{BIRD}_1.JPEG", f"{BEE}/{BEE}_1.JPEG", f"{MACHINE}.tar/{MACHINE}_2.JPEG"}
    assert found[f"{BEE}/{BEE}_1.JPEG"] == "bee"
    assert found[f"{BIRD}/{BIRD}_1.JPEG"] != found[f"{MACHINE}.tar/{MACHINE}_2.JPEG"]


def test_unlabelled_imagenet_has_the_same_pictures_without_labels(imagenet):
    labelled, source = open_source("inet-21k", imagenet), open_source("inet-unlabeled", imagenet)
    assert source.vocabulary.name == "lvis-v1"
    assert len(source.vocabulary.class_names) == 1204
    assert [entry.name for entry in entries(source)] == [entry.name for entry in entries(labelled)]
    assert {entry.category_id for entry in entries(source)} == {0}
    assert source.absent == labelled.absent


def test_a_root_without_a_class_is_refused(tmp_path):
    (tmp_path / "cats").mkdir()
    with pytest.raises(SourceError, match="none of the 21841 classes"):
        open_source("inet-21k", tmp_path).entries()


def test_captions_reach_the_plan_of_cc3m_alone(tmp_path):
    root = tmp_path / "cc3m"
    root.mkdir()
    write_shard(root, 0, [(f"{n:09d}", f"größe {n}", b"picture") for n in range(5)], [("000000005", "404")])
    for dataset, captions in (("cc3m", {f"größe {n}" for n in range(5)}), ("cc3m-unlabeled", {None})):
        source = open_source(dataset, root)
        assert source.vocabulary.name == "lvis-v1"
        layout = CacheLayout(tmp_path / dataset, dataset)
        listing = freeze_listing(layout, source.entries(), on_progress=lambda _: None, has_captions=source.has_captions)
        assert (listing.listed, listing.rejected) == (5, 1)
        plan = Plan(
            dataset=dataset, seed=0, listed=5, samples=5, samples_per_shard=5, limit=None, pictures="copy",
            max_side=None, root=None, vocabulary=source.vocabulary, absent_classes=(), listing=listing.file,
            rejected=1, listing_quarantine=listing.quarantine,
        )  # fmt: skip
        planned = planned_entries(layout, plan, 0)
        assert {entry.caption for entry in planned} == captions
        assert {entry.category_id for entry in planned} == {0}


def tars(root):
    write_shard(root, 0, [(f"{n:09d}", f"size {n}", jpeg(n)) for n in range(3)])
    return root


def class_folders(root):
    for name in ("n02691156", "n02694662", "cats"):
        trees.write(root / name / f"{name}_1.JPEG", jpeg(0))
    return root


TREES = {
    "lvis": (trees.lvis_tree, "lvis-v1", 8),
    "coco": (trees.coco_tree, "coco", 8),
    "objects365": (trees.objects365_v2_tree, "objects365", 8),
    "objects365-boxes": (trees.objects365_v1_tree, "lvis-v1", 8),
    "openimages": (trees.openimages_tree, "openimages", 5),
    "visual-genome": (trees.visual_genome_tree, "visual-genome", 8),
    "inet-lvis": (class_folders, "lvis-v1", 2),
    "inet-21k": (class_folders, "imagenet-21k", 2),
    "inet-unlabeled": (class_folders, "lvis-v1", 2),
    "cc3m": (tars, "lvis-v1", 3),
    "cc3m-unlabeled": (tars, "lvis-v1", 3),
    "webdataset": (tars, "lvis-v1", 3),
    "folder": (class_folders, "folders", 3),
    "demo": (lambda root: root, "demo", 96),
    "demo-detection": (lambda root: root, "demo", None),
}
"""Of every dataset: what writes a tiny tree of its layout, its vocabulary, and how many pictures the tree has."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    write_demo(root, pictures_per_class=1, val_instances_per_class=1)
    return root


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_opens_on_a_tree_of_its_layout(dataset, demo, tmp_path):
    tree, vocabulary, count = TREES[dataset]
    source = open_source(dataset, tree(demo if DATASETS[dataset].draw else tmp_path))
    found = entries(source)
    assert source.vocabulary.name == vocabulary
    assert source.vocabulary.class_names[0] == "none"
    assert len(found) == (count or len(list((demo / "detection" / "train").iterdir())))
    assert {entry.boxes is not None for entry in found} == {source.has_boxes} == {DATASETS[dataset].has_boxes}
    assert all((source.root / entry.file.decode()).is_file() for entry in found)


@pytest.mark.parametrize(("name", "folder"), [(trees.CHALLENGE_TRAIN, "train_"), (trees.CHALLENGE_VAL, "validation/")])
def test_a_challenge_of_openimages_is_taken_by_naming_its_annotations(name, folder, tmp_path):
    root = trees.challenge_tree(tmp_path)
    source = open_source("openimages", root, annotations=Path(name))
    assert (len(source.vocabulary.class_names), source.class_count) == (501, 500)
    assert source.vocabulary.class_names[-2:] == ("Magpie", "Tortoise")
    assert source.annotations == name
    # The names that the text folder is made of are those of the cache.
    text = read_vocabulary(str(root / "challenge-2019-classes-description-500.csv"))
    assert text.class_names == source.vocabulary.class_names
    found = entries(source)
    assert len(found) == 4
    assert all(entry.file.decode().startswith(folder) for entry in found)
    assert len(open_source("openimages", root).vocabulary.class_names) == 4


@pytest.mark.parametrize("dataset", DATASETS)
def test_detection_data_has_windows_and_refers_to_its_pictures_other_data_has_crops_and_mosaics(dataset):
    record = DATASETS[dataset]
    passes = (record.crops, record.mosaics, record.windows)
    assert (passes, record.pictures) == (((0, 0, 4), "reference") if record.has_boxes else ((1, 4, 0), "copy"))


def test_datasets_of_the_same_pictures_share_their_place():
    shared = {name: record.folder for name, record in DATASETS.items() if record.folder is not None}
    assert shared == {
        "inet-unlabeled": "inet-21k", "cc3m-unlabeled": "cc3m", "objects365-boxes": "objects365",
        "demo-detection": "demo",
    }  # fmt: skip


def test_an_unknown_dataset_is_refused_with_those_there_are():
    with pytest.raises(RichSemError, match=r"'cc4m' is unknown; there are: .*cc3m.*webdataset"):
        find_dataset("cc4m")


def test_the_help_of_shard_names_every_dataset_by_its_kind():
    shown = CliRunner().invoke(app, ["shard", "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).output
    kinds = {"Detection": [], "Classification": [], "Drawn by code": []}
    for record in DATASETS.values():
        kinds["Drawn by code" if record.draw else "Detection" if record.has_boxes else "Classification"].append(record)
    told = ". ".join(f"{kind}: {', '.join(record.name for record in found)}" for kind, found in kinds.items())
    without_remarks = re.sub(r" \([^)]*\)", "", " ".join(shown.replace("│", " ").split()))
    assert told in without_remarks
