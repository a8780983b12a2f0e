"""Multi-scale deformable attention: one interface, several backends."""

from richsem_train.models.deformable_attention.attention import DeformableAttention
from richsem_train.models.deformable_attention.backends import (
    Backend,
    LayerSizes,
    choose_backend,
    deformable_attention,
    fallback_note,
)

__all__ = ["Backend", "DeformableAttention", "LayerSizes", "choose_backend", "deformable_attention", "fallback_note"]
