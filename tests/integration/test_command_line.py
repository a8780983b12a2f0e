"""What a user types and reads: help, exit codes, and errors of one line that say value, rule and remedy."""

import re
import shlex
import subprocess
import sys

import pytest

from richsem_prep.shard.config import ShardConfig
from tests.integration.processes import run
from tests.integration.programs import error_of
from tests.pictures import jpeg

COMMANDS = (
    "shard", "finish", "verify", "inspect", "view", "text", "audit", "rescore", "diff", "push", "pull", "estimate"
)  # fmt: skip


@pytest.fixture
def shard(prep, tmp_path, monkeypatch):
    """`richsem-prep shard` on one picture, in an otherwise empty folder."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "1.jpg").write_bytes(jpeg(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RICHSEM_DATA", raising=False)
    base = ["shard", "--dataset", "folder", "--root", "data", "--out", "c", "--teacher", "demo", "--executor", "inline"]
    return lambda *options: prep(*base, *options)


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
def test_help_fits_80_columns_and_shows_an_example(prep, arguments):
    code, output = prep(*arguments, "--help")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "richsem-prep " + " ".join(arguments) in output.partition("Usage:")[2].partition("\n")[2]


def test_help_of_shard_says_every_option_and_its_default(prep):
    _, output = prep("shard", "--help")
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", output.partition("╭")[2]).split())
    for option, default in {
        "--dataset": "required",
        "--root": "$RICHSEM_DATA/DATASET",
        "--out": "caches/DATASET",
        "--teacher": "RN50:openai",
        "--top-k": "64",
        "--samples-per-shard": "1024",
        "--embeddings": "float16",
        "--mosaics": "4",
        "--executor": "ray",
        "--device": "CUDA if there is one",
    }.items():
        after = text[text.index(option + " ") :]
        assert default in after[: after.index("]") + 1], option


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
def test_examples_in_help_are_whole_lines(prep, arguments):
    _, output = prep(*arguments, "--help")
    lines = [line.rstrip() for line in output.partition("╭")[0].splitlines()]
    examples = [number for number, line in enumerate(lines) if re.match(" +richsem-prep ", line)]
    assert examples
    for number in examples:
        shlex.split(lines[number])
        following = lines[number + 1]
        continued = lines[number].endswith("\\")
        assert continued or not following or following.startswith("   "), f"{lines[number]!r} runs on: {following!r}"


@pytest.mark.parametrize(
    "arguments",
    [["--nonsense"], ["nonsense"], ["shard"], ["shard", "--sede", "3"], ["shard", "--seed", "x"], ["view", "c"]],
)
def test_what_is_no_command_or_option_exits_with_2_and_points_to_the_help(prep, arguments):
    code, output = prep(*arguments)
    assert code == 2
    assert "--help" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--top-k 0", ["--top-k 0"]),
        ("--mosaics -1", ["--mosaics -1"]),
        ("--crops 1001", ["--crops 1001", "1000"]),
        ("--crops 0 --mosaics 0", ["--crops 0", "--mosaics 0", "at least one pass"]),
        ("--shard-range 5:2", ["--shard-range", "A must be below B"]),
        ("--shard-range 3", ["--shard-range '3'", "0:10"]),
        ("--shard-range -1:3", ["--shard-range '-1:3'"]),
        ("--shard-range 0:1 --overwrite", ["--shard-range", "--overwrite"]),
        ("--label-set ../x", ["--label-set '../x'", "letters"]),
        ("--label-set a/b", ["--label-set 'a/b'", "letters"]),
        ("--label-set a..b", ["--label-set 'a..b'"]),
        ("--teacher-size 7", ["--teacher-size 7", "32"]),
        ("--samples-per-shard 0", ["--samples-per-shard 0"]),
        ("--samples-per-shard 100001", ["--samples-per-shard 100001", "100000"]),
        ("--max-side 3", ["--max-side 3", "16"]),
        ("--max-side 300 --pictures reference", ["--max-side", "--pictures reference", "drop one"]),
        ("--workers 0", ["--workers 0"]),
        ("--workers 2", ["--workers 2", "--executor ray"]),
        ("--ray-address auto", ["--ray-address", "--executor inline"]),
        ("--limit 0", ["--limit 0"]),
        ("--seed -1", ["--seed -1"]),
        ("--executor slurm", ["--executor 'slurm'", "'ray'", "'inline'"]),
        ("--embeddings bfloat16", ["--embeddings 'bfloat16'", "'float16'", "'int8'", "'none'"]),
        ("--precision int4", ["--precision 'int4'", "'fp32'", "'bf16'"]),
        ("--names dirty", ["--names 'dirty'", "'raw'", "'clean'"]),
        ("--pictures link", ["--pictures 'link'", "'copy'", "'reference'"]),
        ("--region-encoder roi", ["--region-encoder 'roi'", "'roi-align'", "'crop'"]),
        ("--dataset imagenet", ["--dataset 'imagenet'", "inet-lvis", "folder", "demo"]),
        ("--dataset ../x", ["--dataset '../x'"]),
    ],
)
def test_an_option_out_of_range_is_refused_before_anything_is_written(shard, tmp_path, options, said):
    message = error_of(shard(*shlex.split(options)))
    for words in said:
        assert words in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("nowhere", "doesn't exist"),
        ("empty", "is empty"),
        ("file", "is no folder"),
        ("data/cat/1.jpg/x", "doesn't exist"),
    ],
)
@pytest.mark.parametrize("dataset", ["folder", "inet-lvis"])
def test_a_root_that_cant_be_used_is_named_with_what_is_expected(shard, tmp_path, dataset, root, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    message = error_of(shard("--dataset", dataset, "--root", root))
    for words in (str(tmp_path / root), said, "expected", "--root"):
        assert words in message


def test_a_root_without_any_class_says_what_it_found(shard):
    message = error_of(shard("--dataset", "inet-lvis"))
    for words in ("none of the 997 classes", "n01440764", "found cat"):
        assert words in message


def test_the_root_defaults_to_the_datasets_folder_in_richsem_data(shard, prep, tmp_path, monkeypatch):
    arguments = ["shard", "--dataset", "inet-lvis", "--out", "c", "--executor", "inline"]
    assert str(tmp_path / "data" / "inet-lvis") in error_of(prep(*arguments))
    monkeypatch.setenv("RICHSEM_DATA", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere" / "inet-lvis") in error_of(prep(*arguments))


def test_an_option_that_an_unset_variable_left_empty_is_as_if_it_were_not_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty = {"root": "", "out": "", "teacher": "", "label_set": ""}
    assert ShardConfig(dataset="coco", **empty) == ShardConfig(dataset="coco")
    assert ShardConfig(dataset="coco", **empty).out == tmp_path / "caches" / "coco"


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/richsem"])
def test_an_out_that_cant_be_a_folder_is_named(shard, tmp_path, out):
    (tmp_path / "file").write_text("mine")
    assert out in error_of(shard("--out", out))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_with_other_things_is_left_alone(shard, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    message = error_of(shard("--out", "mine", "--overwrite"))
    assert "thesis.tex" in message
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_demo_is_not_drawn_over_other_things(shard, tmp_path):
    assert "no demo" in error_of(shard("--dataset", "demo"))
    assert [str(path.relative_to(tmp_path / "data")) for path in sorted(tmp_path.glob("data/**/*"))] == [
        "cat",
        "cat/1.jpg",
    ]


@pytest.mark.parametrize("name", ["verify", "inspect", "finish", "view"])
@pytest.mark.parametrize("out", ["nowhere", "file", "empty"])
def test_a_folder_without_a_cache_is_named(prep, tmp_path, name, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    html = ["--html", tmp_path / "page.html"] if name == "view" else []
    message = error_of(prep(name, tmp_path / out, *html))
    assert str(tmp_path / out) in message
    assert "richsem-prep shard" in message
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/x]", "[", "\\"])
def test_markup_in_a_path_is_shown_as_it_is(shard, name):
    assert f"/{name} doesn't exist" in error_of(shard("--root", name))


def test_a_backslash_before_markup_is_shown_as_it_is(shard):
    assert "/\\[/x] doesn't exist" in error_of(shard("--root", "\\[/x]"))


def test_control_characters_of_names_dont_reach_the_terminal(shard):
    message = error_of(shard("--root", "a\nb\x1b[31mc"))
    assert "\x1b" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["shard", "--dataset", "folder", "--root", "/nowhere/\udcff", "--executor", "inline"],
        ["verify", "/nowhere"],
        ["inspect", "/nowhere"],
    ],
)
def test_a_real_process_ends_with_1_one_line_and_no_traceback(arguments, tmp_path):
    out = ["--out", tmp_path / "c"] if arguments[0] == "shard" else []
    code, output = run(*arguments, *out)
    assert error_of((code, output)) == output.strip()


def test_help_can_be_read_in_a_terminal_without_unicode():
    done = subprocess.run(
        [sys.executable, "-m", "richsem_prep", "shard", "--help"],
        env={"PYTHONIOENCODING": "ascii", "COLUMNS": "80"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-300:]
