"""A detector small enough for tests, and batches for it."""

import torch
from torch import Tensor, nn

from richsem_train.models.dino.denoising import draw_denoising
from richsem_train.models.dino.dino import Dino
from richsem_train.outputs.dino import DenoisingQueries
from richsem_train.targets import Target

CLASSES = 7
QUERIES = 12


class TinyBackbone(nn.Module):
    """Two maps, of strides 8 and 16."""

    channels = (8, 16)
    strides = (8, 16)

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 16, 2, stride=2)])

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        fine = self.body[0](images_B3HW).relu()
        return [fine, self.body[1](fine).relu()]


def tiny_dino(**changes) -> Dino:
    """Without `changes`: RichSem's, with 2 levels, 1 + 3 layers and width 32."""
    torch.manual_seed(0)
    arguments = {
        "hidden_dim": 32,
        "feature_levels": 2,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "heads": 4,
        "points": 2,
        "ffn_dim": 48,
        "queries": QUERIES,
        "num_classes": CLASSES,
        "text_features_CD": torch.randn(CLASSES, 20),
        "logit_scale": 50.0,
    }
    return Dino(TinyBackbone(), **(arguments | changes))


def shaken(module: nn.Module) -> nn.Module:
    """The module with all weights moved a little, so that what starts at zero does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.add_(0.1 * noise)
    return module


def targets(*counts: int, labels: int | None = None, supervision="labelled") -> list[Target]:
    """One target a count, with as many objects."""
    generator = torch.Generator().manual_seed(2)
    return [
        Target(
            boxes_cxcywh_norm=torch.rand(count, 4, generator=generator) * 0.3 + 0.3,
            labels=torch.randint(1, CLASSES, (count,), generator=generator)
            if labels is None
            else torch.full((count,), labels),
            image_id=row,
            image_hw=(64, 96),
            original_hw=(64, 96),
            supervision=supervision,
        )
        for row, count in enumerate(counts)
    ]


def denoising(*counts: int, seed: int = 3, dn_queries: int = 8, **changes) -> DenoisingQueries:
    """Queries of `targets(*counts)`."""
    arguments = {"label_noise": 0.5, "box_noise": 1.0, "num_classes": CLASSES}
    drawn = draw_denoising(
        targets(*counts),
        dn_queries=dn_queries,
        generators=[torch.Generator().manual_seed(seed)],
        **(arguments | changes),
    )
    assert drawn is not None
    return drawn


def pictures(batch: int, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    """Random pictures, and a mask without padding."""
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(4))
    return images, torch.zeros(batch, height, width, dtype=torch.bool)
