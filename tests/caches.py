"""Small caches made by the real code, of pictures and of detection pictures, without a network for a teacher."""

import hashlib
import os
import warnings

import numpy as np
from PIL import Image

from richsem_prep.shard.finish import finish_cache, shard_is_done
from richsem_prep.shard.plan import freeze_listing
from richsem_prep.shard.progress import Progress
from richsem_prep.shard.task import ShardInputs, run_shard
from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry
from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_prep.teacher.batches import PreparedView
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import (
    Environment,
    LabelSpec,
    Plan,
    RegionEncoderSpec,
    TeacherIdentity,
    TextSpec,
    ViewGeometry,
    ViewsSpec,
)
from richsem_schemas.cache.text_bank import TextBank, read_text_bank, write_text_bank
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.vocabulary import Vocabulary

DIM = 16
TOP_K = 5
LOGIT_SCALE = 20.0
PICTURES = 40
SAMPLES_PER_SHARD = 16
LABELS = "hashed"
TEMPLATES = ("{}.", "a {}.")
CLASSES = ("a cat", "b dog", "c <script>alert(1)<script>", "d bird & bee", "e fish", "f unused")
GEOMETRY = ViewGeometry(
    short_sides=(32, 40), longest_side=66, first_short_sides=(20, 25), crop_sides=(12, 25), mosaic_tile=32
)
SPEC = RegionEncoderSpec(kind="crop", teacher_size=None, pooled_hw=None)


class HashingEncoder:
    """Embeds a region by the hash of its box and its view's pixels."""

    spec = SPEC

    def prepare(self, picture, boxes_xyxy_px):
        return PreparedView(np.asarray(picture)[None], boxes_xyxy_px)

    def batches_of(self, view):
        return 0.25

    def encode(self, views):
        for item, view in views:
            digest = hashlib.sha256(view.images.tobytes()).digest()
            rng = np.random.default_rng(list(digest))
            features = rng.standard_normal((len(view.boxes_xyxy_px), DIM))
            yield item, (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def draw_pictures(root, pictures=PICTURES):
    """A folder of tiny pictures in five classes, some without one; a broken picture and an archive among them."""
    warnings.simplefilter("ignore")
    for number in range(pictures):
        rng = np.random.default_rng(number)
        folder = root / CLASSES[number % 5] if number % 7 else root
        name = "an <img src=x> & name" if number == 3 else f"{number:03d}"
        path = folder / f"{name}.{'png' if number % 3 == 0 else 'jpg'}"
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(16, 48, 2).tolist()
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        image.save(path, "PNG" if path.suffix == ".png" else "JPEG")
    (root / CLASSES[0] / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (root / CLASSES[1] / "archive.zip").write_bytes(b"PK")


class TableEncoder:
    """Embeds a region of a view by what `embed` makes of it, a row of `REGION_DTYPE`: [DIM] numbers of any norm."""

    spec = SPEC

    def __init__(self, embed):
        self._embed = embed

    def prepare(self, picture, boxes_xyxy_px):
        return PreparedView(np.asarray(picture)[None], boxes_xyxy_px)

    def batches_of(self, view):
        return 0.25

    def encode(self, views):
        for (block, view), _ in views:
            features = np.array([self._embed(region) for region in view.regions], np.float64).reshape(-1, DIM)
            yield (block, view), (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


class SyntheticCache:
    """How a synthetic cache was made, to make parts of it again."""

    _vocabulary = "folders"
    _limit = None

    def __init__(
        self,
        root,
        out,
        *,
        labels=LABELS,
        embeddings="float16",
        pictures="copy",
        crops=1,
        mosaics=2,
        encoder=None,
        text=None,
        top_k=TOP_K,
    ):
        self.root = root
        self.layout = CacheLayout(out, "folder")
        self.labels = labels
        self.names = ("none", *CLASSES)
        self._embeddings, self._pictures = embeddings, pictures
        self._views = ViewsSpec(crops=crops, mosaics=mosaics, geometry=GEOMETRY)
        self._encoder, self._text, self._top_k = encoder or HashingEncoder(), text, top_k

    @property
    def label_set(self):
        return self.layout.label_set(self.labels)

    def begin(self):
        """Write plan, text and spec, as the driver does."""
        if not self.layout.plan.is_file():
            self._freeze_plan()
        plan = Plan.read(self.layout.plan)
        features = self._text
        if features is None:
            features = np.random.default_rng(0).standard_normal((len(self.names), DIM)).astype(np.float32)
        write_text_bank(self.label_set, TextBank(self.names, self.names, TEMPLATES, LOGIT_SCALE, features))
        LabelSpec(
            plan_fingerprint=plan.fingerprint,
            teacher=TeacherIdentity(
                name="hash", weights_sha256="0" * 64, model_config_sha256="1" * 64, quick_gelu=False, embed_dim=DIM,
                mean=(0, 0, 0), std=(1, 1, 1), input_hw=(32, 32), interpolation="bicubic", logit_scale=LOGIT_SCALE,
                logit_bias=None,
            ),
            region_encoder=SPEC,
            precision="fp32",
            views=self._views,
            text=TextSpec(
                vocabulary="folders", names="raw", classes=len(self.names), templates=len(TEMPLATES),
                prompts_sha256=json_sha256([list(self.names), list(TEMPLATES)]),
            ),
            embeddings=self._embeddings,
            top_k=self._top_k,
        ).write(self.label_set.spec)  # fmt: skip

    def _listed(self):
        ids = {name: self.names.index(name) for name in folder_classes(self.root)}
        return list_folder(self.root, ids)

    def _freeze_plan(self):
        listing = freeze_listing(
            self.layout, self._listed(), on_progress=lambda _: None, has_boxes=self._views.has_boxes
        )
        Plan(
            dataset=self.layout.name,
            seed=0,
            listed=listing.listed,
            samples=self._limit or listing.listed,
            samples_per_shard=SAMPLES_PER_SHARD,
            limit=self._limit,
            pictures=self._pictures,
            max_side=None,
            root=str(self.root) if self._pictures == "reference" else None,
            vocabulary=Vocabulary(name=self._vocabulary, class_names=self.names),
            absent_classes=(),
            listing=listing.file,
            rejected=listing.rejected,
            listing_quarantine=listing.quarantine,
        ).write(self.layout.plan)

    def make_missing_shards(self, *, resizer=None, most=None):
        """Make the shards that aren't done, as the driver decides it, or the first few of them; returns which."""
        plan, spec = Plan.read(self.layout.plan), LabelSpec.read(self.label_set.spec)
        text = read_text_bank(self.label_set)
        versions = {} if resizer is None else {"resizer": resizer}
        environment = Environment(device="none", torch_threads=1, versions=versions)
        inputs = ShardInputs(self.layout, self.labels, plan, spec, text, self.root, 2, environment)
        missing = [n for n in range(plan.shards) if not shard_is_done(self.layout, self.labels, n, plan, spec)]
        missing = missing[:most]
        for shard in missing:
            run_shard(shard, inputs, self._encoder, Progress())
        return missing

    def make(self):
        """Make the whole cache."""
        self.begin()
        self.make_missing_shards()
        self.finish()
        return self

    def finish(self):
        finish_cache(self.layout, [self.labels])


class WindowsCache(SyntheticCache):
    """Windows of the pictures of `data`, whose category ids are rows of `names`; those of `without` are rejected."""

    _vocabulary = "lvis"

    def __init__(
        self,
        data,
        out,
        *,
        names=None,
        windows=2,
        geometry=GEOMETRY,
        pictures="reference",
        without=(),
        limit=None,
        whole=False,
        jitters=0,
        noise=(1.0,),
        **rest,
    ):
        super().__init__(data.root, out, pictures=pictures, crops=0, mosaics=0, **rest)
        self.layout = CacheLayout(out, "lvis")
        self.data = data
        self.names = names or ("none", *(category.name for category in data.categories))
        self._views = ViewsSpec(
            crops=0, mosaics=0, windows=windows, whole=whole, jitters=jitters, noise_scales=noise, geometry=geometry
        )
        self._without, self._limit = without, limit

    def _listed(self):
        return listed(self.data, without=self._without)


def listed(data, *, without=()):
    """The pictures of annotations as a source lists them; those of `without` (names) are rejected."""
    for index, name in enumerate(data.files):
        if name in without:
            yield Rejected(name, "no such file")
            continue
        hw = None if data.are_relative else tuple(data.hws_px[index].tolist())
        boxes = PictureBoxes(data.boxes_xyxy(index), data.objects(index)[1].astype(np.int32), hw)
        size = data.path(index).stat().st_size
        yield SourceEntry(name, os.fsencode(name), WHOLE_FILE, size, 0, boxes)
