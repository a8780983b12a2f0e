"""The kinds of detectors, as configs name them."""

from richsem_train.config import ModelConfig
from richsem_train.run.detectors.centernet_cascade import CenternetCascadeAssembly
from richsem_train.run.detectors.dino import DinoAssembly
from richsem_train.run.detectors.kind import DetectorKind

_KINDS: dict[str, DetectorKind] = {"dino": DinoAssembly(), "centernet-cascade": CenternetCascadeAssembly()}


def kind_of(config: ModelConfig) -> DetectorKind:
    """How the detector of a config is put together."""
    return _KINDS[config.detector]
