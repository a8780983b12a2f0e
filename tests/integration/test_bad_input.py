"""Broken, hostile and unlucky input: a clear error or a quarantined sample; nothing lost, nothing hung."""

import contextlib
import gzip
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.reader import find_layout, open_cache
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json
from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories
from tests.damage import cut, flip
from tests.integration.programs import error_of
from tests.integration.shard_job import shard as run_shard
from tests.integration.shard_job import tar_hashes, use_small_views
from tests.pictures import encoded, jpeg, write_pictures

SMALL = {"samples_per_shard": 12, "mosaics": 1}


def shard(root, out, teacher, **options):
    return run_shard(root, out, teacher, **(SMALL | options))


def attempt(root, out, teacher, **options):
    """The summary of a run and None, or None and the message with which it was refused."""
    try:
        return shard(root, out, teacher, **options)[0], None
    except RichSemError as error:
        return None, str(error)


@pytest.fixture(scope="module", autouse=True)
def _small_views():
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder", "inet-lvis")
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """30 pictures and one that is none."""
    root = write_pictures(tmp_path_factory.mktemp("bad") / "data", 30)
    (root / "class_0" / "bad.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def made(source, resnet, tmp_path_factory):
    """A finished cache of it, in three shards."""
    out = tmp_path_factory.mktemp("bad") / "made"
    shard(source, out, resnet)
    return out


@pytest.fixture
def cache(made, tmp_path):
    """A copy of the cache, to be spoilt."""
    return shutil.copytree(made, tmp_path / "cache")


@pytest.fixture
def cheap_text(monkeypatch):
    """No text tower: LVIS alone has 1,204 classes of 81 prompts."""
    from richsem_prep.teacher import text

    def means(teacher, names, *, templates, on_progress):
        return np.random.default_rng(0).standard_normal((len(names), teacher.identity.embed_dim)).astype(np.float32)

    monkeypatch.setattr(text, "text_means", means)
    monkeypatch.setattr(text, "_write_cached", lambda path, features: None)


# Pictures


def bomb():
    """A PNG of a few bytes that claims 3.6 gigapixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def odd_pictures():
    """Pictures by name, with what becomes of them: true extension and (height, width), or None for quarantine."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65_536, (30, 30), np.uint16))
    rotated = Image.Exif()
    rotated[0x0112] = 6
    whole = (40, 60)
    return {
        "png.jpg": (encoded(picture, "PNG"), ("png", whole)),
        "jpg.png": (encoded(picture, "JPEG"), ("jpg", whole)),
        "no extension": (encoded(picture, "JPEG"), ("jpg", whole)),
        "gzip.JPEG": (gzip.compress(encoded(picture, "JPEG")), ("jpg", whole)),
        "grey.jpg": (encoded(picture.convert("L"), "JPEG"), ("jpg", whole)),
        "cmyk.jpg": (encoded(picture.convert("CMYK"), "JPEG"), ("jpg", whole)),
        "rgba.png": (encoded(picture.convert("RGBA"), "PNG"), ("png", whole)),
        "deep.png": (encoded(deep, "PNG"), ("png", (30, 30))),
        "bits.png": (encoded(picture.convert("1"), "PNG"), ("png", whole)),
        "palette.png": (encoded(picture.convert("P"), "PNG"), ("png", whole)),
        "rotated.jpg": (encoded(picture, "JPEG", exif=rotated), ("jpg", (60, 40))),
        "moving.gif": (encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(180)]), ("gif", whole)),
        "moving.webp": (encoded(picture, "WEBP", save_all=True, append_images=[picture]), ("webp", whole)),
        "dot.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), ("png", (1, 1))),
        "a.b.c d.jpg": (jpeg(1), ("jpg", (48, 64))),
        "new\nline.jpg": (jpeg(2), ("jpg", (48, 64))),
        "<b>&\"'.jpg": (jpeg(3), ("jpg", (48, 64))),
        "ünï 猫.jpg": (jpeg(4), ("jpg", (48, 64))),
        "-rf.jpg": (jpeg(5), ("jpg", (48, 64))),
        "empty.jpg": (b"", None),
        "text.jpg": (b"hello", None),
        "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        "ghost.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", None),
        "cut.jpg": (encoded(picture, "JPEG")[:300], None),
        "cut.png": (encoded(picture, "PNG")[:-60], None),
        "cut.gz": (gzip.compress(encoded(picture, "JPEG"))[:-20], None),
        "bomb.png": (bomb(), None),
        "float.tif": (encoded(Image.fromarray(rng.random((9, 9), np.float32)), "TIFF"), None),
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A source of odd pictures in one class, and of what is no file at all."""
    root = tmp_path_factory.mktemp("odd") / "data"
    (root / "class").mkdir(parents=True)
    for name, (data, _) in odd_pictures().items():
        (root / "class" / name).write_bytes(data)
    folder = os.fsencode(root) + b"/bytes \xff"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/\xfe.jpg")).write_bytes(jpeg(6))
    os.mkfifo(root / "class" / "fifo.jpg")
    (root / "class" / "zeros.jpg").symlink_to("/dev/zero")
    (root / "class" / "nowhere.jpg").symlink_to("nowhere")
    (root / "class" / "ring").symlink_to("ring")
    (root / "class" / "up").symlink_to("..")
    return root


@pytest.mark.parametrize("pictures", ["copy", "reference"])
def test_odd_pictures_are_cached_as_what_they_are_and_bad_ones_set_aside(odd, resnet, tmp_path, pictures):
    summary, _ = shard(odd, tmp_path / "c", resnet, samples_per_shard=100, pictures=pictures)
    assert summary.complete
    expected = {f"class/{name}": fate for name, (_, fate) in odd_pictures().items() if fate}
    rows = PictureShard(find_layout(tmp_path / "c"), 0).rows()
    made = {row["name"]: (row["extension"], (row["height"], row["width"])) for row in rows}
    assert made.pop(r"bytes \xff/\xfe.jpg") == ("jpg", (48, 64))
    assert made == expected
    reasons = {item["name"]: item["reason"] for item in quarantined(tmp_path / "c")}
    bad = {f"class/{name}" for name, (_, fate) in odd_pictures().items() if not fate}
    assert set(reasons) == bad | {f"class/{name}" for name in ("fifo.jpg", "zeros.jpg", "nowhere.jpg", "ring", "up")}
    assert all(reasons.values())
    assert not verify_cache(tmp_path / "c").problems
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def quarantined(out):
    return [json.loads(line) for path in out.glob("quarantine/*.jsonl") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("teacher", ["resnet", "vit"])
@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 400)])
def test_very_thin_pictures_are_labelled(request, tmp_path, teacher, size):
    root = write_pictures(tmp_path / "data", 3)
    (root / "class_0" / "thin.png").write_bytes(encoded(Image.new("RGB", size), "PNG"))
    # Some are resized as a whole, some cropped.
    summary, _ = shard(root, tmp_path / "c", request.getfixturevalue(teacher), crops=8)
    assert summary.complete
    assert not summary.failed
    assert open_cache(tmp_path / "c").manifest.samples == 4


def test_the_smallest_teacher_size_works(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 3)
    assert shard(root, tmp_path / "c", resnet, teacher_size=32)[0].complete


# Sources


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)


def test_folders_and_tars_of_imagenet_are_read_in_place(resnet, cheap_text, tmp_path, monkeypatch):
    root = tmp_path / "data" / "inet-lvis"
    folder, tar, cut, empty, packed = sorted(class_ids_by_wnid(inet_lvis_categories()))[:5]
    (root / folder).mkdir(parents=True)
    (root / "n00000001").mkdir()  # of ImageNet-21k, not of LVIS
    for number in range(3):
        (root / folder / f"{folder}_{number}.JPEG").write_bytes(jpeg(number))
    members = [
        (f"{tar}_0.JPEG", jpeg(10)),
        (f"{tar}_1.JPEG", gzip.compress(jpeg(11))),
        (f"{'x' * 300}.JPEG", jpeg(12)),
        ("ü.JPEG", jpeg(13)),
        ("../../escaped.jpg", jpeg(14)),
        (f"{tmp_path}/absolute.jpg", jpeg(15)),
        ("a/../../climbing.jpg", jpeg(16)),
        ("link.jpg", (tarfile.SYMTYPE, "/etc/passwd")),
        ("device.jpg", (tarfile.CHRTYPE, "")),
        (f"{tar}_0.JPEG", jpeg(17)),
    ]
    write_tar(root / f"{tar}.tar", members)
    write_tar(root / f"{cut}.tar", [(f"{cut}_{number}.JPEG", jpeg(20 + number)) for number in range(3)])
    os.truncate(root / f"{cut}.tar", 2_600)
    (root / f"{empty}.tar").touch()
    (root / f"{packed}.tar.gz").write_bytes(gzip.compress((root / f"{tar}.tar").read_bytes()))
    monkeypatch.setenv("RICHSEM_DATA", str(tmp_path / "data"))

    summary, said = shard(None, tmp_path / "c", resnet, dataset="inet-lvis")

    assert summary.complete
    assert f"4 of 997 classes found in {root}; absent: {packed}" in said[0]
    cache = open_cache(tmp_path / "c")
    stored = {}
    for number in range(len(cache.manifest.shards)):
        pictures = cache.picture_shard(number).pictures(root=None)
        stored |= {item.row["name"]: item.data for item in pictures}
    assert stored[f"{tar}.tar/{tar}_0.JPEG"] == jpeg(17)  # the later of two of one name, as when unpacked
    assert stored[f"{tar}.tar/{tar}_1.JPEG"] == jpeg(11)
    assert {name.split("/")[0] for name in stored} == {folder, f"{tar}.tar", f"{cut}.tar"}
    assert len([name for name in stored if name.startswith(tar)]) == 4
    rejected = {item["name"]: item["reason"] for item in quarantined(tmp_path / "c")}
    assert {f"{cut}.tar", f"{empty}.tar", f"{packed}.tar.gz", f"{tar}.tar/../../escaped.jpg"} <= set(rejected)
    assert not verify_cache(tmp_path / "c").problems
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "data"]


def test_real_pictures_in_the_imagenet_layout_need_not_be_all_classes(sample_pictures, resnet, cheap_text, tmp_path):
    summary, said = shard(sample_pictures, tmp_path / "c", resnet, dataset="inet-lvis", limit=6, teacher_size=64)
    assert summary.complete
    assert "160 of 997 classes found" in said[0]
    assert not verify_cache(tmp_path / "c").problems


def test_originals_inside_of_out_survive_overwrite(resnet, tmp_path):
    root = write_pictures(tmp_path / "data" / "pictures", 4)
    before = sorted(root.rglob("*.jpg"))
    for options in ({}, {"overwrite": True, "seed": 9}):
        _, refusal = attempt(root, tmp_path / "data", resnet, **options)
        assert refusal is None or "--out" in refusal
    assert sorted(root.rglob("*.jpg")) == before


def test_a_cache_inside_of_root_is_no_class_of_the_next(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 4)
    for out in (root / "first", root / "class_0", root, tmp_path):
        summary, refusal = attempt(root, out, resnet)
        assert summary is None
        assert "--out" in refusal


def test_an_out_whose_name_is_no_utf8_is_made_or_refused(resnet, tmp_path):
    root = write_pictures(tmp_path / "data", 4)
    summary, refusal = attempt(root, Path(os.fsdecode(os.fsencode(tmp_path) + b"/c\xff")), resnet)
    assert summary.complete if summary else "--out" in refusal


# Teachers and devices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "nonsense"}, "--device 'nonsense' can't be used"),
        ({"device": ""}, "--device ''"),
        ({"device": "meta"}, "only cpu and cuda"),
        ({"device": "cuda:99"}, "--device 'cuda:99' can't be used"),
        ({"shard_range": (99, 100)}, r"--shard-range 99:100 begins after the last shard; the plan has 3 \(0:3\)"),
    ],
)
def test_what_this_machine_or_plan_doesnt_have_is_named(source, resnet, tmp_path, options, said):
    with pytest.raises(RichSemError, match=said):
        shard(source, tmp_path / "c", resnet, **options)
    assert not list(tmp_path.rglob("*.tar"))


# Disks


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_really_full_disk_stops_with_a_message_and_a_larger_one_goes_on(source, made, resnet, small_disk):
    for kilobytes in (40, 80, 120, 160, 200, 240):
        disk = small_disk(kilobytes)
        try:
            summary, _ = shard(source, disk / "c", resnet)
        except (RichSemError, OSError) as error:
            assert "No space left" in str(error)  # noqa: PT017 - on which size it fits is the cache's business
        else:
            assert summary.complete
        assert not list(disk.rglob(".*.tmp"))
    assert shard(source, small_disk(10_000) / "c", resnet)[0].complete
    assert tar_hashes(disk / "c") == tar_hashes(made)
    assert not verify_cache(disk / "c").problems


# Damaged caches


DAMAGE = {
    "flipped": flip,
    "cut": partial(cut, count=10),
    "emptied": lambda path: os.truncate(path, 0),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone"])
def test_damaged_shards_indexes_and_receipts_are_made_again(source, made, resnet, cache, damage):
    DAMAGE[damage](cache / "pictures" / "folder-000000.tar")
    DAMAGE[damage](cache / "index" / "pictures" / "folder-000001.parquet")
    DAMAGE[damage](cache / "labels" / "resnet" / "folder-000002.tar")
    summary, _ = shard(source, cache, resnet)
    assert sorted(summary.results) == [0, 1, 2]
    assert tar_hashes(cache) == tar_hashes(made)
    for name in ("receipts/pictures/folder-000000.json", "receipts/labels/resnet/folder-000001.json", "manifest.json"):
        DAMAGE[damage](cache / name)
    summary, _ = shard(source, cache, resnet)
    assert sorted(summary.results) == [0, 1]
    assert tar_hashes(cache) == tar_hashes(made)
    assert not verify_cache(cache).problems


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
@pytest.mark.parametrize("name", ["plan/plan.json", "labels/resnet/spec.json"])
def test_a_damaged_plan_or_spec_stops_the_run_and_says_what_to_do(source, resnet, cache, name, damage):
    DAMAGE[damage](cache / name)
    with pytest.raises(CorruptCacheError, match=f"{name}: .*delete it and run") as error:
        shard(source, cache, resnet)
    assert len(str(error.value).splitlines()) == 1
    (cache / name).unlink()
    assert shard(source, cache, resnet)[0].complete
    assert not verify_cache(cache).problems


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_listing_stops_the_run_where_it_is_needed(source, resnet, cache, damage):
    DAMAGE[damage](cache / "plan" / "listing.arrow")
    (cache / "receipts" / "pictures" / "folder-000001.json").unlink()
    with pytest.raises(RichSemError, match=r"listing\.arrow: .*--overwrite"):
        shard(source, cache, resnet)


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_text_bank_is_mended_or_named(source, resnet, cache, damage):
    DAMAGE[damage](cache / "labels" / "resnet" / "text" / "features.npy")
    _, refusal = attempt(source, cache, resnet)
    assert "features.npy" in refusal if refusal else not verify_cache(cache).problems


def test_a_new_label_set_notices_a_changed_picture_index(source, vit, cache):
    flip(cache / "index" / "pictures" / "folder-000001.parquet")
    with pytest.raises(CorruptCacheError, match=r"folder-000001\.parquet"):
        shard(source, cache, vit)


@pytest.mark.parametrize("name", ["pictures/folder-000001.tar", "labels/resnet/folder-000001.tar"])
def test_finish_notices_a_shard_that_is_cut_or_gone(cache, prep, name):
    (cache / name).unlink()
    assert "folder-000001" in error_of(prep("finish", cache))


@pytest.mark.parametrize("name", ["inspect", "view", "verify"])
def test_an_unfinished_cache_says_how_to_finish_it(source, resnet, tmp_path, prep, name):
    shard(source, tmp_path / "c", resnet, shard_range=(0, 1))
    html = ["--html", tmp_path / "page.html"] if name == "view" else []
    code, output = prep(name, tmp_path / "c", *html)
    assert code == 1
    assert "richsem-prep finish" in output
    assert "Traceback" not in output
    code, output = prep("finish", tmp_path / "c")
    assert code == 1
    assert "2 of 3 shards" in output


# Hostile caches


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def edit(cache, name, change):
    value = read_sealed_json(cache / name)
    change(value)
    write_sealed_json(cache / name, value)


def each_command(prep, cache, page):
    """Every command that reads a cache; none may show a traceback."""
    for arguments in (["verify", cache], ["inspect", cache], ["view", cache, "--html", page], ["finish", cache]):
        code, output = prep(*arguments)
        assert code in {0, 1}
        assert "Traceback" not in output


def test_pickles_in_a_cache_are_not_loaded(cache, tmp_path, source, resnet, prep):
    evil = pickle.dumps(Bomb(tmp_path / "pwned"))
    names = ["000001-00000.pyd", "000001-00000.pth", "000001-00000.crop-0.npy", "../../pwned", f"{tmp_path}/pwned"]
    for tar in (cache / "labels" / "resnet" / "folder-000001.tar", cache / "pictures" / "folder-000001.tar"):
        write_tar(tar, [(name, evil) for name in names])
    objects = io.BytesIO()
    np.save(objects, np.array([Bomb(tmp_path / "pwned")], dtype=object), allow_pickle=True)
    features = cache / "labels" / "resnet" / "text" / "features.npy"
    features.write_bytes(objects.getvalue())
    code, output = prep("verify", cache)
    assert code == 1
    assert "folder-000001.tar" in output
    assert "features.npy" in output
    each_command(prep, cache, tmp_path / "page.html")
    with contextlib.suppress(CorruptCacheError):
        shard(source, cache, resnet)
    assert not {path.name for path in tmp_path.iterdir()} - {"cache", "page.html"}


FORGED = {
    "a dataset that is a shell command": ("plan/plan.json", lambda v: v.update(dataset="pipe:touch /tmp/pwned;")),
    "a dataset that climbs": ("plan/plan.json", lambda v: v.update(dataset="../../x")),
    "10^18 samples": ("plan/plan.json", lambda v: v.update(samples=10**18, listed=10**18)),
    "more samples than listed": ("plan/plan.json", lambda v: v.update(samples=10**6)),
    "a set elsewhere": ("labels/resnet/manifest.json", lambda v: v.update(name="../../x")),
    "a vocabulary too short": ("plan/plan.json", lambda v: v["vocabulary"].update(class_names=["none"])),
    "labels of 10^12 classes": ("labels/resnet/spec.json", lambda v: v.update(top_k=10**12)),
    "a shard from nowhere": (
        "labels/resnet/manifest.json",
        lambda v: v["shards"].append(dict(v["shards"][0], shard=10**9)),
    ),
}


@pytest.mark.parametrize("forged", sorted(FORGED))
@pytest.mark.timeout(60)
def test_a_forged_cache_hangs_nothing_and_writes_nothing(cache, tmp_path, prep, forged):
    edit(cache, *FORGED[forged])
    assert prep("verify", cache)[0] == 1
    each_command(prep, cache, tmp_path / "page.html")
    assert not {path.name for path in tmp_path.iterdir()} - {"cache", "page.html"}
    assert not Path("/tmp/pwned").exists()


def test_a_set_that_claims_another_name_is_inspected_or_refused(cache, tmp_path, prep):
    edit(cache, "labels/resnet/manifest.json", lambda v: v.update(name="other"))
    each_command(prep, cache, tmp_path / "page.html")


@pytest.mark.timeout(20)
def test_a_plan_of_billions_of_shards_hangs_nothing(cache):
    script = f"from richsem_prep.cli import run; import sys; sys.argv = ['x', 'finish', {str(cache)!r}]; run()"
    edit(cache, "plan/plan.json", lambda v: v.update(samples=2**31, listed=2**31, samples_per_shard=1))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=30)
    assert done.returncode == 1


@pytest.mark.parametrize("name", ["plan/plan.json", "receipts/pictures/folder-000001.json", ".jobs/other.json"])
def test_a_fifo_in_a_cache_hangs_nothing(cache, source, name):
    (cache / name).unlink(missing_ok=True)
    os.mkfifo(cache / name)
    script = f"""
from contextlib import suppress
from pathlib import Path

from richsem_schemas.cache.jobs import hold_job
from richsem_schemas.cache.reader import find_layout, read_plan
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.errors import RichSemError

out = Path({str(cache)!r})
with suppress(RichSemError):
    layout = find_layout(out)
    assert PictureShard(layout, 1).is_done(read_plan(layout).fingerprint) == {"receipts" not in name}
with suppress(RichSemError), hold_job(out, None):
    pass
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.parametrize(
    "line", [b"garbage", b"\xff\xfe", b"{}", b"[1]", b'{"sample":-1}', b'{"sample":"x"}', b'{"sample":999999999}']
)
def test_a_broken_quarantine_file_has_its_shard_made_again(source, made, resnet, cache, line):
    (path,) = (cache / "quarantine").glob("folder-*")
    path.write_bytes(line + b"\n")
    summary, _ = shard(source, cache, resnet, retry_failed=True)
    assert len(summary.results) == 1
    assert path.read_bytes() == (made / "quarantine" / path.name).read_bytes()
    assert tar_hashes(cache) == tar_hashes(made)


def test_a_deeply_nested_quarantine_file_has_its_shard_made_again(source, resnet, cache):
    (path,) = (cache / "quarantine").glob("folder-*")
    path.write_bytes(b"[" * 100_000)
    assert shard(source, cache, resnet, retry_failed=True)[0].complete


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b"PK\x03\x04" + bytes(60)), lambda path: np.savez(path.open("wb"), a=1)]
)
def test_a_spoilt_cache_of_text_is_made_anew(resnet, tmp_path, monkeypatch, spoil):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    root = write_pictures(tmp_path / "data", 2)
    shard(root, tmp_path / "first", resnet)
    (path,) = (tmp_path / "xdg").rglob("*.f32")
    spoil(path)
    assert shard(root, tmp_path / "second", resnet)[0].complete


@pytest.mark.parametrize("content", ["{", "[1]", '[{"name": 1}]'])
def test_a_damaged_demo_is_named(resnet, tmp_path, content):
    from richsem_prep.demo.dataset import DEMO_VERSION

    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo.json").write_text(json.dumps({"version": DEMO_VERSION}))
    (tmp_path / "demo" / "categories.json").write_text(content)
    with pytest.raises(RichSemError, match=r"categories\.json"):
        shard(tmp_path / "demo", tmp_path / "c", resnet, dataset="demo")
