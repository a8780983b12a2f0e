"""Pictures of several sizes in one batch have the maps that each has alone."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from richsem_prep.teacher import region_encoder
from richsem_prep.teacher.clip_trunk import map_hw, trunk, trunk_of_corners
from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from tests.pipeline.teachers import RESNET, save_random_clip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t") / "resnet"
    deep = {**RESNET, "vision_cfg": {**RESNET["vision_cfg"], "layers": [1, 2, 1, 2]}}
    return load_teacher(parse_teacher(save_random_clip(folder, deep)), device=torch.device("cpu"))


def test_each_corner_of_the_map_is_that_of_the_picture_alone_in_float64(teacher):
    visual = deepcopy(teacher.clip_resnet).double()
    hws = [(96, 128), (33, 97), (64, 65), (95, 127), (32, 32), (63, 111)]
    # What surrounds a picture is anything, and must not be seen.
    images = torch.full((len(hws), 3, 96, 128), torch.nan, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for image, (height, width) in zip(images, hws, strict=True):
        image[:, :height, :width] = torch.randn((3, height, width), generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        found = trunk_of_corners(visual, images, torch.tensor(hws))
        padded = trunk(visual, images.nan_to_num())
    for number, (height, width) in enumerate(hws):
        with torch.inference_mode():
            alone = trunk(visual, images[number : number + 1, :, :height, :width])[0]
        assert alone.shape[1:] == map_hw((height, width))
        corner = found[number, :, : alone.shape[1], : alone.shape[2]]
        largest = alone.abs().max().item()
        torch.testing.assert_close(corner, alone, atol=1e-12 * largest, rtol=1e-12)
        # Mere padding is seen, but for a row and a column that the first convolution pads itself.
        seen = (padded[number, :, : alone.shape[1], : alone.shape[2]] - alone).abs().max().item()
        assert (seen > 1e-3 * largest) == ((height, width) not in [(96, 128), (95, 127)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_views_of_like_size_together_have_the_embeddings_that_each_has_alone(teacher, monkeypatch, precision):
    rng = np.random.default_rng(1)
    views = []
    for number in range(50):
        pixels = rng.integers(0, 256, (*rng.integers(20, 200, 2), 3), np.uint8)
        boxes = np.sort(rng.uniform(0, 1, (number % 4, 2, 2)), axis=1).reshape(-1, 4)
        views.append((pixels, (boxes * np.array([pixels.shape[1], pixels.shape[0]] * 2)).astype(np.float32)))
        # To the very border, where RoIAlign would look past it.
        views[-1][1][:1] = (0, 0, pixels.shape[1], pixels.shape[0])

    def encode(some):
        prepared = [(None, encoder.prepare(*view)) for view in some]
        return [features for _, features in encoder.encode(prepared)]

    encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=None, precision=precision)
    alone = [encode([view])[0] for view in views]
    monkeypatch.setitem(region_encoder._CANVAS_GRID, "cpu", 64)
    encoder = make_region_encoder(teacher, kind="roi-align", teacher_size=None, precision=precision)
    batches = []
    launch = encoder._launch
    monkeypatch.setattr(encoder, "_launch", lambda batch: batches.append(len(batch)) or launch(batch))
    together = encode(views)
    assert max(batches) >= 3
    for one, many in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, many, atol=1e-6 if precision == "fp32" else 4e-3)
