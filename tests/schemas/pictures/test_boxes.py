import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from richsem_schemas.pictures.boxes import iou, xywh_to_xyxy, xyxy_px_to_cxcywh_norm, xyxy_to_xywh

BOXES_XYWH = np.random.default_rng(0).uniform(0, 90, (20, 4)).astype(np.float32)


def torchvisions(boxes, one, other):
    return box_convert(torch.from_numpy(boxes), one, other).numpy()


def test_formats_convert_as_in_torchvision_and_back():
    boxes_xyxy = xywh_to_xyxy(BOXES_XYWH)
    np.testing.assert_array_equal(boxes_xyxy, torchvisions(BOXES_XYWH, "xywh", "xyxy"))
    np.testing.assert_array_equal(xyxy_to_xywh(boxes_xyxy), torchvisions(boxes_xyxy, "xyxy", "xywh"))
    np.testing.assert_allclose(xyxy_to_xywh(boxes_xyxy), BOXES_XYWH, atol=1e-5)
    assert boxes_xyxy.dtype == np.float32


def test_centres_and_sides_are_fractions_of_width_and_height():
    found = xyxy_px_to_cxcywh_norm(xywh_to_xyxy(BOXES_XYWH), (50, 200))
    np.testing.assert_allclose(found * [200, 50, 200, 50], torchvisions(BOXES_XYWH, "xywh", "cxcywh"), rtol=1e-5)
    assert found.dtype == np.float32


def test_iou_of_all_pairs_equals_torchvision():
    ones, others = xywh_to_xyxy(BOXES_XYWH.astype(np.float64)), xywh_to_xyxy(BOXES_XYWH[::-1, ::-1].astype(np.float64))
    expected = box_iou(torch.from_numpy(ones), torch.from_numpy(others)).numpy()
    np.testing.assert_allclose(iou(ones[:, None], others), expected, atol=1e-12)
    assert iou(np.zeros(4), np.zeros(4)) == 0
