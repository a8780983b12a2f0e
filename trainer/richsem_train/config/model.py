"""Sections `model` and `loss`: what the detector is made of, and what it is taught by."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from richsem_train.choices import Backend, ClassifierKind, LabelEmbedding, Tail
from richsem_train.config.fields import Fraction, Layers, Levels, PositiveInt, Rgb, Section, form_told_by


class BackboneConfig(Section):
    """The network that makes the feature maps."""

    name: str = "resnet50"
    """`resnet50` and its like (torchvision), `timm:NAME`, or `clip-resnet` (CLIP's own, for small students)."""

    weights: str | None = "imagenet1k"
    """`imagenet1k` (torchvision's or timm's pretrained ones), a file, or null for random ones."""

    out_strides: Levels = (8, 16, 32)
    """Strides of the maps that are used, in pixels of the picture."""

    frozen_stages: Annotated[int, Field(ge=0, le=100)] = 2
    """How many stages stay as they are, the stem being the first. The paper's: 2, and 0 with ImageNet-21k weights."""

    frozen_norm: bool = True
    """Batch norms stay as they are (ResNets)."""

    drop_path: Fraction | None = None
    """For timm's networks: share of showings in which the last block is left out, growing from 0 at the first
    (stochastic depth, arXiv 1603.09382); null is the network's own."""

    clip_layers: Annotated[tuple[Layers, ...], Field(min_length=1)] = (3, 4, 6, 3)
    """For `clip-resnet`: bottlenecks in each stage."""

    clip_width: PositiveInt = 64
    """For `clip-resnet`: channels after the stem."""

    pixel_mean: Rgb = (0.485, 0.456, 0.406)
    """RGB, of pictures in 0..1; taken from the pixels."""

    pixel_std: Rgb = (0.229, 0.224, 0.225)
    """RGB, of pictures in 0..1; the pixels are divided by it."""


class DenoisingConfig(Section):
    """Contrastive denoising: noised copies of the truth as extra queries (DINO, arXiv 2203.03605, section 3.3)."""

    queries: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How many in all; divided by the most boxes in a picture of the draw it gives the number of groups. 0 is none."""

    label_noise: Fraction = 0.5
    """Share of labels that are changed, halved as in DINO."""

    box_noise: NonNegativeFloat = 1.0
    """How far corners move, in half sides of the box."""


DETECTORS = DINO, CENTERNET_CASCADE = "dino", "centernet-cascade"
"""Values of `model.detector`; pydantic's words for the forms of section `model`, too, which are no keys."""


class ModelConfig(Section):
    """What all detectors have: a backbone, a semantic branch, and how batches are padded."""

    unused_losses: ClassVar[tuple[str, ...]] = ()
    """Keys of section `loss` that say nothing to it; none may be changed."""

    detector: str
    """Which detector."""

    backbone: BackboneConfig = BackboneConfig()
    """The network that makes the feature maps."""

    semantic_branch: bool = True
    """The head that learns soft labels and is dropped at inference: one linear layer (supplement, E.1)."""

    size_divisor: Annotated[int, Field(gt=0, le=1024)] = 32
    """Batches are padded to multiples of so many pixels, at the right and the bottom, whenever the detector is used."""

    @property
    def most_boxes(self) -> int | None:
        """Boxes of a picture that can be learnt at once; None where there is no limit."""
        return None

    @property
    def classifies_by_text(self) -> bool:
        """Whether the classifier is of cosines with the text bank."""
        return True

    @property
    def needs_text(self) -> bool:
        """Whether the model can't be built without a text bank."""
        return self.semantic_branch or self.classifies_by_text


class DinoConfig(ModelConfig):
    """DINO (arXiv 2203.03605) with RichSem's classifier and semantic branch (arXiv 2310.12152)."""

    detector: Literal["dino"] = "dino"
    """Which detector: `dino`, or `centernet-cascade`."""

    hidden_dim: PositiveInt = 256
    """Width of the transformer; a multiple of `heads` and of 32."""

    feature_levels: Layers = 4
    """Maps that the transformer sees; those beyond the backbone's are made from its last by strides of 2."""

    encoder_layers: Layers = 6
    """Layers of the encoder."""

    decoder_layers: Layers = 6
    """Layers of the decoder; each has losses of its own."""

    heads: PositiveInt = 8
    """Attention heads a layer."""

    points: PositiveInt = 4
    """Points that deformable attention samples, a head and level."""

    ffn_dim: PositiveInt = 2048
    """Inner width of the feed-forward networks."""

    queries: PositiveInt = 900
    """Matching queries a picture: the most boxes that can be learnt or found in one."""

    dropout: Fraction = 0.0
    """Probability, in training alone."""

    classifier: ClassifierKind = "text"
    """Classifier of the decoder's queries: `text` (scaled cosines with the text bank) or `linear`."""

    encoder_classifier: ClassifierKind = "text"
    """Classifier of the encoder's proposals; the reference's baseline has `linear` above and `text` here."""

    label_embedding: LabelEmbedding = "classifier"
    """Contents of denoising queries: the `classifier`'s own, or an `embedding` as in plain DINO."""

    query_positions: Literal["padded", "picture"] = "padded"
    """Positions of the decoder's queries: relative to the `padded` batch or to the `picture`."""

    denoising: DenoisingConfig = DenoisingConfig()
    """Noised copies of the truth as extra queries."""

    deformable_attention: Literal["auto", Backend] = "auto"
    """Who samples: `torch`, `torch-checkpoint` (for less memory), the `triton` kernel, or `auto`: the best there is."""

    checkpoint_encoder: bool = False
    """Compute the encoder's layers again in the backward pass: for pictures or batches that don't fit otherwise."""

    @property
    def most_boxes(self) -> int:
        """Boxes of a picture that can be learnt at once."""
        return self.queries

    @property
    def classifies_by_text(self) -> bool:
        """Whether the classifier of the decoder's queries is of cosines with the text bank."""
        return self.classifier == "text"

    @property
    def needs_text(self) -> bool:
        """Whether the model can't be built without a text bank."""
        return super().needs_text or self.encoder_classifier == "text"

    @model_validator(mode="after")
    def _widths_and_levels_fit(self) -> Self:
        if self.hidden_dim % self.heads:
            raise ValueError(f"model.hidden_dim {self.hidden_dim} is no multiple of model.heads {self.heads}")
        if self.hidden_dim % 32:
            raise ValueError(f"model.hidden_dim {self.hidden_dim} is no multiple of 32, the neck's groups")
        if self.feature_levels < len(self.backbone.out_strides):
            raise ValueError("model.feature_levels is fewer than the maps in model.backbone.out_strides")
        return self


class CenternetCascadeConfig(ModelConfig):
    """CenterNet2's proposals (arXiv 2103.07461) and a cascade of three stages (arXiv 1712.00726), as in Detic.

    Its classifier is always `text`. Of section `loss`, `class_weight` is of the cross-entropy of each stage's regions,
    `bbox_weight` of the L1 distance of their deltas, and `giou_weight` of the proposals' boxes, all 1 in Detic;
    `federated` counts the background as a class. It has no use for `matcher` and `image_negatives`.
    """

    # Nothing is matched one to one, and whole images teach their labels alone.
    unused_losses = ("image_negatives", "matcher")

    detector: Literal["centernet-cascade"]
    """Which detector: `dino`, or `centernet-cascade`."""

    hidden_dim: PositiveInt = 256
    """Channels of the pyramid, P3 to P7, and of the proposal head."""

    roi_dim: PositiveInt = 1024
    """Width of the cascade's layers."""

    rois: Annotated[int, Field(ge=4, lt=2**31)] = 512
    """Regions of a picture that the cascade learns from, a quarter of them positive at most."""

    cosine_scale: PositiveFloat = 50.0
    """Multiplies the classifier's cosines; of the branches it is the teacher's scale."""

    extra_boxes: bool = False
    """Whether boxes of extra data teach where objects are and where none is, as those of detection data do. If not,
    only what is in them is learnt: they may be rough, or some of many."""

    @model_validator(mode="after")
    def _the_pyramid_has_its_maps(self) -> Self:
        if tuple(sorted(self.backbone.out_strides)) != (8, 16, 32):
            raise ValueError(
                f"model.backbone.out_strides is {list(self.backbone.out_strides)}; the pyramid of "
                "model.detector=centernet-cascade is made of the maps of strides 8, 16 and 32"
            )
        return self


AnyModelConfig = Annotated[
    Annotated[DinoConfig, Tag(DINO)] | Annotated[CenternetCascadeConfig, Tag(CENTERNET_CASCADE)],
    Discriminator(form_told_by("detector", DINO)),
]
"""The detector, one class of keys for each."""


class MatcherConfig(Section):
    """Costs of the Hungarian matching."""

    class_cost: NonNegativeFloat = 2.0
    """Weight of the focal-style class cost."""

    bbox_cost: NonNegativeFloat = 5.0
    """Weight of the L1 distance of boxes, in fractions of the picture."""

    giou_cost: NonNegativeFloat = 2.0
    """Weight of the generalised IoU."""


class LossConfig(Section):
    """Weights and settings of the losses."""

    class_weight: NonNegativeFloat = 1.0
    """Weight of the loss of classes: focal in DINO."""

    bbox_weight: NonNegativeFloat = 5.0
    """Weight of the L1 distance of boxes, in DINO in fractions of the picture."""

    giou_weight: NonNegativeFloat = 2.0
    """Weight of the generalised IoU."""

    soft_weight: NonNegativeFloat = 0.5
    """Weight of the KL divergence between teacher and semantic branch: the paper's λ_soft (supplement, E.1)."""

    tail: Tail = "bucket"
    """The classes that top-k labels leave out: one `bucket`, spread `uniform`ly, or `renormalise`d
    away."""

    temperature: PositiveFloat = 1.0
    """Divides the teacher's logits, not the student's; above 1 is softer than CLIP. Stored `topk` labels have theirs
    built in, which must be this one."""

    federated: Annotated[int, Field(gt=0, le=1_000_000)] | None = 50
    """Categories that the class loss sees in the pictures of a draw (federated loss, arXiv 2103.07461); null is all of
    them."""

    pseudo_threshold: Fraction = 0.05
    """Probability from which on a class is a pseudo label."""

    image_weight: NonNegativeFloat = 0.1
    """Weight of the cross-entropy of the labels of whole images (`extra.supervision: image`)."""

    image_candidates: PositiveInt | None = None
    """Boxes of a picture that may be the largest one, which learns the image's labels: so many of the best proposals;
    null is all."""

    image_negatives: bool = False
    """Whether all boxes of a picture labelled as a whole also learn that they are none of the classes of the draw, its
    labels aside; with `detector: dino`."""

    matcher: MatcherConfig = MatcherConfig()
    """Costs of the Hungarian matching; with `detector: dino`."""
