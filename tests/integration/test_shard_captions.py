"""CC3M from img2dataset's tars of real pictures to a cache that keeps their captions."""

import json

import pytest

from richsem_prep.sources import datasets
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.vocabularies.vocabulary import Vocabulary
from tests.integration.shard_job import shard, use_small_views
from tests.pictures import jpeg
from tests.pipeline.sources.img2dataset_tree import write_shard


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Few classes and small views, since what is tested here doesn't depend on them."""
    few = Vocabulary(name="few", class_names=("none", "a", "b"))
    monkeypatch.setattr(datasets, "known_vocabulary", lambda name: few)
    use_small_views(monkeypatch, "cc3m", "webdataset")


@pytest.fixture(scope="module")
def tars(sample_pictures, tmp_path_factory):
    """Two shards of four real pictures each, with a link that was dead and one that led to a web page."""
    root = tmp_path_factory.mktemp("data") / "cc3m"
    root.mkdir()
    pictures = [path.read_bytes() for path in sorted(sample_pictures.glob("*/*"))[:8]]
    samples = [(f"{n // 4:05d}{n % 4:04d}", f"caption of {n}", data) for n, data in enumerate(pictures)]
    write_shard(root, 0, samples[:4], [("000000004", "HTTP Error 404: Not Found")])
    write_shard(root, 1, [*samples[4:], ("000010004", "a web page", b"<html>no picture</html>")])
    return root


def test_captions_are_kept_beside_real_pictures(tars, resnet, tmp_path):
    summary, _ = shard(tars, tmp_path / "out", resnet, dataset="cc3m", mosaics=1, samples_per_shard=6)
    layout = summary.layout
    cache = open_cache(tmp_path / "out")
    assert (cache.manifest.samples, cache.manifest.quarantined) == (8, 1)
    sidecars = [stored.sidecar for number in range(2) for stored in cache.picture_shard(number).pictures(root=None)]
    assert {sidecar["name"]: sidecar["caption"] for sidecar in sidecars} == {
        f"{n // 4:05d}.tar/{n // 4:05d}{n % 4:04d}.jpg": f"caption of {n}" for n in range(8)
    }
    assert {(sidecar["category_id"], sidecar["category"]) for sidecar in sidecars} == {(0, "none")}
    assert verify_cache(tmp_path / "out").problems == ()
    rejected = [json.loads(line) for line in layout.listing_quarantine.read_text().splitlines()]
    assert rejected == [{"name": "00000.tar/000000004", "reason": "not downloaded: HTTP Error 404: Not Found"}]


def test_the_cli_knows_the_datasets():
    from richsem_prep.shard.config import ShardConfig

    for dataset in ("inet-21k", "inet-unlabeled", "cc3m", "cc3m-unlabeled", "webdataset"):
        config = ShardConfig(dataset=dataset)
        assert config.root.name == dataset.replace("-unlabeled", "-21k" if dataset.startswith("inet") else "")
        assert config.out.name == dataset


def test_pictures_drawn_by_code_are_taken_from_any_tars(resnet, tmp_path):
    from tests.pipeline.sources.img2dataset_tree import write_tar

    root = tmp_path / "tars"
    write_tar(root / "a.tar", {f"{n}.{end}": jpeg(n) for n in range(6) for end in ("jpg", "cls")})
    shard(root, tmp_path / "out", resnet, dataset="webdataset", mosaics=1, pictures="reference")
    cache = open_cache(tmp_path / "out")
    assert (cache.manifest.samples, cache.manifest.quarantined) == (6, 0)
    stored = list(cache.picture_shard(0).pictures(root=root))
    assert {picture.data for picture in stored} == {jpeg(n) for n in range(6)}
