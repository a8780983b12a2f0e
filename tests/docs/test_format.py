"""docs/format.md says what is so: its commands print what it shows, its tables name every field."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from richsem_schemas.cache import manifest
from richsem_schemas.cache.codec import RecordLayout
from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW, index_schema
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.vocabularies.vocabulary import Vocabulary
from tests.docs.blocks import DOCS, ROOT

CACHE = ROOT / "tests" / "golden" / "cache"
PAGE = (DOCS / "format.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def table_rows():
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]


def test_every_command_of_the_page_shows_its_output():
    # The tree of a cache is text as well.
    assert len(SNIPPETS) == PAGE.count("```sh\n") == PAGE.count("```text\n") - 1 > 0


@pytest.mark.parametrize(("command", "printed"), SNIPPETS)
def test_commands_of_the_page_print_what_it_shows(command, printed):
    # `python` is the environment's own, as for a reader who has activated it.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


def test_the_tree_of_the_page_is_that_of_the_golden_cache():
    (tree,) = re.findall(r"^```text\n(.*?)^```$", PAGE[: PAGE.index("## Pictures")], re.MULTILINE | re.DOTALL)
    shown = {line.split()[0] for line in tree.splitlines()}
    names = {path.relative_to(CACHE).as_posix() for path in CACHE.rglob("*") if path.is_file()}
    assert shown == {re.sub("/(int8|none)/", "/float16/", name.replace("-000001", "-000000")) for name in names}


@pytest.mark.parametrize("columns", [index_schema(PICTURE_ROW), index_schema(VIEW_ROW)])
def test_the_page_names_every_index_column_with_its_type(columns):
    documented = {}
    for cells in table_rows():
        names, types = re.findall(r"`(\w+)`", cells[0]), cells[1].split(", ")
        documented |= {(name, types[min(at, len(types) - 1)]): True for at, name in enumerate(names)}
    assert [field.name for field in columns if (field.name, str(field.type)) not in documented] == []


@pytest.mark.parametrize(
    "model",
    [
        manifest.Plan, Vocabulary, manifest.PicturesReceipt, manifest.LabelsReceipt, manifest.ShardSummary,
        manifest.Environment, manifest.LabelSpec, manifest.TeacherIdentity, manifest.RegionEncoderSpec,
        manifest.ViewsSpec, manifest.ViewGeometry, manifest.ScaleJitter, manifest.TextSpec, manifest.TextManifest,
        manifest.CacheManifest, manifest.LabelManifest,
    ],
)  # fmt: skip
def test_the_page_names_every_field_of_the_sealed_files(model):
    text = "\n".join("|".join(cells) for cells in table_rows())
    assert [name for name in model.model_fields if f"`{name}`" not in text] == []


def test_the_page_names_every_field_of_a_record_with_its_dtype():
    documented = {cells[0].strip("· `"): cells[1] for cells in table_rows() if len(cells) == 4}
    items = [(name, dtype.fields[name][0]) for dtype in (TILE_DTYPE, REGION_DTYPE) for name in dtype.names]
    for embeddings in ("float16", "int8"):
        dtype = RecordLayout(embeddings, 16, 4).region_dtype()
        items += [(name, dtype.fields[name][0]) for name in dtype.names]
    for name, dtype in items:
        assert str(dtype.base) in re.findall(r"\w+", documented[name]), name


def test_a_region_takes_the_bytes_that_the_page_says():
    sizes = {kind: RecordLayout(kind, 1024, 64).region_dtype().itemsize for kind in ("float16", "int8", "none")}
    told = f"takes {sizes['float16']:,} B with float16, {sizes['int8']:,} B with int8, {sizes['none']:,} B with none"
    assert told in PAGE


def test_members_sort_as_text():
    names = [View("crop", number, (1, 1), None, None).member for number in (2, 10)]
    assert sorted(names) == ["crop-10.npy", "crop-2.npy"]
