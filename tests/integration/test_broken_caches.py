"""What stands in a cache's folder may be anything: every command says so in one line, at once, and never waits."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest

from richsem_prep import cli
from richsem_prep.hub import hub
from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW, index_bytes, read_raw_index
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.reader import find_layout
from richsem_schemas.cache.shard import PictureShard
from richsem_schemas.errors import IrregularFileError
from richsem_schemas.io import canonical_json, sealed_json
from tests.integration.programs import call as run_program
from tests.pictures import jpeg, write_pictures

GOLDEN = Path(__file__).parents[1] / "golden" / "cache"
SECONDS = 60
LABELS = "float16"


@pytest.fixture
def out(tmp_path):
    """A copy of the golden cache."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "cache"))


@pytest.fixture
def command(capsys, monkeypatch, out):
    """A command on the cache, in this process; its exit code and the last line it printed."""

    def too_long(*_):
        raise TimeoutError(f"no answer within {SECONDS} s")

    monkeypatch.setenv("COLUMNS", "1000")
    signal.signal(signal.SIGALRM, too_long)

    def call(name):
        arguments = {
            "inspect": ["inspect", out, "--label-set", LABELS],
            "view": ["view", out, "--label-set", LABELS, "--html", out.parent / "views.html"],
            "diff": ["diff", out, "--label-set", LABELS, "none"],
            "rescore": ["rescore", out, "--from", LABELS, "--label-set", "again", "--temperature", "2"],
            "verify": ["verify", out, "--threads", "1"],
            "finish": ["finish", out],
        }[name]
        signal.alarm(SECONDS)
        try:
            code = run_program(cli, "richsem-prep", *arguments)
        finally:
            signal.alarm(0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        lines = (printed.out + printed.err).strip().splitlines()
        return code, lines[-1] if lines else ""

    return call


READERS = ("inspect", "view", "diff", "rescore", "verify", "finish")


def test_every_command_works_on_the_cache_as_it_is(command):
    assert [command(name)[0] for name in READERS] == [0] * len(READERS)


# Pipes and devices


def stand_in(path, kind):
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        # The name of a socket is short: from its folder.
        before = Path.cwd()
        os.chdir(path.parent)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(before)


FILES = (
    "manifest.json",
    "plan/plan.json",
    "plan/listing.arrow",
    "quarantine/golden-000000.jsonl",
    "pictures/golden-000000.tar",
    "index/pictures/golden-000000.parquet",
    f"labels/{LABELS}/manifest.json",
    f"labels/{LABELS}/spec.json",
    f"labels/{LABELS}/golden-000000.tar",
    f"labels/{LABELS}/text/text.json",
    f"labels/{LABELS}/text/features.npy",
    f"index/labels/{LABELS}/golden-000000.parquet",
    f"receipts/labels/{LABELS}/golden-000000.json",
)


@pytest.mark.parametrize(
    ("file", "kind"),
    [(file, kind) for file in FILES for kind in ("pipe", "device")]
    + [(file, kind) for file in FILES[-5:] for kind in ("folder", "socket")],
)
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused_at_once(out, command, file, kind):
    stand_in(out / file, kind)
    failures = {name: command(name) for name in READERS}
    assert all(code in {0, 1} for code, _ in failures.values())
    assert failures["verify"][0] == 1
    refused = [line for name, (code, line) in failures.items() if code and name != "verify"]
    assert all(line.startswith("error: ") for line in refused)
    if file.endswith((".tar", ".parquet")) and "labels" in file:
        assert failures["inspect"][0] == failures["diff"][0] == failures["rescore"][0] == 1
        lines = {name: failures[name][1] for name in ("inspect", "diff", "rescore")}
        assert all("not a regular file" in line and file in line for line in lines.values()), lines


def test_a_pipe_is_not_uploaded(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IrregularFileError, match=r"pipe: not a regular file.* put the file itself there"):
        hub.Upload("labels/x.tar", tmp_path / "pipe").lay(tmp_path / "folder")


# Cells of an index


def with_cell(path, row_dtype, name, value):
    rows = read_raw_index(path, row_dtype)
    rows[name][1] = value
    path.write_bytes(index_bytes(rows))


VIEW_CELLS = [
    ("kind", "brop"), ("kind", ""), ("key", "x"), ("key", "000001-00000"), ("key", "999999999999-00000"),
    ("sample", -1), ("sample", 100_000), ("sample", 3), ("pass", -1), ("tiles", -1), ("regions", -1),
    ("offset", -1), ("offset", 2**63 - 1), ("size", -1), ("size", 2**63 - 1), ("offset", 1), ("size", 3),
    ("size", 2**42),
]  # fmt: skip
PICTURE_CELLS = [
    ("key", ""), ("sample", -1), ("category_id", -1), ("height", 0), ("height", 2**31 - 1), ("width", -5),
    ("offset", -2), ("offset", 2**63 - 1), ("size", -1), ("size", 2**40), ("json_offset", -1), ("json_size", -1),
    ("json_size", 2**62), ("json_offset", 2**59), ("offset", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), VIEW_CELLS)
def test_a_cell_of_a_view_index_that_cant_be_right_is_said_with_the_file(out, command, name, value):
    with_cell(out / "index" / "labels" / LABELS / "golden-000000.parquet", VIEW_ROW, name, value)
    for reader in ("inspect", "view", "diff", "rescore"):
        code, line = command(reader)
        assert code == 1
        assert "golden-000000" in line
        assert "richsem-prep" in line
    assert command("verify")[0] == 1


@pytest.mark.parametrize(("name", "value"), PICTURE_CELLS)
def test_a_cell_of_a_picture_index_that_cant_be_right_is_said_with_the_file(out, command, name, value):
    with_cell(out / "index" / "pictures" / "golden-000000.parquet", PICTURE_ROW, name, value)
    code, line = command("view")
    assert code == 1
    assert "golden-000000" in line
    assert "richsem-prep" in line
    assert command("verify")[0] == 1


@pytest.mark.parametrize(
    "file", [f"index/labels/{LABELS}/golden-000000.parquet", "index/pictures/golden-000000.parquet"]
)
def test_flipped_bytes_of_an_index_are_answered_in_one_line(out, command, file):
    path = out / file
    data = path.read_bytes()
    for position in range(0, len(data), 23):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :])
        for reader in ("view", "inspect") if "labels" in file else ("view",):
            code, line = command(reader)
            assert code in {0, 1}
            assert code == 0 or line.startswith("error: ")


# Numbers


NUMBERS = [
    ("plan/plan.json", "seed"),
    ("plan/plan.json", "samples"),
    ("plan/plan.json", "samples_per_shard"),
    ("manifest.json", "samples"),
    ("manifest.json", "bytes"),
    (f"labels/{LABELS}/manifest.json", "regions"),
    (f"labels/{LABELS}/spec.json", "top_k"),
    (f"receipts/labels/{LABELS}/golden-000000.json", "seconds"),
]


@pytest.mark.parametrize("number", [2**63, 10**40, 10**4_000, -(10**40)])
@pytest.mark.parametrize(("file", "field"), NUMBERS)
def test_numbers_that_no_field_holds_are_damage_wherever_they_stand(out, command, file, field, number):
    value = sealed_json.read_sealed_json(out / file)
    value[field] = {"read": number} if field == "seconds" else number
    (out / file).write_bytes(sealed_json._spelling(value, canonical_json.json_sha256(value)))
    answers = {name: command(name) for name in READERS}
    assert answers["verify"][0] == 1
    assert any(code and "doesn't fit 64 bits" in line for code, line in answers.values())
    assert all(len(line) < 400 + len(str(out)) for code, line in answers.values() if code)


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [("9" * 5_000, 2, "Invalid value for '--seed'"), ("9" * 4_000, 1, "--seed 999"), ("-1", 1, "--seed -1")],
)
def test_a_seed_that_no_field_holds_is_refused_before_anything_is_written(prep, tmp_path, value, code, said):
    out = tmp_path / "c"
    answer, output = prep("shard", "--dataset", "folder", "--root", tmp_path, "--out", out, "--seed", value)
    assert answer == code
    assert said in output
    assert "Traceback" not in output
    assert not out.exists()
    if code == 1:
        assert len(output) < 300


# Pictures that are gone


def shard_command(root, out, resnet, *more):
    return (
        "shard", "--dataset", "folder", "--root", root, "--out", out, "--teacher", resnet, "--teacher-size", "160",
        "--samples-per-shard", "4", "--mosaics", "1", "--executor", "inline", *more,
    )  # fmt: skip


@pytest.fixture
def begun(prep, tmp_path, resnet):
    """A source of 12 pictures and a cache of which only the first of three shards is made."""
    root = write_pictures(tmp_path / "data", 12)
    code, output = prep(*shard_command(root, tmp_path / "c", resnet, "--shard-range", "0:1"))
    assert code == 0, output
    return root, tmp_path / "c"


def names(layout, number):
    return set(PictureShard(layout, number).rows()["name"])


def cached_names(out):
    layout = find_layout(out)
    return set().union(*(names(layout, shard) for shard in range(Plan.read(layout.plan).shards)))


def test_a_picture_that_was_removed_after_it_was_listed_is_set_aside_and_taken_in_once_it_is_back(prep, begun, resnet):
    root, out = begun
    layout = find_layout(out)
    all_names = {path.relative_to(root).as_posix() for path in root.rglob("*.*")}
    name = min(all_names - names(layout, 0))
    kept = (root / name).read_bytes()
    (root / name).unlink()
    code, output = prep(*shard_command(root, out, resnet))
    assert code == 0, output
    assert cached_names(out) == all_names - {name}
    assert "missing, though it was there when the source was listed" in "".join(
        path.read_text() for path in out.glob("quarantine/folder-*.jsonl")
    )
    assert prep("verify", out)[0] == 0
    (root / name).write_bytes(kept)
    code, output = prep(*shard_command(root, out, resnet, "--retry-failed"))
    assert code == 0, output
    assert cached_names(out) == all_names


def test_pictures_on_a_disk_that_isnt_mounted_are_not_set_aside(prep, begun, resnet):
    root, out = begun
    elsewhere = root.parent / "disk"
    root.rename(elsewhere)
    root.mkdir()
    for folder in elsewhere.iterdir():
        (root / folder.name).mkdir()
    code, output = prep(*shard_command(root, out, resnet))
    assert code == 1
    assert "No such file or directory; is its disk mounted" in output
    assert "Errno" not in output
    assert "b'" not in output
    assert not list(out.glob("quarantine/folder-*.jsonl"))
    shutil.rmtree(root)
    elsewhere.rename(root)
    code, output = prep(*shard_command(root, out, resnet))
    assert code == 0, output
    assert len(cached_names(out)) == 12


def test_a_cache_of_not_one_picture_ends_with_1_and_says_so_each_time(prep, tmp_path, resnet):
    root = tmp_path / "data"
    (root / "class").mkdir(parents=True)
    for number in range(5):
        (root / "class" / f"{number}.jpg").write_bytes(jpeg(number)[:100])
    for _ in range(2):
        code, output = prep(*shard_command(root, tmp_path / "c", resnet))
        assert code == 1
        assert "holds not one picture: all were set aside" in output
    assert prep("verify", tmp_path / "c")[0] == 0


def test_a_page_of_a_cache_whose_originals_have_moved_names_one_and_the_option(prep, tmp_path, resnet):
    root = write_pictures(tmp_path / "data", 4)
    out = tmp_path / "c"
    code, output = prep(*shard_command(root, out, resnet, "--pictures", "reference"))
    assert code == 0, output
    root.rename(tmp_path / "moved")
    view = ("view", out, "--html", tmp_path / "views.html")
    code, output = prep(*view)
    assert code == 1
    error = " ".join(output.split())
    assert f"error: {root}/" in error
    assert "can't be read (No such file or directory)" in error
    assert "where the originals have moved, say so with --root" in error
    assert "b'" not in error
    assert prep(*view, "--root", tmp_path / "moved")[0] == 0
