"""Real pictures: a small detector learns eight of them by heart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from richsem_schemas.annotations import read_annotations
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.evaluation import score
from richsem_train.config import CenternetCascadeConfig, DinoConfig, LossConfig, ScheduleConfig
from richsem_train.data.collate import collate
from richsem_train.data.detection import EvaluationDataset
from richsem_train.results.inference import BatchDetector, detect_all
from richsem_train.run.build import build_detector, build_learner
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import Trainer
from richsem_train.run.optimiser import make_optimiser
from tests.schemas.scoring.truth import truth_in

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco128"
PICTURES = 8
BACKBONE = {
    "name": "clip-resnet", "weights": None, "out_strides": [8, 16, 32], "frozen_stages": 0,
    "frozen_norm": False, "clip_layers": [1, 1, 1, 1], "clip_width": 16,
}  # fmt: skip
DINO = DinoConfig.model_validate(
    {
        "backbone": BACKBONE, "hidden_dim": 64, "feature_levels": 3, "encoder_layers": 1, "decoder_layers": 2,
        "heads": 4, "ffn_dim": 128, "queries": 40, "denoising": {"queries": 20},
        "classifier": "linear", "encoder_classifier": "linear", "semantic_branch": False,
    }
)  # fmt: skip
TWO_STAGE = CenternetCascadeConfig.model_validate(
    {
        "detector": "centernet-cascade", "backbone": BACKBONE, "hidden_dim": 64, "roi_dim": 128, "rois": 64,
        "semantic_branch": False,
    }
)  # fmt: skip
TEXT_DIM = 64


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Eight pictures with two to eight objects each, in the COCO format, categories numbered from 1."""
    if not COCO.is_dir():
        pytest.skip(f"no real pictures at {COCO}")
    content = json.loads((COCO / "annotations" / "instances_train2017.json").read_text())
    boxes = [each for each in content["annotations"] if not each.get("iscrowd")]
    counts = {image["id"]: sum(box["image_id"] == image["id"] for box in boxes) for image in content["images"]}
    images = [image for image in content["images"] if 2 <= counts[image["id"]] <= 8][:PICTURES]
    kept = [box for box in boxes if box["image_id"] in {image["id"] for image in images}]
    ids = {old: new for new, old in enumerate(sorted({box["category_id"] for box in kept}), start=1)}
    categories = [each | {"id": ids[each["id"]]} for each in content["categories"] if each["id"] in ids]
    kept = [box | {"category_id": ids[box["category_id"]]} for box in kept]
    path = tmp_path_factory.mktemp("eight") / "eight.json"
    path.write_text(json.dumps({"images": images, "annotations": kept, "categories": categories}))
    return path


def memorise(annotations, model, *, side, steps, lr=2e-3, **loss):
    """Train a reduced detector on the eight pictures, as they are; losses, and COCO metrics on the same pictures."""
    data = read_annotations(annotations, COCO / "train2017", file_format="coco")
    dataset = EvaluationDataset(data, short_side=side * 3 // 4, longest_side=side)
    samples = [dataset[index] for index in range(len(data))]
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    detector = build_detector(
        model,
        num_classes=data.num_rows,
        text_features_CD=torch.randn(data.num_rows, TEXT_DIM) if model.needs_text else None,
        logit_scale=100.0 if model.needs_text else None,
        weights=None,
        device=cpu,
        semantic_branch=False,
    )
    image_counts_C = torch.from_numpy(data.image_counts(data.num_rows))
    learner = build_learner(
        detector,
        model,
        LossConfig(federated=None, **loss),
        text=None,
        image_counts_C=image_counts_C,
        precision="fp32",
        device=cpu,
    )
    trainer = Trainer(
        learner,
        make_optimiser(detector, lr=lr, backbone_lr=lr, weight_decay=1e-4),
        None,
        schedule=ScheduleConfig(warmup_steps=10, lr_drops=(3,), clip_norm=1.0),
        pseudo_threshold=0.05,
        ranks=Ranks(0, 1, cpu),
        seed=0,
    )
    batches = [collate(samples[start : start + 4]) for start in range(0, PICTURES, 4)]
    losses = [trainer.step(step, 4 * step // steps, batches[step % 2]).loss for step in range(steps)]
    names = ("", *(category.name for category in data.categories))
    shown = BatchDetector(detector.eval(), learner.normalise, "fp32", names, 300, side * 3 // 4, side)
    return losses, score(truth_in(annotations, metric="coco"), joined(list(detect_all(shown, batches))))


def joined(found):
    boxes_xyxy_px = np.concatenate([each.boxes_xyxy_px for _, each in found])
    boxes_xywh_px = np.concatenate([boxes_xyxy_px[:, :2], boxes_xyxy_px[:, 2:] - boxes_xyxy_px[:, :2]], axis=1)
    return Detections(
        image_ids=np.concatenate([np.full(len(each.scores), image_id, np.int64) for image_id, each in found]),
        category_ids=np.concatenate([each.category_ids for _, each in found]),
        boxes_xywh_px=boxes_xywh_px,
        scores=np.concatenate([each.scores for _, each in found]),
    )


TWO_STAGE_LOSS = {"bbox_weight": 1.0, "giou_weight": 1.0}


def test_the_loss_of_eight_pictures_falls_below_a_third(annotations):
    losses, _ = memorise(annotations, DINO, side=64, steps=120)
    assert np.mean(losses[-4:]) < 0.3 * np.mean(losses[:2])


def test_the_loss_of_eight_pictures_falls_below_a_tenth_in_two_stages(annotations):
    losses, _ = memorise(annotations, TWO_STAGE, side=64, steps=60, **TWO_STAGE_LOSS)
    assert np.mean(losses[-4:]) < 0.1 * np.mean(losses[:2])


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart(annotations):
    losses, metrics = memorise(annotations, DINO, side=192, steps=200)
    assert metrics["AP"] > 0.5, (metrics, losses[::20])


@pytest.mark.slow
def test_eight_pictures_are_learned_by_heart_in_two_stages(annotations):
    losses, metrics = memorise(annotations, TWO_STAGE, side=192, steps=500, **TWO_STAGE_LOSS)
    assert metrics["AP"] > 0.5, (metrics, losses[::20])
