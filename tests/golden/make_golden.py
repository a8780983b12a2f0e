"""Make the golden cache: `python tests/golden/make_golden.py`, only for a new format version.

This one command makes the cache, the picture rendered from it, `pins.json`, with which tests compare what they read,
and what `docs/format.md` shows of it. Look at the difference before you commit it.

Nine small pictures, one of them broken, in two shards, with classes and with boxes, so that there are views of all
kinds; three label sets, one a way to store embeddings, and one of them with windows of scale jitter. The code is the
pipeline's own but for the teacher, which sees a region as 4x4 colours and knows classes by their colour. A second run
on the same versions of Pillow, NumPy and Arrow changes no byte.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from richsem_prep.shard.finish import finish_cache
from richsem_prep.shard.plan import freeze_listing
from richsem_prep.shard.progress import Progress
from richsem_prep.shard.task import ShardInputs, run_shard
from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry
from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_prep.teacher.batches import PreparedView
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import (
    Environment,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    RegionEncoderSpec,
    ScaleJitter,
    TeacherIdentity,
    TextSpec,
    ViewGeometry,
    ViewsSpec,
)
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.text_bank import TextBank, write_text_bank
from richsem_schemas.cache.view import View
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.pictures.decode import decode_picture
from richsem_schemas.vocabularies.vocabulary import Vocabulary

HERE = Path(__file__).parent
CACHE = HERE / "cache"
RENDERED = HERE / "000000-00000.mosaic-0.png"
"""One view, rendered from the cache."""

PINS = HERE / "pins.json"
"""Hashes, fingerprints, and the values of that view: what must not change while the format's version stays."""

ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "format.md"
SNIPPET = re.compile(r"(?<=^```sh\n)(.*?)^```\n\n```text\n.*?(?=^```$)", re.MULTILINE | re.DOTALL)
"""A command of the page and what it prints."""

LABEL_SETS = {"float16": "float16", "int8": "int8", "none": "none"}
"""Storage of embeddings by the name of the label set."""

DIM = 16
TOP_K = 4
LOGIT_SCALE = 5.0
SAMPLES_PER_SHARD = 5
SEED = 57
"""Puts the broken picture into the middle of the first shard."""

COLOURS = {
    "blue": (40, 60, 200),
    "green": (40, 170, 60),
    "red": (210, 40, 40),
    "white": (240, 240, 240),
    "yellow": (230, 210, 40),
}
GREY = (90, 90, 90)
NAMES = ("none", *COLOURS)
TEMPLATES = ("{}.", "a {} thing.")
GEOMETRY = ViewGeometry(
    short_sides=(32, 40),
    longest_side=66,
    first_short_sides=(28, 36),
    crop_sides=(20, 32),
    mosaic_tile=48,
    whole_short_side=40,
    whole_longest_side=66,
)
SCALE_JITTERS = {"int8": ScaleJitter(side=48, factors=(0.5, 1.5))}
"""Of the label sets that have one."""

ENCODER = RegionEncoderSpec(kind="crop", teacher_size=None, pooled_hw=None)

PICTURES = (
    # name, width, height, EXIF orientation
    ("blue/flat.png", 48, 40, 1),
    ("green/a.jpg", 40, 50, 1),
    ("green/b.jpg", 50, 40, 1),
    ("red/a.jpg", 50, 38, 1),
    ("red/with space.jpg", 44, 44, 1),
    ("white/a.jpg", 36, 50, 1),
    ("yellow/rotated.jpg", 50, 40, 6),
    ("unlabelled.jpg", 42, 48, 1),
)


def draw_pictures(root: Path) -> None:
    """Blotches around each class's colour; a broken picture and an archive among them."""
    for number, (name, width, height, orientation) in enumerate(PICTURES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.array(COLOURS.get(path.parent.name, GREY))
        blotches = np.random.default_rng(number).integers(-60, 61, (4, 4, 3))
        blotches = np.clip(colour + blotches, 0, 255).astype(np.uint8)
        flat = path.suffix == ".png"
        filtering = Image.Resampling.NEAREST if flat else Image.Resampling.BICUBIC
        picture = Image.fromarray(blotches).resize((width, height), filtering)
        exif = Image.Exif()
        exif[274] = orientation
        options = {} if flat else {"quality": 85, "exif": exif}
        picture.save(path, **options)
    (root / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / "archive.zip").write_bytes(b"PK")


def with_boxes(root: Path) -> Iterator[SourceEntry | Rejected]:
    """The pictures; each of a class has a box of it and one of the class of the row below, over each other."""
    rows = {name: row for row, name in enumerate(NAMES)}
    sides = {name: (height, width) if turn == 1 else (width, height) for name, width, height, turn in PICTURES}
    for item in list_folder(root, rows):
        if isinstance(item, Rejected):
            yield item
            continue
        height, width = sides.get(item.name, (40, 50))
        boxes = np.array([(2, 4, width // 2, height - 8), (width // 4 + 0.5, 0, width, height // 2)], np.float32)
        box_rows = np.array([item.category_id, item.category_id - 1], np.int32)
        seen = slice(None) if item.category_id else slice(0)
        yield replace(item, boxes=PictureBoxes(boxes[seen], box_rows[seen], (height, width)))


class ColourEncoder:
    """A teacher that needs no network: a region's 4x4 mean colours through a fixed random matrix."""

    spec = ENCODER

    def prepare(self, pixels_HW3: np.ndarray, boxes_xyxy_px: np.ndarray) -> PreparedView:
        """Cut each region and shrink it to 4x4."""
        picture = Image.fromarray(pixels_HW3)
        boxes = [tuple(box) for box in boxes_xyxy_px.tolist()]
        small = [np.asarray(picture.resize((4, 4), Image.Resampling.BOX, box=box)) for box in boxes]
        return PreparedView(np.array(small).reshape(-1, 4, 4, 3), boxes_xyxy_px)

    def batches_of(self, view: View) -> float:
        """No view is worth waiting for others."""
        return 1.0

    def encode(self, views: Iterable[tuple[Any, PreparedView]]) -> Iterator[tuple[Any, np.ndarray]]:
        """Each item with the [R, D] unit rows of its view."""
        for item, view in views:
            yield item, unit(project(view.images))


def project(images_R443: np.ndarray) -> np.ndarray:
    """[R, 4, 4, 3] colours 0..255 to [R, D]."""
    matrix = np.random.default_rng(0).standard_normal((48, DIM))
    return (images_R443.reshape(-1, 48) / 127.5 - 1) @ matrix


def unit(features_RD: np.ndarray) -> np.ndarray:
    """Rows of norm 1."""
    return (features_RD / np.linalg.norm(features_RD, axis=1, keepdims=True)).astype(np.float32)


def text_bank() -> TextBank:
    """Each class is its flat colour."""
    colours = np.array([GREY, *COLOURS.values()], np.float64)
    features = project(np.broadcast_to(colours[:, None, None], (len(NAMES), 4, 4, 3))).astype(np.float32)
    return TextBank(NAMES, NAMES, TEMPLATES, LOGIT_SCALE, features)


def make_plan(layout: CacheLayout, root: Path) -> Plan:
    """List the pictures and freeze the plan."""
    assert ("none", *folder_classes(root)) == NAMES
    listing = freeze_listing(layout, with_boxes(root), on_progress=lambda _: None, has_boxes=True)
    plan = Plan(
        dataset="golden",
        seed=SEED,
        listed=listing.listed,
        samples=listing.listed,
        samples_per_shard=SAMPLES_PER_SHARD,
        limit=None,
        pictures="copy",
        max_side=None,
        root=None,
        vocabulary=Vocabulary(name="folders", class_names=NAMES),
        absent_classes=(),
        listing=listing.file,
        rejected=listing.rejected,
        listing_quarantine=listing.quarantine,
    )
    plan.write(layout.plan)
    return plan


def make_spec(plan: Plan, name: str) -> LabelSpec:
    """A label set's spec; the teacher's hashes are made up."""
    teacher = TeacherIdentity(
        name="golden-colours",
        weights_sha256="0" * 64,
        model_config_sha256="1" * 64,
        quick_gelu=False,
        embed_dim=DIM,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        input_hw=(4, 4),
        interpolation="bicubic",
        logit_scale=LOGIT_SCALE,
        logit_bias=None,
    )
    text = TextSpec(
        vocabulary="folders",
        names="raw",
        classes=len(NAMES),
        templates=len(TEMPLATES),
        prompts_sha256=json_sha256([list(NAMES), list(TEMPLATES)]),
    )
    return LabelSpec(
        plan_fingerprint=plan.fingerprint,
        teacher=teacher,
        region_encoder=ENCODER,
        precision="fp32",
        views=ViewsSpec(
            crops=1,
            mosaics=1,
            windows=1,
            whole=True,
            jitters=1,
            noise_scales=(0.25, 1.0),
            geometry=GEOMETRY.model_copy(update={"scale_jitter": SCALE_JITTERS.get(name)}),
        ),
        text=text,
        embeddings=LABEL_SETS[name],
        top_k=TOP_K,
    )


def make_label_set(layout: CacheLayout, name: str, plan: Plan, root: Path) -> None:
    """Make all shards of a label set, and the pictures where they are missing."""
    label_set = layout.label_set(name)
    spec, text = make_spec(plan, name), text_bank()
    write_text_bank(label_set, text)
    spec.write(label_set.spec)
    environment = Environment(device="none", torch_threads=1, versions={"richsem": "0.1.0"})
    inputs = ShardInputs(layout, name, plan, spec, text, root, 1, environment)
    for shard in range(plan.shards):
        run_shard(shard, inputs, ColourEncoder(), Progress())
        forget_seconds(layout, name, shard)


def forget_seconds(layout: CacheLayout, name: str, shard: int) -> None:
    """Durations differ from run to run; here they are zero."""
    for kind, path in (
        (PicturesReceipt, layout.pictures_receipt(shard)),
        (LabelsReceipt, layout.label_set(name).receipt(shard)),
    ):
        receipt = kind.read(path)
        receipt.model_copy(update={"seconds": dict.fromkeys(receipt.seconds, 0.0)}).write(path)


def render(layout: CacheLayout) -> Image.Image:
    """Render the view that `RENDERED` names, from the cache alone."""
    key, member = RENDERED.stem.split(".")
    shard = LabelShard(layout.label_set("float16"), 0)
    rows = shard.rows()
    (labelled,) = shard.views(rows[[name == f"{key}.{member}.npy" for name in view_names(rows)]])
    stored = PictureShard(layout, 0).pictures(root=None)
    pictures = {int(picture.row["sample"]): decode_picture(picture.data) for picture in stored}
    return Image.fromarray(render_view(labelled.view, pictures))


def files_sha256(folder: Path) -> str:
    """Over names and bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def pins() -> dict[str, Any]:
    """What tests compare with, by other means than the reader's."""
    manifest = json.loads((CACHE / "manifest.json").read_text())
    specs = {name: json.loads((CACHE / "labels" / name / "manifest.json").read_text()) for name in LABEL_SETS}
    regions = {name: stored_regions(name) for name in LABEL_SETS}
    return {
        "files_sha256": files_sha256(CACHE),
        "plan_fingerprint": manifest["fingerprint"],
        "spec_fingerprints": {name: spec["fingerprint"] for name, spec in specs.items()},
        "class_ids": regions["float16"]["class_ids"].tolist(),
        "log_probs": regions["float16"]["log_probs"].tolist(),
        "log_rest": regions["float16"]["log_rest"].tolist(),
        "first_embedding": regions["float16"]["embedding"][0].tolist(),
        "first_codes": regions["int8"]["embedding"][0].tolist(),
        "first_scale": float(regions["int8"]["scale"][0]),
    }


def stored_regions(labels: str) -> np.ndarray:
    """Regions of the view that `RENDERED` names, as NumPy alone reads them."""
    with tarfile.open(CACHE / "labels" / labels / "golden-000000.tar") as tar:
        member = tar.extractfile(f"{RENDERED.stem}.npy")
        assert member is not None
        return np.load(io.BytesIO(member.read()), allow_pickle=False)["regions"]


def refresh_page() -> None:
    """Let every command of the page show what it prints now; `python` is this one."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def shown(match: re.Match[str]) -> str:
        command = ["sh", "-c", match[1]]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return f"{match[1]}```\n\n```text\n{done.stdout}"

    PAGE.write_text(SNIPPET.sub(shown, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    """Make everything anew."""
    shutil.rmtree(CACHE, ignore_errors=True)
    layout = CacheLayout(CACHE, "golden")
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder))
        plan = make_plan(layout, Path(folder))
        for name in LABEL_SETS:
            make_label_set(layout, name, plan, Path(folder))
    finish_cache(layout, list(LABEL_SETS))
    buffer = io.BytesIO()
    render(layout).save(buffer, "PNG", optimize=True)
    RENDERED.write_bytes(buffer.getvalue())
    PINS.write_text(json.dumps(pins(), indent=1) + "\n")
    refresh_page()


if __name__ == "__main__":
    main()
