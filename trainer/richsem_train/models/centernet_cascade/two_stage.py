"""The two-stage detector."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone import Backbone, padded_to
from richsem_train.models.centernet_cascade.cascade import Cascade
from richsem_train.models.centernet_cascade.centernet import CenterNetHead, Proposals, decode
from richsem_train.models.centernet_cascade.detections import best_pairs
from richsem_train.models.centernet_cascade.fpn import FeaturePyramid
from richsem_train.models.detector import BestPairs, DetectionModel
from richsem_train.models.text_features import TextFeatures
from richsem_train.outputs.centernet_cascade import CellPredictions

_TRAINING_TOP_K, _INFERENCE_TOP_K = {"pre_top_k": 4000, "post_top_k": 2000}, {"pre_top_k": 1000, "post_top_k": 256}
_SEMANTIC = ".semantic_proj."


class CenternetCascade(DetectionModel):
    """CenterNet's proposals from a pyramid of features, and a cascade of three stages that names and refines them.

    Args:
        backbone: pictures to maps of strides 8, 16 and 32.
        num_classes: rows C of the vocabulary.
        text_features_CD: raw text means of the classifier, row = class.
        cosine_scale: multiplies the classifier's cosines.
        hidden_dim: channels of the pyramid.
        roi_dim: width of the cascade.
        semantic_dim: width of the teacher's text embeddings, for a branch in each stage that learns soft labels; None
            without.
        size_divisor: what heights and widths are padded to multiples of.

    Raises:
        RichSemError: the text features don't fit the classes, or the backbone's maps the pyramid.

    Source:
        Zhou et al. 2021, CenterNet2 (arXiv 2103.07461); Zhou et al. 2022, Detic (arXiv 2201.02605), whose classifier is
        without bias; Meng et al. 2023 (arXiv 2310.12152) for the branch. Differs: no masks.
    """

    text_features: Tensor
    cosine_scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        text_features_CD: Tensor,
        cosine_scale: float,
        hidden_dim: int,
        roi_dim: int,
        semantic_dim: int | None,
        size_divisor: int,
    ) -> None:
        super().__init__()
        if len(text_features_CD) != num_classes:
            raise RichSemError(
                f"the text features have {len(text_features_CD)} rows and the detector {num_classes} classes; rows are "
                "category ids, so both must be equal"
            )
        self.num_classes = num_classes
        self.size_divisor = math.lcm(size_divisor, backbone.size_divisor)
        self.register_buffer("text_features", text_features_CD.detach().clone())
        self.register_buffer("cosine_scale", torch.tensor(cosine_scale), persistent=False)
        self.backbone = nn.Sequential(backbone)
        self.fpn = FeaturePyramid(backbone.channels, width=hidden_dim)
        self.centernet = CenterNetHead(hidden_dim)
        self.cascade = Cascade(
            hidden_dim, hidden_dim=roi_dim, text_dim=text_features_CD.shape[1], semantic_dim=semantic_dim
        )

    def maps(self, images_B3HW: Tensor) -> list[Tensor]:
        """P3 to P7 of normalised pixels, 0 where padded."""
        maps: list[Tensor] = self.fpn(self.backbone(padded_to(images_B3HW, self.size_divisor, value=0)))
        return maps

    def propose(self, maps: Sequence[Tensor], image_hw_B2: Tensor) -> tuple[CellPredictions, Proposals]:
        """What the proposal head says, and its boxes: more of them in training."""
        predictions = self.centernet(maps)
        return predictions, decode(predictions, image_hw_B2, **(_TRAINING_TOP_K if self.training else _INFERENCE_TOP_K))

    def text_bank(self) -> TextFeatures:
        """The classifier's vocabulary."""
        return TextFeatures.of(self.text_features, self.cosine_scale)

    def detect(
        self,
        images_B3HW: Tensor,
        padding_mask_BHW: Tensor,  # noqa: ARG002 -- the pictures' sizes say the same
        *,
        image_hw: Sequence[tuple[int, int]],
        original_hw: Sequence[tuple[int, int]],
        vocabulary_C: Tensor,
        keep: int,
    ) -> list[BestPairs]:
        """The best pairs of a region and a class in each picture; scores are no number where the weights give none."""
        image_hw_B2 = torch.tensor(image_hw).to(images_B3HW)
        maps = self.maps(images_B3HW)
        predictions, proposals = self.propose(maps, image_hw_B2)
        found = self.cascade.find(
            maps,
            proposals.boxes_xyxy_px,
            proposals.scores,
            proposals.is_real,
            text=self.text_bank(),
            image_hw_B2=image_hw_B2,
        )
        # A map that is no number proposes nothing, which would look like a picture with nothing in it.
        is_broken_B = ~predictions.heatmap_logits.isfinite().all(1)
        return best_pairs(
            found.scores.masked_fill(is_broken_B[:, None, None], torch.nan),
            found.boxes_xyxy_px,
            image_hw=image_hw,
            original_hw=original_hw,
            vocabulary_C=vocabulary_C,
            keep=keep,
        )

    def inference_state_dict(self) -> dict[str, Tensor]:
        """The state without the stages' semantic branches."""
        return {key: value for key, value in self.state_dict().items() if _SEMANTIC not in key}
