"""Multi-scale deformable attention: one interface, several backends."""

from richsem_train.models.dino.deformable_attention.attention import DeformableAttention
from richsem_train.models.dino.deformable_attention.backends import (
    LayerSizes,
    choose_backend,
    deformable_attention,
    fallback_note,
)

__all__ = ["DeformableAttention", "LayerSizes", "choose_backend", "deformable_attention", "fallback_note"]
