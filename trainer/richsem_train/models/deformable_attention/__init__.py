"""Multi-scale deformable attention: one interface, several backends."""

from richsem_train.models.deformable_attention.attention import DeformableAttention
from richsem_train.models.deformable_attention.backends import Backend, choose_backend, deformable_attention

__all__ = ["Backend", "DeformableAttention", "choose_backend", "deformable_attention"]
