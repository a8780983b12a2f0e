import hashlib
import io
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from synthetic_cache import DIM, LABELS, SyntheticCache
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.verify.cache import verify_cache
from richsem_prep.verify.views import SAMPLED_REGIONS, sampled_regions
from richsem_schemas.cache.codec import LabelledView, pack_view
from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW, index_bytes
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, LabelSpec, LabelsReceipt, PicturesReceipt
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import TopKSoftLabels, top_k_soft_labels
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.cache.view_batch import ShardPictures, ViewBatch
from richsem_schemas.cache.view_checks import are_unsorted, geometry_problems
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.canonical_json import canonical_json


def problems_of(cache, **options):
    return verify_cache(cache.layout.out, **options).problems


def paths_of(problems):
    return {problem.path for problem in problems}


def files_of(out):
    return sorted(path for path in out.rglob("*") if path.is_file())


def names_of_files(finished):
    return [path.relative_to(finished.layout.out).as_posix() for path in files_of(finished.layout.out)]


def test_a_whole_cache_has_no_problems(finished_cache):
    found = verify_cache(finished_cache.layout.out)
    assert found.problems == ()
    assert found.notes == ()
    # 40 good pictures in 16 + 16 + 9, one of them quarantined: 40 crops; mosaics of 4 + 4 + 2..3 groups, twice.
    assert found.pictures == 40
    assert found.views == 40 + 22
    assert found.regions == 40 + 4 * 22
    assert found.files == len(files_of(finished_cache.layout.out))
    assert found.bytes == sum(path.stat().st_size for path in files_of(finished_cache.layout.out))


@pytest.mark.parametrize("options", [{"embeddings": "int8"}, {"embeddings": "none"}, {"pictures": "reference"}])
def test_every_kind_of_cache_verifies(pictures_root, tmp_path, options):
    cache = SyntheticCache(pictures_root, tmp_path / "out", **options).make()
    assert problems_of(cache) == ()


def test_every_truncation_of_every_file_is_found(finished_cache, cache):
    for name in names_of_files(finished_cache):
        path = cache.layout.out / name
        data = path.read_bytes()
        for length in {0, 1, len(data) // 2, max(len(data) - 512, 0), len(data) - 1}:
            path.write_bytes(data[:length])
            assert name in paths_of(problems_of(cache)), f"{name} cut to {length} of {len(data)} bytes"
        path.write_bytes(data + b"\0")
        assert name in paths_of(problems_of(cache)), f"{name} with a byte more"
        path.write_bytes(data)
    assert problems_of(cache) == ()


def test_every_flipped_byte_of_every_file_is_found(finished_cache, cache):
    rng = np.random.default_rng(0)
    for name in names_of_files(finished_cache):
        path = cache.layout.out / name
        data = path.read_bytes()
        for offset in [0, len(data) - 1, *rng.integers(0, len(data), 4).tolist()]:
            broken = bytearray(data)
            broken[offset] ^= int(rng.integers(1, 256))
            path.write_bytes(broken)
            assert name in paths_of(problems_of(cache)), f"{name}, byte {offset}"
        path.write_bytes(data)
    assert problems_of(cache) == ()


def test_every_deleted_file_is_found(finished_cache, cache):
    for name in names_of_files(finished_cache):
        path = cache.layout.out / name
        path.rename(cache.layout.out.parent / "away")
        assert name in paths_of(problems_of(cache)), name
        (cache.layout.out.parent / "away").rename(path)


def test_a_deleted_shard_is_found(cache):
    for path in files_of(cache.layout.out):
        if path.stem == "folder-000001":
            path.unlink()
    found = paths_of(problems_of(cache))
    assert {"receipts/pictures/folder-000001.json", f"receipts/labels/{LABELS}/folder-000001.json"} <= found


@pytest.mark.parametrize(
    "name",
    [
        "stranger",
        "pictures/stranger.tar",
        "pictures/folder-000003.tar",
        "pictures/folder-000000.json",
        "pictures/deep/folder-000000.tar",
        "labels/README",
        "labels/more/file",
        f"labels/{LABELS}/text/more.npy",
        "quarantine/folder-000002.jsonl",
        "index/folder-000000.parquet",
        "plan/\x1b[31m.json",
    ],
)
def test_a_file_that_does_not_belong_is_found(cache, name):
    path = cache.layout.out / name
    if path.exists():
        pytest.skip("this shard has a quarantine file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"?")
    assert name in paths_of(problems_of(cache))


def test_locks_are_no_strangers_and_temporary_files_a_note(cache):
    (cache.layout.out / ".jobs").mkdir()
    (cache.layout.out / ".jobs" / "guard").write_bytes(b"")
    (cache.layout.out / "pictures" / ".folder-000000.tar.1-aa.tmp").write_bytes(b"half")
    found = verify_cache(cache.layout.out)
    assert found.problems == ()
    assert "1 temporary file" in found.notes[0]


def test_links_are_reported_and_not_followed(cache, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    shutil.move(cache.layout.pictures_tar(0), secret / "x.tar")
    cache.layout.pictures_tar(0).symlink_to(secret / "x.tar")
    (cache.layout.out / "loop").symlink_to(cache.layout.out)
    messages = {(problem.path, problem.message.split(",")[0]) for problem in problems_of(cache)}
    assert ("pictures/folder-000000.tar", "a link that leads out of the cache") in messages
    assert ("pictures/folder-000000.tar", "it is missing") in messages
    assert ("loop", "a link that leads within the cache") in messages


def test_a_fifo_does_not_hang(cache):
    cache.layout.pictures_tar(0).unlink()
    os.mkfifo(cache.layout.pictures_tar(0))
    assert "neither a file nor a folder" in {problem.message for problem in problems_of(cache)}


def test_an_unfinished_cache_is_reported_with_what_is_there(cache):
    cache.layout.manifest.unlink()
    cache.label_set.manifest.unlink()
    cache.label_set.receipt(2).unlink()
    messages = {problem.path: problem.message for problem in problems_of(cache)}
    assert messages["manifest.json"] == "the cache is not finished: 3 of 3 shards have a receipt"
    labels = f"labels/{LABELS}/manifest.json"
    assert messages[labels] == "the label set is not finished: 2 of 3 shards have a receipt"
    assert set(messages) == {"manifest.json", labels}


def test_no_cache_is_the_users_mistake(tmp_path):
    with pytest.raises(RichSemError, match="holds no cache"):
        verify_cache(tmp_path)
    with pytest.raises(RichSemError, match="is no folder"):
        verify_cache(tmp_path / "absent")


def test_one_label_set_can_be_checked_alone(cache, pictures_root):
    other = SyntheticCache(pictures_root, cache.layout.out, labels="other", embeddings="none").make()
    assert problems_of(cache) == ()
    other.label_set.tar(0).write_bytes(b"")
    assert paths_of(problems_of(cache)) == {"labels/other/folder-000000.tar"}
    assert problems_of(cache, label_set=LABELS) == ()
    with pytest.raises(RichSemError, match=r"no label set 'third'; it has: hashed, other"):
        problems_of(cache, label_set="third")


def damaged_pictures(cache):
    return cache.layout.pictures_tar(1)


def damaged_pictures_index(cache):
    return cache.layout.pictures_index(1)


def damaged_labels(cache):
    return cache.label_set.tar(1)


def damaged_labels_index(cache):
    return cache.label_set.index(1)


def damaged_pictures_receipt(cache):
    return cache.layout.pictures_receipt(1)


@pytest.mark.parametrize(
    "choose",
    [damaged_pictures, damaged_pictures_index, damaged_labels, damaged_labels_index, damaged_pictures_receipt],
)
def test_the_remedy_mends_a_damaged_shard(cache, finished_cache, choose):
    path = choose(cache)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (problem,) = problems_of(cache)
    receipt = problem.remedy.removeprefix("delete ").partition(" and run")[0]
    os.unlink(receipt)
    assert cache.make_missing_shards() == [1]
    cache.finish()
    assert problems_of(cache) == ()
    assert path.suffix == ".json" or path.read_bytes() == choose(finished_cache).read_bytes()


# --- files whose hashes are right and whose content is wrong -------------------------------------------------------


def hash_of(path):
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def reseal_labels(cache, shard=0, **summary):
    """Make receipt and manifest of a label shard fit its files again."""
    labels = cache.label_set
    receipt = LabelsReceipt.read(labels.receipt(shard))
    update = {"tar": hash_of(labels.tar(shard)), "index": hash_of(labels.index(shard)), **summary}
    new = receipt.summary.model_validate(receipt.summary.model_dump() | update)
    receipt.model_copy(update={"summary": new}).write(labels.receipt(shard))
    manifest = LabelManifest.read(labels.manifest)
    shards = tuple(new if item.shard == shard else item for item in manifest.shards)
    totals = {name: sum(getattr(item, name) for item in shards) for name in ("views", "regions")}
    totals["bytes"] = sum(item.tar.bytes for item in shards)
    manifest.model_copy(update={"shards": shards, **totals}).write(labels.manifest)


def rewrite_views(cache, change, shard=0, *, keep=lambda row: True):
    """Change every view of a shard and make all hashes right."""
    layout = LabelSpec.read(cache.label_set.spec).record_layout
    labels = LabelShard(cache.label_set, shard)
    rows = labels.rows()
    rows = rows[[keep(row) for row in rows]]
    changed = [change(writable(labelled)) for labelled in labels.views(rows)]
    members: dict = {}
    for row, labelled in zip(rows, changed, strict=True):
        packed = pack_view(labelled.view, labelled.embeddings, labelled.labels, layout)
        members.setdefault(row["key"], {})[labelled.view.member] = packed
        row["size"] = len(packed)
    with ShardWriter(labels) as writer:
        rows["offset"] = [offset for key in members for offset in writer.add(key, members[key]).values()]
        writer.finish(rows, samples=0)
    reseal_labels(cache, shard, views=len(rows), regions=int(rows["regions"].sum()))


def writable(labelled):
    labels, view = labelled.labels, labelled.view
    return LabelledView(
        replace(view, tiles=view.tiles.copy(), regions=view.regions.copy()),
        TopKSoftLabels(labels.class_ids.copy(), labels.log_probs.copy(), labels.log_rest.copy()),
        labelled.embeddings.copy(),
    )


def only_on(kind, change):
    """Apply a change to the first view of a kind alone."""
    done = []

    def changed(labelled):
        if labelled.view.kind == kind and not done:
            done.append(True)
            return change(labelled) or labelled
        return labelled

    return changed


def test_rewriting_views_unchanged_leaves_no_problem(cache):
    rewrite_views(cache, lambda labelled: labelled)
    assert problems_of(cache) == ()


def set_region(name, value):
    def change(labelled):
        labelled.view.regions[name][0] = value

    return change


def set_tile(name, value, tile=-1):
    def change(labelled):
        labelled.view.tiles[name][tile] = value

    return change


def set_label(name, index, value):
    def change(labelled):
        getattr(labelled.labels, name)[index] = value

    return change


def set_canvas(hw):
    return lambda labelled: replace(labelled, view=replace(labelled.view, canvas_hw=hw))


def scaled_embedding(labelled):
    labelled.embeddings[0] *= 1.1


def other_embedding(labelled):
    labelled.embeddings[0] = np.roll(labelled.embeddings[0], 1)


def not_a_number(labelled):
    labelled.embeddings[0, 0] = np.nan


def swapped_order(labelled):
    for values in (labelled.labels.class_ids, labelled.labels.log_probs):
        values[0, [0, -1]] = values[0, [-1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_region("box_xyxy_px", (0, 0, 1000, 10)), "box leaves the canvas"),
        (set_region("box_xyxy_px", (-1, 0, 10, 10)), "box leaves the canvas"),
        (set_region("box_xyxy_px", (5, 5, 5, 10)), "has no area"),
        (set_region("box_xyxy_px", (np.nan, 0, 10, 10)), "box leaves the canvas"),
        (set_region("tile", 4), "names a tile that the view has not"),
        (set_region("tile", -1), "names a tile that the view has not"),
        (set_region("category_id", 7), "is outside of 0..6"),
        (set_region("category_id", 6), "is not its picture's"),
        (set_region("annotation", 0), "annotation is not one that its kind"),
        (set_region("annotation", -2), "annotation is not one that its kind"),
        (set_region("noise_scale", 0.5), "noise_scale is not one that its kind"),
        (set_region("noise_scale", np.nan), "noise_scale is not one that its kind"),
        (set_tile("sample", 99), "a sample that the shard has not"),
        (set_tile("source_xyxy_px", (0, 0, 49, 10)), "a source rectangle leaves its picture"),
        (set_tile("source_xyxy_px", (-0.1, 0, 10, 10)), "a source rectangle leaves its picture"),
        (set_tile("source_xyxy_px", (0, 0, np.inf, 10)), "a source rectangle leaves its picture"),
        (set_tile("paste_xyxy_px", (0, 0, 65, 10)), "pasted outside of the canvas"),
        (set_tile("paste_xyxy_px", (4, 4, 4, 10)), "without area"),
        (set_tile("flip", 2), "flip is neither 0 nor 1"),
        (set_canvas((0, 64)), "canvas has no area, or too much"),
        (set_canvas((60_000, 60_000)), "canvas has no area, or too much"),
        (set_label("class_ids", (0, 0), 7), "class ids outside of 0..6"),
        (set_label("class_ids", (0, 0), -1), "class ids outside of 0..6"),
        (set_label("log_probs", (0, 0), 0.5), "above 0 or no number"),
        (set_label("log_probs", (0, 0), np.nan), "above 0 or no number"),
        (set_label("log_probs", (0, 0), -20), "don't sum to 1"),
        (set_label("log_rest", 0, 0.0), "don't sum to 1"),
        (set_label("log_rest", 0, np.nan), "don't sum to 1"),
        (swapped_order, "not sorted by probability"),
        (scaled_embedding, "has not the norm 1"),
        (not_a_number, "has not the norm 1"),
        (other_embedding, "not the one that its embedding"),
    ],
)
def test_wrong_values_with_right_hashes_are_found(cache, change, message):
    rewrite_views(cache, only_on("mosaic", change))
    problems = problems_of(cache)
    assert any(message in problem.message for problem in problems), problems
    assert paths_of(problems) == {f"labels/{LABELS}/folder-000000.tar"}


def test_no_label_that_we_write_counts_as_unsorted():
    rng = np.random.default_rng(1)
    for spread in (0, 1e-3, 0.3, 2, 8):
        logits = rng.standard_normal((2_000, 97)) * spread
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        stored = top_k_soft_labels(log_probs, top_k=64).log_probs
        assert not are_unsorted(stored).any()
        assert spread < 2 or are_unsorted(stored[:, ::-1]).all()


def test_a_class_twice_in_a_soft_label_is_found(cache):
    def change(labelled):
        labelled.labels.class_ids[0, 1] = labelled.labels.class_ids[0, 0]

    rewrite_views(cache, only_on("crop", change))
    assert any("a class twice" in problem.message for problem in problems_of(cache))


def test_a_pass_that_leaves_a_picture_out_is_found(cache):
    rewrite_views(cache, lambda labelled: labelled, keep=lambda row: (row["kind"], row["sample"]) != ("crop", 3))
    messages = [problem.message for problem in problems_of(cache)]
    assert messages == ["pass 0 of crop views doesn't show each picture exactly once"]


def test_a_pass_that_is_missing_is_found(cache):
    rewrite_views(cache, lambda labelled: labelled, keep=lambda row: (row["kind"], row["pass"]) != ("mosaic", 1))
    assert [problem.message for problem in problems_of(cache)] == ["it has 1 passes of mosaic views, the spec says 2"]


def test_a_mosaic_across_blocks_is_found():
    pictures = ShardPictures(np.arange(128), np.full((128, 2), 32), np.zeros(128, np.int64), classes=1)
    tiles = np.array(
        [(sample, (0, 0, 32, 32), (32 * (n % 2), 32 * (n // 2), 32 * (n % 2) + 32, 32 * (n // 2) + 32), 0)
         for n, sample in enumerate((60, 61, 62, 64))],
        TILE_DTYPE,
    )  # fmt: skip
    regions = np.array([((0, 0, 32, 32), 0, 0, -1, 0)], REGION_DTYPE)
    empty = TopKSoftLabels(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float16), np.zeros(1, np.float32))
    labelled = LabelledView(View("mosaic", 0, (64, 64), tiles, regions), empty, None)
    assert list(geometry_problems(ViewBatch.of([("x", labelled)]), pictures)) == [
        "x: its tiles come from several blocks of 64"
    ]


def rewrite_pictures(cache, change_row=lambda row: row, change_sidecar=lambda sidecar: sidecar, shard=0):
    """Change sidecars and index of a picture shard and make all hashes right."""
    pictures = PictureShard(cache.layout, shard)
    stored, rows = list(pictures.pictures(root=None)), []
    with ShardWriter(pictures) as writer:
        for item in stored:
            data, row = canonical_json(change_sidecar(dict(item.sidecar))), item.row.copy()
            offsets = writer.add(row["key"], {"json": data, row["extension"]: item.data})
            row["offset"], row["json_offset"], row["json_size"] = offsets[row["extension"]], offsets["json"], len(data)
            rows.append(change_row(row.item()))
        writer.finish(np.array(rows, PICTURE_ROW), samples=0)
    reseal_pictures(cache, shard)


def reseal_pictures(cache, shard=0, **summary):
    layout = cache.layout
    receipt = PicturesReceipt.read(layout.pictures_receipt(shard))
    update = {"tar": hash_of(layout.pictures_tar(shard)), "index": hash_of(layout.pictures_index(shard)), **summary}
    new = receipt.summary.model_validate(receipt.summary.model_dump() | update)
    receipt.model_copy(update={"summary": new}).write(layout.pictures_receipt(shard))
    manifest = CacheManifest.read(layout.manifest)
    shards = tuple(new if item.shard == shard else item for item in manifest.shards)
    manifest.model_copy(update={"shards": shards, "bytes": sum(item.tar.bytes for item in shards)}).write(
        layout.manifest
    )


def test_rewriting_pictures_unchanged_leaves_no_problem(cache):
    rewrite_pictures(cache)
    assert problems_of(cache) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is not that of"),
        ({"name": "another"}, "its name is not that of the index"),
        ({"category": "another"}, "its category is not that of the index"),
        ({"height": 1}, "its height is not that of the index"),
    ],
)
def test_a_sidecar_that_disagrees_is_found(cache, change, message):
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | change)
    problems = problems_of(cache)
    assert all(message in problem.message for problem in problems)
    assert paths_of(problems) == {"pictures/folder-000000.tar"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "000000-0000.1", "the key of sample"),
        (1, 99, "not in order, or not in the plan"),
        (2, 7, "is not in the vocabulary"),
        (4, "../jpg", "is no extension of pictures"),
        (5, 0, "has no area"),
        (7, -1, "don't fit `--pictures copy`"),
    ],
)
def test_an_index_row_that_is_wrong_is_found(cache, column, value, message):
    def change(row):
        return (*row[:column], value, *row[column + 1 :])

    rewrite_pictures(cache, change_row=change)
    assert any(message in p.message for p in problems_of(cache) if p.path == "index/pictures/folder-000000.parquet")


def test_an_index_that_points_elsewhere_is_found(cache):
    rewrite_pictures(cache, change_row=lambda row: (*row[:7], row[7] + 512, *row[8:]))
    assert any("stands where the index has" in problem.message for problem in problems_of(cache))


def append_members(path, info, data=b""):
    """Put one more member into a tar."""
    buffer = io.BytesIO(path.read_bytes())
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        tar.addfile(info, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())


def test_a_member_that_the_index_has_not_is_found(cache):
    info = tarfile.TarInfo("999999-00000.pth")
    info.size = 3
    append_members(cache.layout.pictures_tar(0), info, b"abc")
    reseal_pictures(cache)
    (problem,) = problems_of(cache)
    assert problem.message == "it goes on with '999999-00000.pth', which the index has not"


def test_a_link_in_a_tar_is_found(cache):
    info = tarfile.TarInfo("evil")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    append_members(cache.label_set.tar(0), info)
    reseal_labels(cache)
    (problem,) = problems_of(cache)
    assert problem.message == "'evil' is no plain file"


def test_a_tar_cut_at_a_member_is_found_even_where_the_hashes_fit(cache):
    path = cache.layout.pictures_tar(0)
    row = PictureShard(cache.layout, 0).rows()[8]
    path.write_bytes(path.read_bytes()[: min(row["offset"], row["json_offset"]) - 512])
    reseal_pictures(cache)
    (problem,) = problems_of(cache)
    assert "no tar header" in problem.message


def rewrite_tar(path, change):
    """Write a tar anew with `change` applied to each member's header."""
    with tarfile.open(path) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]
    with open(path, "wb") as file:
        for info, data in members:
            file.write(change(info.tobuf(tarfile.USTAR_FORMAT)) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))


def with_field(header, start, value):
    """A header with other bytes at `start` and its checksum made right."""
    header = bytearray(header)
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def spaces_around_the_size(header):
    return with_field(header, 124, b"%11o " % int(header[124:135], 8))


@pytest.mark.parametrize(
    "change", [lambda header: with_field(header, 136, b"00000000007\0"), spaces_around_the_size], ids=["mtime", "size"]
)
def test_headers_may_be_spelled_otherwise(cache, change):
    for path in (cache.layout.pictures_tar(0), cache.label_set.tar(0)):
        rewrite_tar(path, change)
    reseal_pictures(cache)
    reseal_labels(cache)
    assert problems_of(cache) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: with_field(header, 0, b"9"), "stands where the index has"),
        (lambda header: with_field(header, 11, b"\xff"), "stands where the index has"),
        (lambda header: with_field(header, 345, b"folder"), "stands where the index has"),
        (lambda header: with_field(header, 124, b"77777777777"), "more than there are"),
        (lambda header: with_field(header, 124, b"00000000001"), "stands where the index has"),
        (lambda header: with_field(header, 156, b"2"), "is no plain file"),
        (lambda header: header[:148] + b"000000\0 " + header[156:], "no tar header"),
    ],
    ids=["name", "no ASCII", "prefix", "large", "small", "link", "checksum"],
)
def test_a_header_that_is_not_what_the_index_has_is_found_even_where_the_hashes_fit(cache, change, message):
    for path in (cache.layout.pictures_tar(0), cache.label_set.tar(0)):
        rewrite_tar(path, change)
    reseal_pictures(cache)
    reseal_labels(cache)
    problems = problems_of(cache)
    assert paths_of(problems) == {"pictures/folder-000000.tar", f"labels/{LABELS}/folder-000000.tar"}
    assert all(message in problem.message for problem in problems), problems


def test_chunks_of_any_size_find_the_same(cache, monkeypatch):
    whole = verify_cache(cache.layout.out)
    monkeypatch.setattr("richsem_prep.verify.tar.CHUNK_BYTES", 1)
    assert verify_cache(cache.layout.out) == whole
    rewrite_views(cache, only_on("mosaic", other_embedding))
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | {"height": 1}, shard=2)
    assert paths_of(problems_of(cache)) == {f"labels/{LABELS}/folder-000000.tar", "pictures/folder-000002.tar"}


def other_embedding_of(region):
    """Spoil the embedding of one region, counted over the shard."""
    seen = [0]

    def change(labelled):
        first, seen[0] = seen[0], seen[0] + len(labelled.embeddings)
        if first <= region < seen[0]:
            labelled.embeddings[region - first] = np.roll(labelled.embeddings[region - first], 1)
        return labelled

    return change


def test_labels_are_computed_again_for_a_sample_and_all_of_them_where_asked(pictures_root, tmp_path):
    cache = SyntheticCache(pictures_root, tmp_path / "out", crops=2, mosaics=4).make()
    regions = 16 * 2 + 4 * 4 * 4
    sampled = set(sampled_regions(regions, seed=0, shard=1).tolist())
    assert len(sampled) == SAMPLED_REGIONS < regions
    spared = min(set(range(regions)) - sampled)
    rewrite_views(cache, other_embedding_of(spared), shard=1)
    assert problems_of(cache) == ()
    assert paths_of(problems_of(cache, thorough=True)) == {f"labels/{LABELS}/folder-000001.tar"}
    rewrite_views(cache, other_embedding_of(max(sampled)), shard=1)
    assert paths_of(problems_of(cache)) == {f"labels/{LABELS}/folder-000001.tar"}


def test_pictures_own_hashes_are_checked_for_a_sample_and_all_of_them_where_asked(cache, monkeypatch):
    monkeypatch.setattr("richsem_prep.verify.shard.SAMPLED_PICTURES", 4)
    wrong = {"sha256": "0" * 64}
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | wrong)
    assert len(problems_of(cache)) == 4
    assert len(problems_of(cache, thorough=True)) == len(PictureShard(cache.layout, 0).rows())


@pytest.mark.parametrize("data", [b"", b"\0" * 512, b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000])
def test_hostile_files_are_findings_not_crashes(cache, data):
    for path in (cache.label_set.tar(0), cache.label_set.index(0), cache.layout.pictures_tar(1)):
        path.write_bytes(data)
    reseal_labels(cache)
    reseal_pictures(cache, 1)
    found = paths_of(problems_of(cache))
    assert f"index/labels/{LABELS}/folder-000000.parquet" in found
    assert found & {"pictures/folder-000001.tar", "index/pictures/folder-000001.parquet"}


def test_the_rest_of_a_deleted_label_set_is_found(cache):
    shutil.copytree(cache.label_set.receipt(0).parent, cache.label_set.receipt(0).parent.with_name("other"))
    assert {"labels/other/manifest.json", "labels/other/spec.json"} <= paths_of(problems_of(cache))


def test_an_index_that_promises_more_rows_than_its_tar_can_hold_is_not_read(cache):
    rows = [("k", n, "crop", 0, 1, 1, 0, 0) for n in range(1_000_000)]
    cache.label_set.index(0).write_bytes(index_bytes(np.array(rows, VIEW_ROW)))
    reseal_labels(cache, views=len(rows))
    assert any("too many for its tar" in problem.message for problem in problems_of(cache))


def test_a_receipt_that_disagrees_with_the_manifest_is_found(cache):
    path = cache.label_set.receipt(0)
    receipt = LabelsReceipt.read(path)
    receipt.model_copy(update={"summary": receipt.summary.model_copy(update={"regions": 1})}).write(path)
    messages = [problem.message for problem in problems_of(cache)]
    assert "it and the manifest disagree about regions" in messages


def test_a_text_bank_of_other_names_is_found(cache):
    features = np.load(cache.label_set.text_features)
    assert features.shape[1] == DIM
    np.save(cache.label_set.text_features, features * 0)
    assert paths_of(problems_of(cache)) == {f"labels/{LABELS}/text/features.npy"}


def test_the_command_names_file_fault_and_remedy_and_exits_with_1(cache):
    result = CliRunner().invoke(app, ["verify", str(cache.layout.out)])
    assert result.exit_code == 0
    assert "is whole" in result.stdout
    cache.label_set.tar(1).write_bytes(b"")
    result = CliRunner().invoke(app, ["verify", str(cache.layout.out)])
    assert result.exit_code == 1
    first, last = result.stdout.splitlines()
    assert first.startswith(f"{cache.label_set.tar(1)}: cut short")
    assert first.endswith(LabelShard(cache.label_set, 1).remedy)
    assert last.endswith("1 problem in 1 file")


def test_the_command_prints_no_control_characters_and_few_lines(cache):
    for number in range(80):
        (cache.layout.out / f"\x1b[31m{number:02d}\n").write_bytes(b"")
    result = CliRunner().invoke(app, ["verify", str(cache.layout.out)])
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 51
    assert "30 of them not shown" in result.stdout


def test_progress_ends_at_the_whole(finished_cache):
    seen = []
    verify_cache(finished_cache.layout.out, threads=1, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("second", ["pillow 12.0.0", "cykooz-resizer 4.0.1"])
def test_a_set_of_two_resizers_is_whole_and_noted_by_finish_and_verify(pictures_root, tmp_path, second):
    cache = SyntheticCache(pictures_root, tmp_path / "out")
    cache.begin()
    cache.make_missing_shards(resizer="cykooz-resizer 4.0.1", most=1)
    cache.make_missing_shards(resizer=second)
    finished = CliRunner().invoke(app, ["finish", str(cache.layout.out)])
    verified = CliRunner().invoke(app, ["verify", str(cache.layout.out)])
    for result in (finished, verified):
        assert result.exit_code == 0
        notes = [line for line in result.stdout.splitlines() if line.startswith("note: ")]
        if second.startswith("pillow"):
            (note,) = notes
            assert "'hashed' were resized by 'cykooz-resizer 4.0.1', 'pillow 12.0.0': pixels differ" in note
        else:
            assert notes == []
