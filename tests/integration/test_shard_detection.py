"""`richsem-prep shard` on detection datasets, from their layouts on disk to verified caches."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from richsem_prep.commands.shard import summary_table
from richsem_prep.hub import dataset_card
from richsem_prep.shard.plan import planned_entries
from richsem_prep.sources import detection_dataset
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache import recipes
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import ManifestMismatchError, RichSemError, SourceError
from richsem_schemas.io.places import open_place
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.vocabulary import Vocabulary
from tests import detection_trees as trees
from tests.integration import shard_job
from tests.integration.shard_job import tar_hashes, use_small_views
from tests.pictures import jpeg

DETECTION = {"crops": None, "mosaics": None, "pictures": None, "windows": 2, "samples_per_shard": 3, "teacher_size": 96}
TREES = {
    "lvis": trees.lvis_tree,
    "coco": trees.coco_tree,
    "objects365": trees.objects365_v2_tree,
    "objects365-boxes": trees.objects365_v1_tree,
    "openimages": trees.openimages_tree,
    "visual-genome": trees.visual_genome_tree,
}


@pytest.fixture(scope="module", autouse=True)
def _small_views():
    """Views at a fifth of their size and LVIS's first three names, since what is tested doesn't depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        few = Vocabulary(name="lvis-v1", class_names=known_vocabulary("lvis").class_names[:4])
        patch.setattr(detection_dataset, "known_vocabulary", lambda name: few)
        use_small_views(patch, *TREES)
        yield


def shard(dataset, root, out, teacher, **options):
    return shard_job.shard(root, out, teacher, dataset=dataset, **(DETECTION | options))


def stored_pictures(cache):
    for number in range(cache.manifest.plan.shards):
        pictures = cache.picture_shard(number).pictures(root=cache.originals_root)
        yield from ((number, stored) for stored in pictures)


@pytest.mark.parametrize("dataset", TREES)
def test_a_dataset_in_its_layout_becomes_a_verified_cache_of_windows(dataset, resnet, tmp_path):
    root = TREES[dataset](tmp_path / "data")
    summary, said = shard(dataset, root, tmp_path / "out", resnet)
    assert summary.complete
    assert not summary.failed
    cache = open_cache(tmp_path / "out")
    plan = cache.manifest.plan
    # OpenImages lists no pictures without boxes.
    assert (cache.manifest.samples, cache.manifest.quarantined) == (5 if dataset == "openimages" else 8, 0)
    assert (plan.pictures, plan.dataset) == ("reference", dataset)
    assert verify_cache(tmp_path / "out").problems == ()
    names = plan.vocabulary.class_names
    expected_names = {
        "lvis": ("none", "aerosol_can", "air_conditioner", "airplane"),
        "coco": ("none", "person", "car", "toothbrush"),
        "objects365": ("none", "Person", "Sneakers", "Table Tennis "),
        "openimages": ("none", "Tortoise", "Container", "Magpie"),
        "visual-genome": ("none", "man", "window"),
    }
    assert names[:4] == expected_names.get(dataset, names[:4])
    assert len(names) == len(expected_names.get(dataset, names[:4]))
    assert any("names on fewer than" in line for line in said) == (dataset == "visual-genome")
    views = [view for number in range(plan.shards) for view in cache.label_shard("resnet", number).views()]
    assert {view.view.kind for view in views} == {"window"}
    assert len(views) == 2 * cache.manifest.samples
    rows = {int(row) for view in views for row in view.view.regions["category_id"]}
    assert rows == ({0} if dataset == "objects365-boxes" else set(range(1, len(names))))


@pytest.mark.parametrize("dataset", TREES)
def test_a_dataset_at_a_url_gives_the_cache_of_the_local_one(dataset, resnet, tmp_path):
    root = TREES[dataset](tmp_path / "data")
    place = open_place(f"memory://{tmp_path.name}")
    for path in root.rglob("*"):
        if path.is_file():
            (place / path.relative_to(root).as_posix()).write_bytes(path.read_bytes())
    shard(dataset, root, tmp_path / "local", resnet)
    shard(dataset, place, tmp_path / "remote", resnet)
    assert tar_hashes(tmp_path / "remote") == tar_hashes(tmp_path / "local")
    assert str(open_cache(tmp_path / "remote").manifest.plan.root).startswith("memory://")
    assert verify_cache(tmp_path / "remote").problems == ()


def test_a_damaged_file_at_a_url_is_named_as_it_is_there(resnet, tmp_path):
    root, place = trees.coco_tree(tmp_path / "data"), open_place(f"memory://{tmp_path.name}")
    cut = (root / "annotations" / "instances_train2017.json").read_bytes()[:-5]
    (place / "annotations" / "instances_train2017.json").write_bytes(cut)
    with pytest.raises(SourceError, match=rf"^memory://{tmp_path.name}/annotations/\w+\.json: not a JSON file"):
        shard("coco", place, tmp_path / "out", resnet)


def test_boxes_stand_in_the_listing_and_in_key_json(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    shard("coco", root, tmp_path / "out", resnet, pictures="copy")
    cache = open_cache(tmp_path / "out")
    row_of = {90: 3, 1: 1, 13: 2}
    annotations = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    images = {image["file_name"]: image["id"] for image in annotations["images"]}
    for number, stored in stored_pictures(cache):
        expected = [
            [x, y, x + w, y + h, row_of[record["category_id"]]]
            for record in annotations["annotations"]
            if record["image_id"] == images[stored.row["name"]]
            for x, y, w, h in [record["bbox"]]
        ]
        assert stored.sidecar["boxes"] == expected
        assert stored.sidecar["boxes_hw"] == list(trees.HW)
        assert stored.data == (root / "train2017" / stored.row["name"]).read_bytes()
        entry = planned_entries(cache.layout, cache.manifest.plan, number)[stored.row["sample"]]
        assert entry.boxes.boxes_xyxy.tolist() == [box[:4] for box in expected]


def test_a_second_label_set_on_copied_pictures_needs_no_annotations(resnet, tmp_path):
    root = trees.openimages_tree(tmp_path / "data")
    shard("openimages", root, tmp_path / "out", resnet, pictures="copy")
    first = tar_hashes(tmp_path / "out")
    for path in root.iterdir():
        if path.is_file():
            path.unlink()
    summary, _ = shard("openimages", root, tmp_path / "out", resnet, pictures="copy", label_set="again")
    assert summary.complete
    again = {name.replace("/again/", "/resnet/"): data for name, data in tar_hashes(tmp_path / "out").items()}
    assert again == first


def test_windows_of_shrunk_pictures_show_the_same_boxes(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    views = []
    for name, side in (("whole", None), ("shrunk", 32)):
        shard("coco", root, tmp_path / name, resnet, pictures="copy", max_side=side)
        cache = open_cache(tmp_path / name)
        views.append([item.view for item in cache.label_shard("resnet", 0).views()])
        assert verify_cache(tmp_path / name).problems == ()
    for whole, small in zip(*views, strict=True):
        if whole.tiles["source_xyxy_px"][0].tolist() == [0, 0, 64, 48]:
            assert whole.canvas_hw == small.canvas_hw
            np.testing.assert_allclose(whole.regions["box_xyxy_px"], small.regions["box_xyxy_px"], atol=0.01)


def test_jitters_lie_beside_their_windows_and_verify(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    shard("coco", root, tmp_path / "out", resnet, jitters=3)
    assert verify_cache(tmp_path / "out").problems == ()
    cache = open_cache(tmp_path / "out")
    rows = cache.label_shard("resnet", 0).rows()
    by_member = {(row["key"], row["kind"], int(row["pass"])): row["regions"] for row in rows}
    assert len(by_member) == 2 * 2 * 3
    for (key, kind, number), regions in by_member.items():
        if kind == "jitter":
            assert regions == 3 * by_member[key, "window", number]


def test_any_teacher_takes_windows_of_no_boxes(vit, tmp_path):
    root = trees.coco_tree(tmp_path / "data", count=1)
    summary, _ = shard("coco", root, tmp_path / "out", vit)
    assert summary.complete
    assert open_cache(tmp_path / "out").label_sets["vit"].regions == 0
    assert verify_cache(tmp_path / "out").problems == ()


def test_missing_damaged_and_resized_pictures_are_set_aside_by_name(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    pictures = sorted((root / "train2017").iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:100])
    pictures[2].write_bytes(jpeg(2, (48, 63)))
    shard("coco", root, tmp_path / "out", resnet)
    cache = open_cache(tmp_path / "out")
    assert (cache.manifest.samples, cache.manifest.quarantined, cache.manifest.plan.rejected) == (5, 2, 1)
    lines = [json.loads(line) for path in (tmp_path / "out" / "quarantine").iterdir() for line in path.open()]
    reasons = {line["name"]: line["reason"] for line in lines}
    assert reasons[pictures[0].name] == "missing, though it is annotated"
    assert pictures[1].name in reasons
    assert "is 48 high and 63 wide, its annotations say 48 and 64" in reasons[pictures[2].name]
    assert verify_cache(tmp_path / "out").problems == ()


def test_a_resumed_run_does_without_its_annotations_but_not_with_others(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    path = root / "annotations" / "instances_train2017.json"
    shard("coco", root, out, resnet)
    path.rename(tmp_path / path.name)
    assert shard("coco", root, out, resnet)[0].already == 3
    assert shard("coco", root, out, resnet, annotations=tmp_path / path.name)[0].already == 3
    for other in ("other.json", "val/instances_train2017.json"):
        with pytest.raises(
            ManifestMismatchError, match=r"annotations is 'annotations/instances_train2017\.json' there"
        ):
            shard("coco", root, out, resnet, annotations=Path(other))


def test_changed_annotations_are_refused_until_the_cache_is_begun_anew(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    path = root / "annotations" / "instances_train2017.json"
    shard("coco", root, out, resnet, pictures="copy")
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [1, 2, 30, 20]
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestMismatchError, match=r"annotations_file\.sha256 is .*--overwrite"):
        shard("coco", root, out, resnet, pictures="copy")
    shard("coco", root, out, resnet, pictures="copy", overwrite=True)
    entries = [entry for number in range(3) for entry in planned_entries(*plan_of(out), number)]
    assert any([1, 2, 31, 22] in entry.boxes.boxes_xyxy.tolist() for entry in entries)


def plan_of(out):
    cache = open_cache(out)
    return cache.layout, cache.manifest.plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"]), "2 images are called"),
        (lambda c: c["categories"][1].update(name=c["categories"][0]["name"]), "stands twice; classes are told apart"),
        (lambda c: c["categories"][0].update(name="none"), "'none'"),
        (lambda c: c["categories"][0].update(name="a\nb"), "can't name a class"),
        (lambda c: c["images"][1].update(file_name="a\ud800.jpg"), "stays in the folder of the pictures"),
    ],
)
def test_names_that_tell_nothing_apart_are_refused_before_any_work(resnet, tmp_path, change, message):
    root = trees.coco_tree(tmp_path / "data")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(SourceError, match=message):
        shard("coco", root, tmp_path / "out", resnet)


def test_a_name_that_is_too_long_for_a_file_is_set_aside(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "x" * 5000 + ".jpg"
    path.write_text(json.dumps(content))
    shard("coco", root, tmp_path / "out", resnet)
    assert open_cache(tmp_path / "out").manifest.samples == 7


def test_a_damaged_tar_of_copied_pictures_is_made_again_by_the_same_command(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    shard("coco", root, out, resnet, pictures="copy")
    before = tar_hashes(out)
    tar = next(iter(sorted(out.glob("pictures/*.tar"))))
    tar.write_bytes(tar.read_bytes()[:700])
    shard("coco", root, out, resnet, pictures="copy")
    assert tar_hashes(out) == before


def test_pictures_that_have_moved_are_found_or_asked_for(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    shard("coco", root, tmp_path / "out", resnet)
    moved = root / "images" / "train2017"
    moved.parent.mkdir()
    (root / "train2017").rename(moved)
    assert shard("coco", root, tmp_path / "out", resnet, label_set="found")[0].complete
    moved.rename(root / "elsewhere")
    with pytest.raises(SourceError, match=r"no picture of the plan is there.*--images"):
        shard("coco", root, tmp_path / "out", resnet, label_set="asked")
    assert shard("coco", root, tmp_path / "out", resnet, label_set="asked", images=root / "elsewhere")[0].complete


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 1}, "--crops 1 with --dataset coco: it is detection data, which takes --windows"),
        ({"mosaics": 4}, "--mosaics 4 with"),
        ({"windows": 0}, "leave nothing to label"),
        ({"windows": 0, "jitters": 2}, "--windows 0 makes none"),
        ({"annotations": "absent.json"}, "--annotations absent.json is not there"),
        ({"images": "absent"}, "--images absent is no folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(resnet, tmp_path, options, message):
    root = trees.coco_tree(tmp_path / "data", count=2)
    with pytest.raises(RichSemError, match=message):
        shard("coco", root, tmp_path / "out", resnet, **options)


@pytest.mark.parametrize("option", [{"windows": 2}, {"jitters": 1}, {"annotations": "a.json"}, {"images": "b"}])
def test_classification_data_takes_no_options_of_detection_data(resnet, tmp_path, option):
    (name,) = option
    with pytest.raises(RichSemError, match=f"--{name} .* classification data, which takes --crops and --mosaics"):
        shard_job.shard(tmp_path, tmp_path / "out", resnet, **option)


def test_rotated_pictures_are_judged_upright(resnet, tmp_path):
    from PIL import Image

    root = trees.coco_tree(tmp_path / "data", count=3)
    path = sorted((root / "train2017").iterdir())[0]
    picture = decode_picture(path.read_bytes()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    shard("coco", root, tmp_path / "out", resnet)
    assert open_cache(tmp_path / "out").manifest.quarantined == 0


def views_by_member(out, labels="resnet"):
    cache = open_cache(out)
    return {tuple(view.name.split(".", 1)): view.labelled for view in cache.views(labels)}


def test_a_cache_of_wholes_alone_has_every_annotated_box_and_its_copies_at_every_noise_scale(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    shard("coco", root, out, resnet, windows=0, whole=True, jitters=2, noise="0.1,0.5")
    assert verify_cache(out).problems == ()
    cache, views = open_cache(out), views_by_member(out)
    assert {member for _, member in views} == {"whole-0.npy", "whole-jitter-0.npy"}
    spec = cache.label_set("resnet").spec.views
    assert (spec.windows, spec.whole, spec.jitters, spec.noise_scales) == (0, True, 2, (0.1, 0.5))
    boxes = 0
    for number, stored in stored_pictures(cache):
        entry = planned_entries(cache.layout, cache.manifest.plan, number)[stored.row["sample"]]
        whole, jitter = (views[stored.row["key"], f"{kind}-0.npy"].view for kind in ("whole", "whole-jitter"))
        # 48 x 64 pixels at a short side of 128.
        assert whole.canvas_hw == (128, 170)
        scale = np.array([170 / 64, 128 / 48] * 2)
        np.testing.assert_allclose(whole.regions["box_xyxy_px"], entry.boxes.boxes_xyxy * scale, rtol=1e-5)
        assert whole.regions["category_id"].tolist() == entry.boxes.rows.tolist()
        assert jitter.regions["annotation"].tolist() == np.repeat(np.arange(len(entry.boxes.rows)), 4).tolist()
        assert (
            jitter.regions["noise_scale"].tolist() == np.float32([0.1, 0.1, 0.5, 0.5] * len(entry.boxes.rows)).tolist()
        )
        boxes += len(entry.boxes.rows)
    assert boxes > 4
    assert cache.label_set("resnet").regions == 5 * boxes
    assert json.loads((out / "plan" / "plan.json").read_text())["samples_per_shard"] == 3


def test_wholes_change_neither_windows_nor_their_labels(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    shard("coco", root, out, resnet, jitters=1)
    shard("coco", root, out, resnet, jitters=1, whole=True, label_set="more")
    before, after = views_by_member(out), views_by_member(out, "more")
    assert {member for _, member in after.keys() - before.keys()} == {"whole-0.npy", "whole-jitter-0.npy"}
    for name, one in before.items():
        assert one.view.regions.tobytes() == after[name].view.regions.tobytes()
        np.testing.assert_allclose(one.embeddings, after[name].embeddings, atol=2e-3)


def test_wholes_are_seen_by_every_command_that_reads_a_cache(prep, resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    shard("coco", root, out, resnet, windows=0, whole=True, jitters=2, noise="0.3")
    code, told = prep("inspect", out)
    assert code == 0, told
    assert "whole-jitter views" in told
    assert "2 noised copies of each box at 0.3 half sides" in " ".join(re.sub("[│]", " ", told).split())
    code, told = prep("view", out, "--html", tmp_path / "views.html", "--views", 8)
    assert code == 0, told
    assert "Whole-jitter views" in (tmp_path / "views.html").read_text()
    code, told = prep("rescore", out, "--label-set", "soft", "--temperature", "2")
    assert code == 0, told
    code, told = prep("verify", out)
    assert code == 0, told
    code, told = prep("diff", out, "--label-set", "resnet", "soft")
    assert code == 0, told
    code, told = prep("audit", out, "--label-set", "resnet", "--teacher", resnet, "--device", "cpu")
    assert code == 0, told
    cache = open_cache(out)
    card = dataset_card.dataset_card("me/x", cache.manifest, [cache.label_set("resnet")], licence=None)
    assert "1 pass of whole views, 1 pass of whole-jitter views" in card
    again = tmp_path / "again"
    of_it = DETECTION | {"dataset": None, "windows": 0, "whole": True, "label_set": "x", "from_cache": out}
    shard_job.shard(None, again, resnet, **of_it)
    assert {member for _, member in views_by_member(again, "x")} == {"whole-0.npy"}


def test_windows_of_scale_jitter_make_a_verified_cache(resnet, tmp_path):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    shard("coco", root, out, resnet, scale_jitter="64,0.2,2", jitters=1)
    assert verify_cache(out).problems == ()
    views = [item.view for item in views_by_member(out).values()]
    assert {view.canvas_hw for view in views} == {(64, 64)}
    assert any(min(view.tiles["paste_xyxy_px"][0, 2:]) < 64 for view in views)
    geometry = open_cache(out).label_set("resnet").spec.views.geometry
    assert (geometry.scale_jitter.side, geometry.scale_jitter.factors) == (64, (0.2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "0.1"}, "--noise 0.1 is that of jittered boxes, and there are none; add --jitters"),
        ({"jitters": 1, "noise": "0.1,x"}, "--noise '0.1,x': needs numbers with commas"),
        ({"jitters": 1, "noise": ""}, "--noise '': needs numbers"),
        ({"jitters": 1, "noise": "0.1,0.1"}, "--noise 0.1,0.1: give each scale once"),
        ({"jitters": 1, "noise": "2"}, r"--noise 2\.0: .*less than or equal to 1"),
        ({"jitters": 1, "noise": "nan"}, "--noise nan: [^;]*$"),
        ({"jitters": 1, "noise": ()}, "--noise names no scale; give at least one"),
        ({"jitters": 40, "noise": "0.1,0.2,0.3"}, "120 copies of each box; at most 100 are made"),
        *[
            (
                {"scale_jitter": given},
                rf"^--scale-jitter '{given}': needs a side of whole pixels, 1 to 8192, and two factors, 0\.001 to "
                r"1000, the smaller one first; such as 640,0\.1,2$",
            )
            for given in ("64", "64,2,0.1", "64.5,0.1,2", "0,1,2", "64,nan,2", "64,0.1,nan", "inf,1,2", "64,0.1,1001")
        ],
        ({"scale_jitter": "64,0.1,2", "windows": 0, "whole": True}, "there are none; ask for --windows of detection"),
    ],
)
def test_scales_that_do_not_fit_are_refused(resnet, tmp_path, options, message):
    root = trees.coco_tree(tmp_path / "data", count=2)
    with pytest.raises(RichSemError, match=message):
        shard("coco", root, tmp_path / "out", resnet, **options)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"whole": True}, "--whole"),
        ({"jitters": 2}, "--jitters 2"),
    ],
)
def test_views_of_boxes_are_refused_where_there_are_none(pictures, resnet, tmp_path, options, shown):
    expected = f"{shown} with --dataset folder: it is classification data, which takes --crops and --mosaics; drop it"
    with pytest.raises(RichSemError, match=f"^{re.escape(expected)}$"):
        shard_job.shard(pictures, tmp_path / "out", resnet, **options)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("annotation", 99, "annotation is one that its picture has not"),
        ("category_id", 2, "not that of its annotation"),
    ],
)
def test_verify_compares_regions_with_the_boxes_of_the_listing(resnet, tmp_path, monkeypatch, field, value, message):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    whole_view = recipes.whole_view

    def wrong(sample, geometry):
        view = whole_view(sample, geometry)
        view.regions[field][view.regions["category_id"] == 1] = value
        return view

    monkeypatch.setattr(recipes, "whole_view", wrong)
    shard("coco", root, out, resnet, windows=0, whole=True)
    problems = verify_cache(out).problems
    assert problems
    assert all(message in problem.message for problem in problems)


def test_verify_finds_noise_of_another_scale_than_the_spec_says(resnet, tmp_path, monkeypatch):
    root, out = trees.coco_tree(tmp_path / "data"), tmp_path / "out"
    jitter_view = recipes.jitter_view
    monkeypatch.setattr(recipes, "jitter_view", lambda view, copies, _, rng: jitter_view(view, copies, (0.5,), rng))
    shard("coco", root, out, resnet, windows=0, whole=True, jitters=1, noise="0.25")
    problems = verify_cache(out).problems
    assert problems
    assert all("noise_scale is none of the spec's" in problem.message for problem in problems)


def rows_of(summary):
    columns = [list(column.cells) for column in summary_table(summary).columns]
    return dict(zip(*columns, strict=True))


def test_the_summary_tells_of_the_pictures_that_the_listing_left_out(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    whole, _ = shard("coco", root, tmp_path / "whole", resnet)
    assert "left out of the listing" not in rows_of(whole)
    for path in sorted((root / "train2017").iterdir())[:2]:
        path.unlink()
    for already in (0, 2):
        summary, _ = shard("coco", root, tmp_path / "out", resnet)
        assert (summary.already, summary.left_out) == (already, 2)
        assert (rows_of(summary)["left out of the listing"], rows_of(summary)["quarantined"]) == ("2", "0")


def test_boxes_written_as_fractions_are_told_before_the_work(resnet, tmp_path):
    root = trees.coco_tree(tmp_path / "data")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.1, 0.5, 0.5]
    path.write_text(json.dumps(content))
    _, said = shard("coco", root, tmp_path / "out", resnet)
    assert any("they seem to be fractions of its sides, and pixels are expected" in line for line in said)
