"""As large as Detic's detector without masks: 76 million numbers with a ResNet-50, none of them made."""

import pytest
import torch
from torchvision.models import resnet50

from richsem_train.config import CenternetCascadeConfig
from richsem_train.run.build import build_detector

CLASSES, CLASSIFIER_WIDTH, TEACHER_WIDTH = 1204, 512, 1024


def layer(width_in, width_out, side=1):
    return width_in * width_out * side**2 + width_out


with torch.device("meta"):
    CONVOLUTIONS = [module for module in resnet50().modules() if isinstance(module, torch.nn.Conv2d)]
RESNET = sum(module.weight.numel() for module in CONVOLUTIONS)
PYRAMID = sum(layer(width, 256) for width in (512, 1024, 2048)) + 5 * layer(256, 256, 3)
HEAD = 4 * (layer(256, 256, 3) + 2 * 256) + layer(256, 1, 3) + layer(256, 4, 3) + 5
BOX_LAYERS = layer(7 * 7 * 256, 1024) + layer(1024, 1024)
STAGE = BOX_LAYERS + layer(1024, CLASSIFIER_WIDTH) + layer(1024, 1024) + layer(1024, 4)
BRANCH = 1024 * TEACHER_WIDTH


@pytest.fixture(scope="module", params=[False, True])
def detector(request):
    meta = torch.device("meta")
    with meta:
        return build_detector(
            CenternetCascadeConfig.model_validate({"detector": "centernet-cascade"}),
            num_classes=CLASSES,
            text_features_CD=torch.zeros(CLASSES, CLASSIFIER_WIDTH),
            logit_scale=None,
            weights=None,
            device=meta,
            semantic_branch=request.param,
            semantic_dim=TEACHER_WIDTH,
        )


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_has_as_many_parameters_as_published(detector):
    branches = 3 * BRANCH * (detector.cascade[0].semantic_proj is not None)
    assert parameters(detector.backbone) == RESNET
    assert parameters(detector.fpn) == PYRAMID
    assert parameters(detector.centernet) == HEAD
    assert parameters(detector.cascade) == 3 * STAGE + branches
    assert parameters(detector) - branches == RESNET + PYRAMID + HEAD + 3 * STAGE
    # What is known of Detic's: 76 million, of which 3.87 are the pyramid and 41.7 the two layers of each stage.
    assert round((parameters(detector) - branches) / 1e6) == 76
    assert round(PYRAMID / 1e6, 2) == 3.87
    assert round(3 * BOX_LAYERS / 1e6, 1) == 41.7
