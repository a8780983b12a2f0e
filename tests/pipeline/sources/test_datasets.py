import pytest

from richsem_prep.shard.plan import freeze_listing, planned_entries
from richsem_prep.sources import SourceEntry
from richsem_prep.sources.datasets import PRESETS, open_source, preset
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.errors import RichSemError, SourceError
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


def test_datasets_of_the_same_pictures_share_their_place():
    assert preset("inet-unlabeled").folder == "inet-21k"
    assert preset("cc3m-unlabeled").folder == "cc3m"
    for dataset in ("inet-21k", "inet-unlabeled", "cc3m", "cc3m-unlabeled", "webdataset"):
        assert (preset(dataset).crops, preset(dataset).mosaics) == (PRESETS["inet-lvis"].crops, 4)


def test_an_unknown_dataset_is_refused_with_those_there_are():
    with pytest.raises(RichSemError, match=r"'cc4m' is unknown; there are: .*cc3m.*webdataset"):
        preset("cc4m")
