"""The kinds of detectors, as configs name them."""

from richsem_train.config import ModelConfig
from richsem_train.run.detectors.kind import DetectorKind


def kind_of(config: ModelConfig) -> DetectorKind:
    """How the detector of a config is put together.

    A kind is imported with the first detector of it: the two-stage one has torchvision's operators, which import the
    whole of PyTorch's compiler.
    """
    if config.detector == "centernet-cascade":
        from richsem_train.run.detectors.centernet_cascade import CenternetCascadeAssembly  # noqa: PLC0415

        return CenternetCascadeAssembly()
    from richsem_train.run.detectors.dino import DinoAssembly  # noqa: PLC0415

    return DinoAssembly()
