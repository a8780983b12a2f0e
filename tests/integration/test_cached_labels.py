"""Labels from the cache teach what the teacher itself would, seeing the same pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from richsem_prep.teacher.region_encoder import RoiAlignEncoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.codec import stored_embeddings
from richsem_schemas.cache.reader import open_cache
from richsem_train.config import DinoConfig, LossConfig
from richsem_train.data.cache.alignment import align_windows
from richsem_train.data.cache.source import DETECTION, ExpectedCache, open_training_cache
from richsem_train.data.collate import collate
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.showings import Showings
from richsem_train.data.soft_labels import unit_rows
from richsem_train.data.windows import WindowDataset
from richsem_train.run.build import build_detector, build_learner, text_tensor
from richsem_train.targets import SoftLabels
from tests.integration.shard_job import shard, shard_windows, use_small_views
from tests.pictures import write_pictures
from tests.trainer.tiny import VALUES

TEACHER_SIZE = 128


@pytest.fixture(scope="module")
def cache(resnet, tmp_path_factory):
    """OUT of a cache whose regions a small random CLIP ResNet has pooled from its map."""
    folder = tmp_path_factory.mktemp("online")
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder")
        shard(write_pictures(folder / "pictures", 12), folder / "out", resnet, teacher_size=TEACHER_SIZE)
    return folder / "out"


@pytest.fixture(scope="module")
def windows_cache(resnet, tmp_path_factory):
    """OUT of a cache of windows of detection pictures, and their annotations."""
    return shard_windows(tmp_path_factory.mktemp("detection"), resnet, teacher_size=TEACHER_SIZE)


@pytest.fixture(scope="module", params=["mosaics", "windows"])
def batch(request, cache):
    """Four views with their labels from the cache."""
    if request.param == "mosaics":
        extra = open_training_cache(cache, expected=ExpectedCache())
        dataset = ExtraDataset(extra, seed=0, lanes=1)
        return extra, collate([dataset[counter] for counter in range(4)])
    out, data = request.getfixturevalue("windows_cache")
    windows = open_training_cache(out, expected=ExpectedCache(section=DETECTION, views="windows"))
    showings = Showings(lambda _: np.arange(len(data)), epoch_length=len(data), pictures=len(data))
    dataset = WindowDataset(data, align_windows(windows, data, on_damage="stop"), showings)
    return windows, collate([dataset[1, 0, picture] for picture in range(4)])


def online_labels(batch, teacher):
    """What the teacher says of the boxes of a batch, rounded as the cache rounds."""
    encoder = RoiAlignEncoder(teacher, teacher_size=TEACHER_SIZE, precision="fp32")
    for pixels, target in zip(batch.pixels, batch.targets, strict=True):
        height, width = target.image_hw
        picture = pixels[:, :height, :width].permute(1, 2, 0).numpy()
        cx, cy, w, h = target.boxes_cxcywh_norm.T
        boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dim=1)
        boxes_xyxy_px = (boxes * torch.tensor([width, height, width, height])).numpy()
        ((_, features),) = encoder.encode([(None, encoder.prepare(picture, boxes_xyxy_px))])
        stored = stored_embeddings(features, "float16")
        yield SoftLabels(embeddings=torch.from_numpy(unit_rows(stored).astype(np.float32)))


@pytest.fixture(scope="module")
def online(batch, resnet):
    """The same pictures with labels that the teacher has just made."""
    _, cached = batch
    teacher = load_teacher(parse_teacher(resnet), device=torch.device("cpu"))
    targets = [
        replace(target, soft_labels=labels)
        for target, labels in zip(cached.targets, online_labels(cached, teacher), strict=True)
    ]
    return replace(cached, targets=tuple(targets))


def test_cached_embeddings_are_the_teachers(batch, online):
    for cached, fresh in zip(batch[1].targets, online.targets, strict=True):
        ours, theirs = cached.soft_labels.embeddings, fresh.soft_labels.embeddings
        # A step of float16, where the teacher's batch made another rounding.
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-5)
        assert torch.linalg.vector_norm(ours - theirs, dim=1).max() < 1e-3


def losses_and_gradients(extra, batch):
    model = DinoConfig.model_validate(VALUES["model"])
    torch.manual_seed(0)
    detector = build_detector(
        model,
        num_classes=len(extra.text.class_names),
        text_features_CD=text_tensor(extra.text),
        logit_scale=extra.text.logit_scale,
        weights=None,
        device=torch.device("cpu"),
        semantic_branch=True,
    )
    counts = torch.ones(len(extra.text.class_names), dtype=torch.int64)
    learner = build_learner(
        detector,
        model,
        LossConfig(federated=None),
        text=extra.text,
        image_counts_C=counts,
        precision="fp32",
        device=torch.device("cpu"),
    ).train()
    found = learner(batch, [8.0, 1.0], [torch.Generator().manual_seed(0)])
    sum(found.values()).backward()
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.requires_grad}
    return {name: loss.item() for name, loss in found.items()}, gradients


def test_cached_labels_and_the_online_teacher_make_the_same_loss_and_gradients(batch, online):
    extra, cached = batch
    losses, gradients = losses_and_gradients(extra, cached)
    fresh_losses, fresh_gradients = losses_and_gradients(extra, online)
    assert losses["loss_soft"] > 0
    assert losses["loss_soft_dn"] > 0
    assert losses == pytest.approx(fresh_losses, rel=1e-3)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, fresh_gradients[name], rtol=1e-3, atol=1e-3 * scale + 1e-9, msg=name)


def test_other_labels_make_another_loss(batch, online):
    """The test above can fail."""
    extra, _ = batch
    strange = [
        replace(target, soft_labels=SoftLabels(embeddings=target.soft_labels.embeddings.flip(1)))
        for target in online.targets
    ]
    losses, _ = losses_and_gradients(extra, replace(online, targets=tuple(strange)))
    assert losses["loss_soft"] != pytest.approx(losses_and_gradients(extra, online)[0]["loss_soft"], rel=1e-2)


def test_the_cache_is_of_that_teacher(cache):
    spec = open_cache(cache).label_set(None).spec
    assert (spec.region_encoder.kind, spec.region_encoder.teacher_size) == ("roi-align", TEACHER_SIZE)
