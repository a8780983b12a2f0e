"""Sections `detection`, `text` and `extra`: what is learnt from."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, PositiveFloat, Tag, model_validator

from richsem_schemas.annotations import AnnotationFormat
from richsem_schemas.io.places import PlaceField
from richsem_train.choices import LabelForm, OnDamage, SoftForm, Supervision, ViewForm
from richsem_train.config.fields import (
    AutoFraction,
    EpochPictures,
    JitterFactor,
    LocalPath,
    Section,
    Side,
    form_told_by,
)


class SplitConfig(Section):
    """A split of the detection data."""

    annotations: LocalPath
    """The annotation file."""

    images: LocalPath
    """The folder that its pictures lie in."""


class AugmentationConfig(Section):
    """DETR's training augmentation: mirror; then resize, or resize, crop and resize (supplement, E.2)."""

    kind: Literal["detr"] = "detr"
    """This way of drawing; may be left out."""

    short_sides: Annotated[tuple[Side, ...], Field(min_length=1)] = tuple(range(480, 801, 32))
    """Short sides that a picture is resized to, one of them at random; pixels."""

    longest_side: Side = 1333
    """The long side has at most this many pixels."""

    first_short_sides: tuple[Side, ...] = (400, 500, 600)
    """The same before a crop; none: no crops."""

    crop_sides: tuple[Side, Side] = (384, 600)
    """Least and most pixels of a crop's sides."""

    flip: bool = True
    """Mirror half of the pictures, at random."""


class ScaleJitterConfig(Section):
    """Large-scale jitter: mirror; fit into a square, times a factor; cut what is larger (arXiv 2012.07177; Detic)."""

    kind: Literal["scale-jitter"]
    """This way of drawing; must be said."""

    side: Side = 640
    """Of the square, pixels. What is smaller stays smaller."""

    factors: tuple[JitterFactor, JitterFactor] = (0.1, 2.0)
    """Least and greatest size, one between them at random; at 1 a picture just fits into the square."""

    flip: bool = True
    """Mirror half of the pictures, at random."""

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.factors[0] > self.factors[1]:
            raise ValueError(
                f"the least of the factors, {self.factors[0]:g}, is above the greatest, {self.factors[1]:g}"
            )
        return self


AUGMENTATIONS = DETR, SCALE_JITTER = "detr", "scale-jitter"
"""Values of `detection.augmentation.kind`; pydantic's words for the forms of the section, too, which are no keys."""


AnyAugmentation = Annotated[
    Annotated[AugmentationConfig, Tag(DETR)] | Annotated[ScaleJitterConfig, Tag(SCALE_JITTER)],
    Discriminator(form_told_by("kind", DETR)),
]
"""How pictures are drawn, one class of keys for each way."""


class DetectionConfig(Section):
    """The detection data."""

    format: AnnotationFormat = "lvis"
    """Format of the annotations; decides the metric, too: LVIS's or COCO's; of OpenImages and Visual Genome AP and
    AP50."""

    train: SplitConfig
    """Pictures to learn from."""

    val: SplitConfig
    """Pictures to be scored on."""

    repeat_threshold: AutoFraction | None = "auto"
    """Share of pictures below which a category's pictures are repeated (repeat-factor sampling, arXiv 1908.03195);
    LVIS's is 0.001. `auto` is LVIS's, or on smaller data the share of pictures from which categories are frequent. Null
    repeats none."""

    class_aware_pictures: EpochPictures | None = None
    """Pictures an epoch, each category with the same share of them, however often those of rare ones come (class-aware
    sampling); in the place of `repeat_threshold`, and of its `auto`. Null shows every picture."""

    augmentation: AnyAugmentation = AugmentationConfig()
    """How pictures are drawn anew each time; `kind` says in which of two ways."""

    labels: Literal["cache", "hard", "none"] = "none"
    """Labels that the semantic branch learns on them: soft labels of the `cache`, `hard` labels, or `none`."""

    views: Literal["fresh", "stored"] = "fresh"
    """How pictures are shown: `fresh`, augmented anew each time, their boxes with the labels of the cache's nearest
    windows; or `stored`, the windows in turn, in the place of augmentation."""

    cache: PlaceField | None = None
    """A cache of these very pictures and boxes, with windows; needed for `labels: cache`."""

    labels_from: PlaceField | None = None
    """Another folder that holds label sets for its pictures (`richsem-prep shard --from-cache`)."""

    label_set: str | None = None
    """Name of the cache's label set; null where it has one only."""

    label_form: SoftForm = "embedding"
    """The stored `topk` classes, or the `embedding` (exact)."""

    root: PlaceField | None = None
    """Where the pictures lie, for a cache that refers to them; null is where they lay when it was made."""

    on_damage: OnDamage = "stop"
    """A missing or broken picture stops the run (`stop`), or is replaced and counted (`skip`)."""

    @model_validator(mode="after")
    def _has_one_sampling(self) -> Self:
        if self.class_aware_pictures is not None and self.repeat_threshold not in (None, "auto"):
            raise ValueError(
                f"detection.class_aware_pictures={self.class_aware_pictures} draws by class, and "
                f"detection.repeat_threshold={self.repeat_threshold} repeats pictures; set one of the two to null"
            )
        return self


class TextConfig(Section):
    """The text bank: that of a label set of a cache, or a folder with names of any choice."""

    section: ClassVar[str] = "text"

    cache: PlaceField | None = None
    """The cache whose label set has it."""

    label_set: str | None = None
    """Name of the cache's label set; null where it has one only."""

    folder: PlaceField | None = None
    """Made by `richsem-prep text`; stored embeddings of the same teacher are scored with it."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.cache is None) == (self.folder is None):
            raise ValueError(f"name either {self.section}.cache or {self.section}.folder")
        if self.label_set is not None and self.cache is None:
            raise ValueError(
                f"{self.section}.label_set names a label set of {self.section}.cache; leave it out beside "
                f"{self.section}.folder"
            )
        return self


class ClassifierTextConfig(TextConfig):
    """The classifier's text bank, where it is another than that of the soft labels; its keys are those of `text`."""

    section: ClassVar[str] = "classifier_text"


class ExtraConfig(Section):
    """Extra data: views of a cache. All extra data together gives as many batches as the detection data."""

    cache: PlaceField
    """The cache."""

    labels_from: PlaceField | None = None
    """Another folder that holds label sets for its pictures (`richsem-prep shard --from-cache`)."""

    weight: PositiveFloat = 1.0
    """How many of the extra batches are of this cache, in proportion to the others'."""

    label_set: str | None = None
    """Name of the cache's label set; null where it has one only."""

    teacher: str | None = None
    """Refuse a label set of another teacher than this name; null takes any."""

    labels: LabelForm = "embedding"
    """Labels that the semantic branch learns: the stored `topk` classes, the `embedding` (exact), or, for comparison,
    the `hard` ones; `hard` where there are no boxes to learn them of (`supervision: image`)."""

    views: ViewForm = "mosaics"
    """`mosaics` (the paper's; supplement, E.2), `crops` or (of detection data) `windows` as stored, or `free-mosaics`
    composed anew, with the labels of stored crops."""

    supervision: Supervision = "labelled"
    """How their classes are taught: `labelled`, `unlabelled`, by `pseudo` labels of the teacher, or, without boxes, by
    the labels of the whole `image`, which the largest box found learns (Detic, arXiv 2201.02605); not of mosaics."""

    lanes: Annotated[int, Field(gt=0, le=65_536)] = 64
    """Independent sequences of blocks that a batch is drawn from."""

    root: PlaceField | None = None
    """Where the pictures lie, for a cache that refers to them; null is where they lay when it was made."""

    on_damage: OnDamage = "stop"
    """A damaged part of the cache stops the run (`stop`), or is replaced and counted (`skip`)."""

    @model_validator(mode="after")
    def _whole_pictures_have_labels_of_their_own(self) -> Self:
        if self.supervision != "image":
            return self
        if self.views in ("mosaics", "free-mosaics"):
            raise ValueError(
                f"supervision=image gives the largest box of a picture the picture's labels, and views={self.views} "
                "shows four pictures as one, with a label each; use views=crops"
            )
        if self.labels != "hard":
            raise ValueError(
                f"supervision=image learns the labels of whole pictures, and labels={self.labels} are the teacher's of "
                "their boxes, of which it shows none; use labels=hard"
            )
        return self
