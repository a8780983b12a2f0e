"""The vocabulary as a classifier sees it."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.numerics import at_least_float32


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The vocabulary as CLIP sees it.

    Attributes:
        raw: float32 [C, D], text embeddings averaged over the templates, not normalised.
        unit: the same with unit L2 norm.
        logit_scale: multiplies cosines; a scalar tensor, already exponentiated (~100).
    """

    raw: Tensor
    unit: Tensor
    logit_scale: Tensor

    @classmethod
    def of(cls, raw_CD: Tensor, logit_scale: Tensor) -> "TextFeatures":
        """The bank of raw means; row = class."""
        wide = at_least_float32(raw_CD)
        return cls(raw=wide, unit=functional.normalize(wide, dim=-1), logit_scale=at_least_float32(logit_scale))

    def cosine_logits(self, features: Tensor) -> Tensor:
        """Scaled cosines of features of any norm to every class, [..., D] to [..., C], float32 or wider."""
        # A cosine times 100 in bfloat16 would be off by up to a quarter.
        with torch.autocast(features.device.type, enabled=False):
            unit_features = functional.normalize(at_least_float32(features), dim=-1)
            return self.logit_scale * functional.linear(unit_features, self.unit)
