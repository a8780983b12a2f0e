"""`--json` of `richsem-prep`: JSON and nothing else on standard output, with the figures of the table."""

import json
import shutil
from functools import partial

import huggingface_hub.utils._http
import pytest
from huggingface_hub import constants

from richsem_prep import cli
from richsem_prep.hub import hub as hub_room
from richsem_schemas.cache.manifest import LabelManifest
from richsem_schemas.cache.reader import open_cache
from tests.integration.programs import call
from tests.pictures import write_pictures
from tests.pipeline.hub_server import HubServer

pytestmark = pytest.mark.usefixtures("small_views")


@pytest.fixture
def printed(capsys, monkeypatch):
    """What a command prints on standard output."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        capsys.readouterr()
        assert call(cli, "richsem-prep", *arguments) == code, capsys.readouterr()
        return capsys.readouterr().out

    return run


@pytest.fixture
def figures(printed):
    return lambda *arguments, **expected: json.loads(printed(*arguments, "--json", **expected))


@pytest.fixture(scope="module")
def options(resnet, small_views, tmp_path_factory):
    """Of a run on seven pictures, one of them broken."""
    root = write_pictures(tmp_path_factory.mktemp("data") / "raw", 6)
    (root / "class_0" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    given = {"dataset": "folder", "root": root, "teacher": resnet, "teacher-size": 64, "mosaics": 1, "device": "cpu"}
    return [f"--{name}={value}" for name, value in (given | {"executor": "inline", "label-set": "first"}).items()]


@pytest.fixture(scope="module")
def made(options, tmp_path_factory):
    out = tmp_path_factory.mktemp("caches") / "made"
    assert call(cli, "richsem-prep", "shard", *options, "--out", out) == 0
    assert call(cli, "richsem-prep", "rescore", out, "--temperature", "2", "--label-set", "soft") == 0
    return out


@pytest.fixture
def out(made, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(made, tmp_path / "out")


def row(table, name):
    """The value beside a name in a printed table."""
    [line] = [line for line in table.splitlines() if line.strip(" │").startswith(name)]
    return line.strip(" │").removeprefix(name).strip(" │")


def test_of_shard(figures, printed, options, tmp_path):
    out = tmp_path / "out"
    found = figures("shard", *options, "--out", out)
    manifest = open_cache(out).manifest
    assert (found["out"], found["label_set"], found["complete"], found["failed"]) == (str(out), "first", True, {})
    assert (found["shards"], found["already"], found["workers"]) == (1, 0, 1)
    assert (found["pictures"], found["quarantined"], found["picture_bytes"]) == (6, 1, manifest.bytes)
    assert found["work_seconds"] > 0 < found["stage_seconds"]["encode"]
    assert row(printed("shard", *options, "--out", out), "shards") == "0 made, 1 there before, 0 failed"
    assert figures("shard", *options, "--out", out)["already"] == 1


def test_of_estimate(figures, options, tmp_path):
    found = figures("estimate", *options, "--out", tmp_path / "out", "--samples", 7)
    assert (found["pictures"], found["measured"], found["quarantined"]) == (7, 7, 1)
    assert found["bytes"] == pytest.approx(found["listing_bytes"] + found["picture_bytes"] + found["label_bytes"])
    assert found["runs_to_pay"] == pytest.approx(found["device_hours"] / found["online_hours"])
    assert found["hours_with_workers"]["1"] == found["device_hours"]


def test_of_inspect(figures, printed, made):
    found, table = figures("inspect", made, "--label-set", "first"), printed("inspect", made, "--label-set", "first")
    assert row(table, "bytes a region") == f"{found['bytes_a_region']:,.0f} of labels"
    assert row(table, "label entropy").startswith(f"{found['mean_entropy']:.3f} nats")
    assert row(table, "top-1 is the hard label").startswith(f"{found['top1_agreement']:.1%}")
    assert found["spec"]["teacher"]["name"] in table
    assert sum(count for _, count in found["quarantined"]) == 1


def test_of_view(figures, made, tmp_path):
    html = tmp_path / "views.html"
    found = figures("view", made, "--label-set", "first", "--views", 3, "--html", html)
    assert found == {"html": str(html), "views": 3}
    assert html.is_file()


def test_of_verify(figures, printed, made, out):
    found = figures("verify", made)
    assert (found["problems"], found["pictures"], sorted(found["label_sets"])) == ([], 6, ["first", "soft"])
    assert f"{found['views']} views and {found['regions']} regions" in printed("verify", made)
    next(out.glob("labels/soft/*.tar")).unlink()
    broken = figures("verify", out, code=1)
    assert broken["problems"]
    assert {"path", "message", "remedy"} == set(broken["problems"][0])


def test_of_diff(figures, printed, made):
    arguments = ("diff", made, "--label-set", "first", "soft")
    found, table = figures(*arguments), printed(*arguments)
    assert row(table, "KL(A ‖ B), nats").startswith(f"mean {found['mean_kl']:.4f}, median {found['median_kl']:.4f}")
    assert row(table, "top-1 flips").startswith(f"{found['flips']:,}")


def test_of_audit(figures, printed, out, resnet):
    arguments = ("audit", out, "--label-set", "first", "--teacher", resnet, "--samples", 5, "--device", "cpu")
    found, table = figures(*arguments), printed(*arguments)
    assert (found["regions"], found["passed"]) == (5, True)
    assert f"{found['cosine']['lowest']:.6f}" in row(table, "cosine")
    failed = figures(*arguments, "--min-cosine", "1", "--max-kl", "0", code=1)
    assert not failed["passed"]


def test_of_rescore(figures, out):
    found = figures("rescore", out, "--temperature", "3", "--from", "first", "--label-set", "softer")
    manifest = open_cache(out).label_set("softer")
    assert (found["label_set"], found["source"], found["spec"]["temperature"]) == ("softer", "first", 3)
    assert (found["regions"], found["bytes"], found["already"]) == (manifest.regions, manifest.bytes, 0)


def test_of_text(figures, resnet, tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    out = tmp_path / "text"
    found = figures("text", "--teacher", resnet, "--names", tmp_path / "names.txt", "--out", out, "--device", "cpu")
    assert (found["out"], found["classes"]) == (str(out), 3)
    assert found["teacher"]["embed_dim"] == found["dim"]


def test_of_push_and_pull(figures, made, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)
    server = HubServer()
    monkeypatch.setattr(hub_room, "HubRepo", partial(hub_room.HubRepo, endpoint=server.url))
    pushed = figures("push", made, "group/labels", "--label-set", "soft")
    assert (pushed["label_set"], pushed["already"]) == ("soft", 0)
    pulled = figures("pull", "group/labels", tmp_path / "pulled")
    label_set = LabelManifest.read(next((tmp_path / "pulled").glob("labels/soft/manifest.json")))
    assert (pulled["label_set"], pulled["shards"], pulled["already"]) == ("soft", len(label_set.shards), 0)
    server.close()
