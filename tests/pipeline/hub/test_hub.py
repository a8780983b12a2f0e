"""Label sets to and from a dataset repository, with the real client and a stand-in for the hub."""

import errno
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import uuid
from contextlib import redirect_stdout
from pathlib import Path

import huggingface_hub.utils._http
import pytest
import yaml
from huggingface_hub import HfApi, constants

from richsem_prep.hub.hub import HubError, HubRepo
from richsem_prep.hub.pull import pull
from richsem_prep.hub.push import push
from richsem_prep.shard.finish import finish_cache
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.jobs import hold_job
from richsem_schemas.cache.manifest import LabelManifest, Plan
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import FullDiskError
from richsem_schemas.io.places import open_place
from tests.pipeline.hub_server import LARGE, HubServer

REPO = "group/labels"
SET = "hashed"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def repo(hub):
    return HubRepo(REPO, endpoint=hub.url)


def push_set(cache, repo, **options):
    return push(cache.layout.out, repo, **{"label_set": None, "with_pictures": None, "private": True} | options)


def pull_set(repo, out, label_set=None):
    return pull(repo, out, label_set=label_set, on_progress=lambda done, total: None)


def finished_sets(repo):
    with repo.snapshot() as there:
        return there.label_sets()


def content(out, *patterns):
    files = [path for pattern in patterns for path in out.glob(pattern) if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


LABELS = (f"labels/{SET}/**/*", f"index/labels/{SET}/*", f"receipts/labels/{SET}/*")


@pytest.fixture
def pushed(finished_cache, repo):
    push_set(finished_cache, repo)
    return repo


# Push


def test_a_label_set_goes_without_its_pictures_and_without_local_paths(finished_cache, repo, hub):
    done = push_set(finished_cache, repo)
    files = hub.files(REPO)
    assert done.label_set == SET
    assert {name: files[name] for name in content(finished_cache.layout.out, *LABELS)} == content(
        finished_cache.layout.out, *LABELS
    )
    assert not [name for name in files if "pictures" in name]
    assert not [name for name, data in files.items() if str(finished_cache.root).encode() in data]
    assert set(files) - set(content(finished_cache.layout.out, "**/*")) == {"README.md"}
    assert hub.private[REPO] is True
    assert len(hub.repos[REPO]) == 3


def test_what_is_there_is_not_uploaded_again(finished_cache, pushed, hub):
    uploads = len([path for _, path in hub.requests if path.startswith("/upload/")])
    done = push_set(finished_cache, pushed)
    assert len([path for _, path in hub.requests if path.startswith("/upload/")]) == uploads > 0
    assert done.already == len([name for name in hub.files(REPO) if name.endswith(LARGE)])


def test_a_push_that_breaks_off_leaves_no_set_and_goes_on(finished_cache, repo, hub, monkeypatch):
    monkeypatch.setattr("richsem_prep.hub.push.FILES_AT_ONCE", 4)
    hub.fail = lambda method, path: method == "POST" and "/commit/" in path and len(hub.repos[REPO]) == 3
    with pytest.raises(HubError, match=r"group/labels: the hub could not be used.*run the same command again"):
        push_set(finished_cache, repo)
    assert finished_sets(repo) == []
    with pytest.raises(RichSemError, match="no label set was named; finished ones: none"):
        pull_set(repo, finished_cache.layout.out.parent / "elsewhere")
    hub.fail = lambda method, path: False
    push_set(finished_cache, repo)
    assert finished_sets(repo) == [SET]


def test_pictures_that_broke_off_take_nothing_from_the_labels_that_are_there(finished_cache, repo, hub, monkeypatch):
    monkeypatch.setattr("richsem_prep.hub.push.FILES_AT_ONCE", 4)
    push_set(finished_cache, repo)
    before = len(hub.repos[REPO])
    hub.fail = lambda method, path: method == "POST" and "/commit/" in path and len(hub.repos[REPO]) == before + 1
    with pytest.raises(HubError):
        push_set(finished_cache, repo, with_pictures="cc0-1.0")
    assert any(name.startswith("pictures/") for name in hub.files(REPO))
    out = finished_cache.layout.out.parent / "labels alone"
    pull_set(repo, out)
    assert not (out / "pictures").exists()


def test_damaged_labels_are_not_pushed(cache, repo, hub):
    tar = cache.label_set.tar(1)
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(CorruptCacheError, match=r"000001\.tar: its bytes don't match the manifest"):
        push_set(cache, repo)
    assert finished_sets(repo) == []


def test_an_unfinished_cache_or_set_is_not_pushed(cache, repo, hub):
    cache.label_set.manifest.unlink()
    with pytest.raises(RichSemError, match="no label set was named; finished ones: none"):
        push_set(cache, repo)
    cache.layout.manifest.unlink()
    with pytest.raises(RichSemError, match="is not finished"):
        push_set(cache, repo)
    assert hub.repos == {}


def test_pictures_go_only_with_a_licence(finished_cache, repo, hub):
    with pytest.raises(RichSemError, match="needs the licence"):
        push_set(finished_cache, repo, with_pictures=" ")
    assert hub.repos == {}
    push_set(finished_cache, repo, with_pictures="cc-by-4.0", private=False)
    here = content(finished_cache.layout.out, "pictures/*", "index/pictures/*", "receipts/pictures/*", "quarantine/*")
    assert {name: hub.files(REPO)[name] for name in here} == here
    assert hub.files(REPO)["pictures/LICENCE"] == b"cc-by-4.0\n"
    assert hub.private[REPO] is False


def test_another_plan_or_another_set_of_the_same_name_is_refused(finished_cache, pushed, cache):
    other = open_cache(cache.layout.out).manifest.plan.model_copy(update={"seed": 7})
    other.write(cache.layout.plan)
    manifest = open_cache(finished_cache.layout.out).manifest
    manifest.model_copy(update={"plan": other, "fingerprint": other.fingerprint}).write(cache.layout.manifest)
    with pytest.raises(
        ManifestMismatchError, match=r"group/labels/plan/plan\.json.*seed is 0 there, 7 here.*name another"
    ):
        push_set(cache, pushed)


def test_names_that_are_no_repository_are_refused():
    for name in ("labels", "a/b/c", "../labels", "group/", "https://hub/group/labels", "a--b/c", "group/la bels"):
        with pytest.raises(HubError, match="names no repository"):
            HubRepo(name)


# The card


def test_the_card_says_what_the_manifest_says(finished_cache, pushed, hub):
    card = hub.files(REPO)["README.md"].decode()
    manifest = LabelManifest.read(finished_cache.label_set.manifest)
    front = yaml.safe_load(card.split("---")[1])
    assert front["configs"] == [{"config_name": SET, "data_files": f"labels/{SET}/*.tar"}]
    assert "license" not in front
    for fact in (
        manifest.fingerprint, manifest.spec.plan_fingerprint, "`hash`", "crop, fp32", f"{manifest.views:,}",
        "1 pass of crop views, 2 passes of mosaic views", f"{manifest.regions:,}", f"{manifest.bytes:,}",
        "float16 x 16",
        "7 classes of `folders`, names raw, 2 templates", "licences stay with those who have them",
        f"richsem-prep pull {REPO} caches/mine --label-set {SET}",
    ):  # fmt: skip
        assert fact in card, fact


def test_the_card_keeps_the_licence_and_the_other_sets(finished_cache, cache, repo, hub):
    push_set(finished_cache, repo, with_pictures="My licence: no cats")
    for folder in ("labels", "index/labels", "receipts/labels"):
        (cache.layout.out / folder / SET).rename(cache.layout.out / folder / "second")
    (cache.layout.out / "labels" / "second" / "manifest.json").unlink()
    finish_cache(cache.layout, ["second"])
    push_set(cache, repo)
    card = hub.files(REPO)["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["license_name"]) == ("other", "My licence: no cats")
    assert [config["config_name"] for config in front["configs"]] == [SET, "second", "pictures"]
    assert "## Label set `hashed`" in card
    assert "## Label set `second`" in card


@pytest.fixture
def hub_files(finished_cache, repo, hub, tmp_path):
    """A repository with pictures as it lies on disk, and its card."""
    push_set(finished_cache, repo, with_pictures="cc-by-4.0")
    for name, data in hub.files(REPO).items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(data)
    return tmp_path / "repo"


def test_the_recipes_of_the_card_load_the_shards_with_hugging_face_datasets(hub_files, tmp_path, monkeypatch):
    from datasets import config
    from datasets.packaged_modules.webdataset.webdataset import DECODERS

    monkeypatch.setattr(config, "HF_DATASETS_OFFLINE", True)
    npy = DECODERS["npy"]
    card = (hub_files / "README.md").read_text().replace(f"hf://datasets/{REPO}", str(hub_files))
    labels, pictures = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    manifest = LabelManifest.read(hub_files / "labels" / SET / "manifest.json")
    try:
        shown = _run(labels)
        assert len(re.findall(r"^0000\d\d-\d{5} (?:crop|mosaic)-\d\.npy ", shown, re.MULTILINE)) == manifest.views
        shown = _run(pictures)
        assert len(shown.splitlines()) == 40
        assert "a cat/an <img src=x> & name.png a cat (" in shown or "an <img src=x> & name.png" in shown
    finally:
        DECODERS["npy"] = npy


def _run(recipe):
    shown = io.StringIO()
    with redirect_stdout(shown):
        exec(recipe, {})
    return shown.getvalue()


# Pull


def test_a_pulled_set_is_the_pushed_one_in_a_folder_of_its_own(finished_cache, pushed, tmp_path):
    done = pull_set(pushed, tmp_path / "out")
    assert (done.label_set, done.shards, done.already, done.has_pictures) == (SET, 3, 0, False)
    out = finished_cache.layout.out
    assert content(tmp_path / "out", *LABELS) == content(out, *LABELS)
    plan = content(out, "plan/*")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in plan} == plan
    joined = open_cache(out, labels_from=tmp_path / "out")
    assert joined.label_set(None).fingerprint == open_cache(out).label_set(None).fingerprint
    verification = verify_cache(tmp_path / "out")
    assert verification.problems == ()
    assert "its pictures lie in a cache of the same plan and were not looked at" in " ".join(verification.notes)


def test_labels_alone_are_shared_like_any_and_have_no_pictures_to_give(pushed, hub, tmp_path):
    pull_set(pushed, tmp_path / "out")
    with pytest.raises(RichSemError, match="holds labels alone"):
        push(tmp_path / "out", pushed, label_set=None, with_pictures="cc-by-4.0", private=True)
    again = HubRepo("group/again", endpoint=hub.url)
    push(tmp_path / "out", again, label_set=None, with_pictures=None, private=True)
    assert hub.files("group/again").keys() == hub.files(REPO).keys()
    assert {name for name, data in hub.files("group/again").items() if data != hub.files(REPO)[name]} == {"README.md"}


def test_a_set_joins_the_pictures_that_are_there(pushed, cache):
    for folder in ("labels", "index/labels", "receipts/labels"):
        shutil.rmtree(cache.layout.out / folder)
    before = content(cache.layout.out, "plan/*", "pictures/*", "manifest.json")
    assert pull_set(pushed, cache.layout.out).has_pictures
    assert content(cache.layout.out, "plan/*", "pictures/*", "manifest.json") == before
    assert verify_cache(cache.layout.out).problems == ()


def test_pictures_come_where_the_repository_has_them(finished_cache, repo, tmp_path):
    push_set(finished_cache, repo, with_pictures="cc-by-4.0")
    assert pull_set(repo, tmp_path / "out").has_pictures
    everything = content(finished_cache.layout.out, "[!.]*", "[!.]*/**/*")
    assert content(tmp_path / "out", "[!.]*", "[!.]*/**/*") == everything
    assert verify_cache(tmp_path / "out").problems == ()


@pytest.mark.parametrize("broken", ["plan/listing.arrow", "text/features.npy", "000001.tar", "000002.parquet"])
def test_a_network_that_fails_in_the_middle_leaves_no_set_and_the_next_pull_goes_on(pushed, hub, tmp_path, broken):
    hub.fail = lambda method, path: method == "GET" and path.endswith(broken)
    with pytest.raises(HubError, match=r"run the same command again"):
        pull_set(pushed, tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/manifest.json"))
    assert not list((tmp_path / "out").glob("**/*.tmp"))
    hub.fail = lambda method, path: False
    already = [path.stem for path in (tmp_path / "out").glob(f"receipts/labels/{SET}/*.json")]
    whole = {"000001.tar": ["folder-000000", "folder-000002"], "000002.parquet": ["folder-000000", "folder-000001"]}
    assert sorted(already) == whole.get(broken, [])
    assert pull_set(pushed, tmp_path / "out").already == len(already)
    assert open_cache(tmp_path / "out").label_set(SET)


def test_a_connection_that_is_cut_is_gone_on_with_from_where_it_was(pushed, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 512)
    hub.cut = {"folder-000001.tar": 700}
    pull_set(pushed, tmp_path / "out")
    assert hub.ranges == [(f"labels/{SET}/folder-000001.tar", "bytes=512-")]
    assert verify_cache(tmp_path / "out").problems == ()


def test_a_pull_that_is_killed_leaves_no_set_and_the_next_one_goes_on(finished_cache, pushed, hub, tmp_path):
    out = tmp_path / "out"
    hub.hold = lambda path: path.endswith("000001.tar")
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "richsem_prep", "pull", REPO, str(out)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert hub.held.wait(60), process.communicate()[0]
        process.kill()
    assert list((out / ".jobs" / "pull").rglob("*.incomplete"))
    assert not list(out.glob("labels/**/*000001.tar"))
    assert not list(out.glob("**/manifest.json"))
    hub.hold = lambda path: False
    pull_set(pushed, out)
    assert verify_cache(out).problems == ()
    assert content(out, *LABELS) == content(finished_cache.layout.out, *LABELS)
    assert not (out / ".jobs" / "pull").exists()


def test_a_private_repository_needs_the_token_of_the_environment(finished_cache, repo, hub, monkeypatch, tmp_path):
    hub.token = "hf_secret"
    with pytest.raises(HubError, match=r"hf auth") as error:
        push_set(finished_cache, repo)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    push_set(finished_cache, repo)
    pull_set(repo, tmp_path / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"hides it from you.*hf auth login") as error:
        pull_set(repo, tmp_path / "again")
    assert "hf_secret" not in str(error.value)


def test_a_link_of_somebodys_in_the_cache_is_not_uploaded_and_a_linked_tar_is_its_content(cache, repo, hub, tmp_path):
    (tmp_path / "secret").write_text("mine")
    (cache.layout.out / "labels" / SET / "notes.txt").symlink_to(tmp_path / "secret")
    tar = cache.label_set.tar(0)
    tar.rename(tmp_path / "moved.tar")
    tar.symlink_to(tmp_path / "moved.tar")
    push_set(cache, repo)
    assert not [name for name, data in hub.files(REPO).items() if data == b"mine"]
    assert hub.files(REPO)[tar.relative_to(cache.layout.out).as_posix()] == (tmp_path / "moved.tar").read_bytes()


def test_a_cache_at_a_url_is_pushed_and_pulled_like_a_local_one(finished_cache, repo, hub):
    there = open_place(f"memory://{uuid.uuid4().hex}/cache")
    for name, data in content(finished_cache.layout.out, "[!.]*", "[!.]*/**/*").items():
        write_atomically(there / name, data)
    push(there, repo, label_set=None, with_pictures="cc0-1.0", private=True)
    out = open_place(f"memory://{uuid.uuid4().hex}/out")
    pull_set(repo, out)
    pulled = {name: (out / name).read_bytes() for name in out.sizes_below()}
    assert pulled == content(finished_cache.layout.out, "[!.]*", "[!.]*/**/*")


def test_a_full_disk_is_told_with_the_file_and_leaves_no_set(pushed, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    download = HfApi.hf_hub_download
    monkeypatch.setattr(HfApi, "hf_hub_download", lambda self, repo, name, **options: (
        full if name.endswith("000001.tar") else download)(self, repo, name, **options))  # fmt: skip
    with pytest.raises(FullDiskError, match=r"No space left on device \(.* bytes are free\)") as error:
        pull_set(pushed, tmp_path / "out")
    assert error.value.filename.endswith("000001.tar")
    assert not list((tmp_path / "out").glob("**/manifest.json"))


def test_other_bytes_than_the_manifest_names_are_refused(pushed, hub, tmp_path):
    name = next(name for name in hub.files(REPO) if name.endswith("000001.tar"))
    for data in (hub.files(REPO)[name][:-1], b"x" + hub.files(REPO)[name][1:], hub.files(REPO)[name] * 3, b""):
        hub.repos[REPO].append(hub.files(REPO) | {name: data})
        with pytest.raises(HubError, match=r"000001\.tar is not what its manifest names"):
            pull_set(pushed, tmp_path / "out")
        assert not list((tmp_path / "out").glob("labels/**/*000001.tar"))
    assert not (tmp_path / "out" / "labels" / SET / "manifest.json").exists()


@pytest.mark.parametrize(
    "name", ["plan/plan.json", f"labels/{SET}/manifest.json", f"labels/{SET}/text/text.json", "000000.json"]
)
@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\x80\x04cos\nsystem\n"])
def test_json_that_is_not_ours_is_refused(pushed, hub, tmp_path, name, data):
    name = next(path for path in hub.files(REPO) if (path.endswith(name) and "receipts" in path) or path == name)
    hub.repos[REPO].append(hub.files(REPO) | {name: data})
    with pytest.raises(RichSemError, match=re.escape(name)):
        pull_set(pushed, tmp_path / "out")
    assert not (tmp_path / "out" / "labels" / SET / "manifest.json").exists()


def test_names_that_escape_are_never_asked_for(pushed, hub, tmp_path):
    hostile = [
        "../../escaped",
        "/etc/passwd",
        "labels/../manifest.json",
        "labels/a/b/manifest.json",
        "labels//manifest.json",
    ]
    hub.repos[REPO].append(hub.files(REPO) | dict.fromkeys(hostile, b"escaped"))
    hub.requests.clear()
    pull_set(pushed, tmp_path / "deep" / "out")
    asked = {path.split("/", 6)[-1] for _, path in hub.requests if "/resolve/" in path}
    assert asked
    assert not asked & set(hostile)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
    with pytest.raises(RichSemError, match=r"finished ones: hashed"):
        pull_set(pushed, tmp_path / "deep" / "out", "..")


def test_a_forged_dataset_name_makes_no_path(pushed, hub, finished_cache, tmp_path):
    text = hub.files(REPO)["plan/plan.json"].replace(b'"folder"', b'"../../x"')
    hub.repos[REPO].append(hub.files(REPO) | {"plan/plan.json": text})
    with pytest.raises(CorruptCacheError):
        pull_set(pushed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_manifest_and_plan_must_be_of_each_other(pushed, hub, finished_cache, tmp_path):
    name = f"labels/{SET}/manifest.json"
    manifest = LabelManifest.read(finished_cache.label_set.manifest)
    for change, message in (
        ({"name": "other"}, "is the manifest of 'other'"),
        ({"fingerprint": "0" * 64}, "not the fingerprint"),
        ({"shards": manifest.shards[:-1]}, "not the 3 shards"),
        ({"bytes": 1}, "other bytes"),
        ({"spec": manifest.spec.model_copy(update={"plan_fingerprint": "0" * 64})}, "another plan"),
    ):
        manifest.model_copy(update=change).write(tmp_path / "forged.json")
        hub.repos[REPO].append(hub.files(REPO) | {name: (tmp_path / "forged.json").read_bytes()})
        with pytest.raises(CorruptCacheError, match=message):
            pull_set(pushed, tmp_path / "out")


def test_another_plan_and_a_folder_with_other_things_are_refused(pushed, cache, tmp_path):
    plan = Plan.read(cache.layout.plan).model_copy(update={"seed": 7})
    plan.write(cache.layout.plan)
    with pytest.raises(ManifestMismatchError, match=r"plan\.json holds something else: seed is 7 there, 0 here"):
        pull_set(pushed, cache.layout.out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(RichSemError, match=r"thesis\.tex"):
        pull_set(pushed, tmp_path / "full")
    with pytest.raises(RichSemError, match="is no folder"):
        pull_set(pushed, tmp_path / "full" / "thesis.tex")


def test_other_pictures_of_the_same_plan_are_refused(pushed, cache):
    manifest = open_cache(cache.layout.out).manifest
    first = manifest.shards[0].model_copy(update={"samples": 1})
    manifest.model_copy(update={"shards": (first, *manifest.shards[1:])}).write(cache.layout.manifest)
    with pytest.raises(ManifestMismatchError, match=r"made for other pictures than .* holds: shards\.0\.tar"):
        pull_set(pushed, cache.layout.out)


def test_another_set_of_the_same_name_is_refused(pushed, cache):
    spec = open_cache(cache.layout.out).label_set(None).spec.model_copy(update={"top_k": 3})
    spec.write(cache.label_set.spec)
    with pytest.raises(ManifestMismatchError, match=r"top_k is 3 there, 5 here\. Remove that set"):
        pull_set(pushed, cache.layout.out)


def test_a_partial_cache_or_one_in_use_is_refused(pushed, cache):
    with hold_job(cache.layout.out, range(2)), pytest.raises(RichSemError, match="is in use by process"):
        pull_set(pushed, cache.layout.out)
    cache.layout.manifest.unlink()
    with pytest.raises(RichSemError, match="is not finished"):
        pull_set(pushed, cache.layout.out)


def test_a_repository_that_is_not_there_says_so(repo, tmp_path):
    with pytest.raises(HubError, match=r"no such dataset repository, or hides it from you"):
        pull_set(repo, tmp_path / "out")
    with pytest.raises(HubError, match=r"could not be used.*check the network"):
        pull_set(HubRepo(REPO, endpoint="http://127.0.0.1:9"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_hashed_is_what_was_pushed(finished_cache, pushed, hub):
    manifest = LabelManifest.read(finished_cache.label_set.manifest)
    for summary in manifest.shards:
        name = Path(finished_cache.label_set.tar(summary.shard)).relative_to(finished_cache.layout.out).as_posix()
        assert hashlib.sha256(hub.files(REPO)[name]).hexdigest() == summary.tar.sha256
