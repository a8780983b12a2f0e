"""A cache as a program uses it: its views one by one, plainly and through the `webdataset` package."""

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

import richsem_schemas
from richsem_schemas import open_cache
from richsem_schemas.cache.as_webdataset import webdataset_pipeline
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.render import render_view
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.pictures.decode import decode_picture

CACHE = Path(__file__).parents[2] / "golden" / "cache"


@pytest.fixture(scope="module")
def cache():
    return open_cache(str(CACHE))


def facts(view):
    labels = view.soft_labels
    arrays = [view.pixels, view.boxes_xyxy_px, view.category_id, labels.class_ids, labels.log_probs, labels.log_rest]
    return view.name, *(array.tolist() for array in (*arrays, view.embeddings) if array is not None)


@pytest.mark.parametrize("label_set", ["float16", "int8", "none"])
def test_views_come_in_the_order_of_the_index_as_stored_and_rendered(cache, label_set):
    found = iter(cache.views(label_set))
    for number in range(2):
        labels, pictures = cache.label_shard(label_set, number), cache.picture_shard(number)
        rows = labels.rows()
        stored = {int(p.row["sample"]): decode_picture(p.data) for p in pictures.pictures(pictures.rows(), root=None)}
        for name, labelled in zip(view_names(rows), labels.views(rows), strict=True):
            view = next(found)
            assert view.name == name
            assert np.array_equal(view.pixels, render_view(labelled.view, stored))
            assert view.pixels.dtype == np.uint8
            assert view.boxes_xyxy_px.tolist() == labelled.view.regions["box_xyxy_px"].tolist()
            assert view.category_id.tolist() == labelled.view.regions["category_id"].tolist()
            assert view.soft_labels.log_probs.tolist() == labelled.labels.log_probs.tolist()
            assert (view.embeddings is None) == (label_set == "none")
    assert next(found, None) is None


def test_a_label_set_is_named_where_there_are_several(cache):
    with pytest.raises(RichSemError, match="no label set was named"):
        next(cache.views())


def test_pictures_are_not_read_before_pixels_are_asked_for(tmp_path):
    shutil.copytree(CACHE, tmp_path / "c")
    cache = open_cache(tmp_path / "c")
    tar = cache.picture_shard(0).tar
    tar.write_bytes(bytes(tar.stat().st_size))
    view = next(cache.views("float16"))
    assert len(view.boxes_xyxy_px) == 1
    with pytest.raises(CorruptCacheError, match=r"golden-000000\.tar"):
        view.pixels  # noqa: B018


def test_an_original_that_is_gone_is_named_with_the_remedy(cache, monkeypatch):
    def pictures(*_, **__):
        raise FileNotFoundError(2, "No such file or directory", b"/gone/a.jpg")

    monkeypatch.setattr("richsem_schemas.cache.shard.PictureShard.pictures", pictures)
    view = next(cache.views("float16", root="/gone"))
    with pytest.raises(RichSemError, match=r"^/gone/a\.jpg: .*say by `root` where they lie"):
        view.pixels  # noqa: B018


def test_a_damaged_view_is_named_before_it_is_rendered(tmp_path):
    shutil.copytree(CACHE, tmp_path / "c")
    cache = open_cache(tmp_path / "c")
    shard = cache.label_shard("float16", 0)
    data = bytearray(shard.tar.read_bytes())
    # The canvas's height, of the first member: 512 bytes of the tar's header, then NumPy's.
    start = data.index(b"\n", 512) + 1
    data[start : start + 4] = np.int32(2**30).tobytes()
    shard.tar.write_bytes(data)
    with pytest.raises(CorruptCacheError, match=r"golden-000000\.tar: 000000-00000\.crop-0\.npy.*anew"):
        next(cache.views("float16"))


def test_a_view_goes_to_another_process_as_it_was_rendered(cache):
    view = next(cache.views("float16"))
    assert facts(pickle.loads(pickle.dumps(view))) == facts(view)


@pytest.mark.parametrize("label_set", ["float16", "int8", "none"])
def test_webdataset_gives_the_same_views(cache, label_set):
    found = [facts(view) for view in webdataset_pipeline(cache, label_set)]
    assert found == [facts(view) for view in cache.views(label_set)]


@pytest.mark.parametrize("workers", [1, 2])
def test_webdataset_gives_the_same_views_through_a_dataloader(cache, workers):
    loader = DataLoader(webdataset_pipeline(cache, "float16"), batch_size=None, num_workers=workers)
    found = [facts(view) for view in loader]
    key = lambda fact: fact[0]  # noqa: E731
    assert sorted(found, key=key) == sorted((facts(view) for view in cache.views("float16")), key=key)


def test_stages_of_webdataset_follow(cache):
    pipeline = webdataset_pipeline(cache, "none").compose(
        webdataset.map(lambda view: len(view.boxes_xyxy_px)), webdataset.batched(3, collation_fn=None)
    )
    assert sum(map(sum, pipeline)) == cache.label_sets["none"].regions


def test_webdataset_refuses_a_cache_that_refers_to_its_pictures(cache):
    plan = cache.manifest.plan.model_copy(update={"pictures": "reference"})
    referring = type(cache)(cache.layout, cache.manifest.model_copy(update={"plan": plan}), cache.label_sets)
    with pytest.raises(RichSemError, match="refers to its pictures"):
        webdataset_pipeline(referring, "none")


HOSTILE_NAMES = ("pipe:touch ran;", "a{0..3}", "a::b", "a b\nc", "${HOME}", "file:", "q?x#y")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_webdataset_takes_no_name_for_a_url(cache, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CACHE, Path(name) / "c")
    found = [facts(view) for view in webdataset_pipeline(open_cache(f"{name}/c"), "int8")]
    assert found == [facts(view) for view in cache.views("int8")]
    assert not Path("ran").exists()


@pytest.mark.parametrize("url", ["memory://webdataset/c", "simplecache::memory://webdataset/c"])
def test_webdataset_reads_from_a_url(cache, url):
    fsspec.filesystem("memory").put(str(CACHE), "/webdataset/c", recursive=True)
    found = [facts(view) for view in webdataset_pipeline(open_cache(url), "none")]
    assert found == [facts(view) for view in cache.views("none")]


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def keep_one_member(path, name):
    with tarfile.open(path) as old:
        data = [old.extractfile(member).read() for member in old]
    with tarfile.open(path, "w") as new:
        member = tarfile.TarInfo(name)
        member.size = len(data[0])
        new.addfile(member, io.BytesIO(data[0]))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda labels, pictures: cut(labels, 700), r"golden-000000\.tar: unexpected end of data; .*verify"),
        (lambda labels, pictures: cut(labels, 0), r"golden-000000\.tar: empty file"),
        (lambda labels, pictures: labels.write_bytes(bytes(labels.stat().st_size)), "0 of its 21 views are there"),
        (lambda labels, pictures: cut(pictures, 0), r"pictures/golden-000000\.tar: empty file"),
        (lambda labels, pictures: shutil.copy(pictures.with_name("golden-000001.tar"), pictures), "of its 21 views"),
        (lambda labels, pictures: shutil.copy(pictures, labels), "8 of its 21 views are there"),
        (lambda labels, pictures: shutil.copy(labels, pictures), "not a JPEG"),
        (lambda labels, pictures: keep_one_member(pictures, "000000-x.jpg"), "'000000-x' is no key"),
        (lambda labels, pictures: keep_one_member(pictures, "000000-1.json"), "000000-1 has no picture"),
    ],
)
def test_webdataset_names_what_is_damaged_and_loses_no_view_silently(tmp_path, harm, said):
    shutil.copytree(CACHE, tmp_path / "c")
    harm(tmp_path / "c/labels/float16/golden-000000.tar", tmp_path / "c/pictures/golden-000000.tar")
    with pytest.raises(RichSemError, match=said):
        [view.pixels for view in webdataset_pipeline(open_cache(tmp_path / "c"), "float16")]


def test_places_are_taken_as_text_too(cache):
    both = open_cache(str(CACHE), labels_from=str(CACHE))
    assert next(both.views("none", root=str(CACHE))).name == next(cache.views("none")).name


def test_the_package_offers_open_cache_and_nothing_unknown():
    assert richsem_schemas.open_cache is open_cache
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        richsem_schemas.nothing  # noqa: B018
