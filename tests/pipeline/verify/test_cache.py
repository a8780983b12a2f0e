import os
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.errors import RichSemError
from tests.caches import DIM, LABELS, SyntheticCache
from tests.pipeline.verify.forging import labels_of, paths_of, pictures_of, problems_of, reseal


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


@pytest.mark.parametrize(
    "name",
    [
        "pictures/folder-000001.tar",
        "index/pictures/folder-000001.parquet",
        "receipts/pictures/folder-000001.json",
        f"labels/{LABELS}/folder-000001.tar",
        f"index/labels/{LABELS}/folder-000001.parquet",
    ],
)
def test_the_remedy_mends_a_damaged_shard(cache, finished_cache, name):
    path = cache.layout.out / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (problem,) = problems_of(cache)
    os.unlink(problem.remedy.removeprefix("delete ").partition(" and run")[0])
    assert cache.make_missing_shards() == [1]
    cache.finish()
    assert problems_of(cache) == ()
    assert path.suffix == ".json" or path.read_bytes() == (finished_cache.layout.out / name).read_bytes()


@pytest.mark.parametrize("data", [b"", b"\0" * 512, b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000])
def test_hostile_files_are_findings_not_crashes(cache, data):
    for path in (cache.label_set.tar(0), cache.label_set.index(0), cache.layout.pictures_tar(1)):
        path.write_bytes(data)
    reseal(labels_of(cache))
    reseal(pictures_of(cache, 1))
    found = paths_of(problems_of(cache))
    assert f"index/labels/{LABELS}/folder-000000.parquet" in found
    assert found & {"pictures/folder-000001.tar", "index/pictures/folder-000001.parquet"}


def test_the_rest_of_a_deleted_label_set_is_found(cache):
    shutil.copytree(cache.label_set.receipt(0).parent, cache.label_set.receipt(0).parent.with_name("other"))
    assert {"labels/other/manifest.json", "labels/other/spec.json"} <= paths_of(problems_of(cache))


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
    assert first.endswith(labels_of(cache, 1).remedy)
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
