"""The two-stage detector learns: of every kind of picture, and the same in parts and on ranks."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from richsem_train.losses.centernet_cascade.truth import teaching_of
from richsem_train.targets import Batch
from tests.trainer.learners.cascade_steps import (
    batch_of,
    image_target,
    make_cascade_trainer,
    of_all_kinds,
    take_cascade_steps,
    take_cascade_steps_as_rank,
    two_stage,
)
from tests.trainer.processes import start_ranks
from tests.trainer.steps import make_batch

STAGES = ("_0", "_1", "")


def one(objects: int = 2, **changes):
    return replace(make_batch(range(1), objects=objects).targets[0], **changes)


KINDS = {
    "boxes": [one(2), one(1)],
    "no boxes": [one(0), one(0)],
    "unlabelled boxes": [one(2, supervision="unlabelled", soft_labels=None, labels=torch.zeros(2, dtype=torch.long))]
    * 2,
    "regions": [one(2, is_extra=True), one(1, is_extra=True)],
    "no regions": [one(0, is_extra=True)] * 2,
    "images": [image_target(one(), 1), image_target(one(), 3, 4)],
    "images without labels": [image_target(one()), image_target(one())],
    "all": [one(2), one(1, is_extra=True), image_target(one(), 2), one(0)],
}


def losses_of(batch: Batch, **options) -> dict[str, torch.Tensor]:
    trainer = make_cascade_trainer(**options)
    return trainer.step(0, 0, batch).losses


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_gives_finite_losses_of_the_same_names_and_reaches_every_parameter(kind):
    trainer = make_cascade_trainer()
    losses = trainer.step(0, 0, batch_of(*KINDS[kind])).losses
    assert list(losses) == list(trainer.learner.weights)
    assert all(parameter.grad is not None for parameter in trainer.learner.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("kind", "taught"),
    [
        ("boxes", {"loss_heatmap", "loss_proposal_giou", "loss_class", "loss_bbox", "loss_soft"}),
        ("no boxes", {"loss_heatmap", "loss_class"}),
        ("unlabelled boxes", {"loss_heatmap", "loss_proposal_giou", "loss_bbox"}),
        ("regions", {"loss_class", "loss_soft"}),
        ("no regions", set()),
        ("images", {"loss_image"}),
        ("images without labels", set()),
    ],
)
def test_each_kind_of_picture_teaches_what_it_knows(kind, taught):
    losses = losses_of(batch_of(*KINDS[kind]))
    assert {name.rstrip("_012") for name, value in losses.items() if value > 0} == taught


def test_boxes_of_extra_data_teach_all_where_they_are_trusted():
    batch = batch_of(*KINDS["regions"])
    trusted = losses_of(batch, model=two_stage(extra_boxes=True))
    as_detection = losses_of(batch_of(*KINDS["boxes"]), model=two_stage(extra_boxes=True))
    assert trusted == as_detection
    assert trusted["loss_heatmap"] > 0


@pytest.mark.parametrize(
    ("target", "extra_boxes", "teaching"),
    [
        (one(), False, "boxes"),
        (one(is_extra=True), False, "regions"),
        (one(is_extra=True), True, "boxes"),
        (image_target(one(), 1), True, "image"),
    ],
)
def test_how_pictures_teach(target, extra_boxes, teaching):
    assert teaching_of(target, extra_boxes=extra_boxes) == teaching


def test_regions_of_extra_data_stay_where_they_are_and_answer_for_their_objects_in_all_stages():
    """A coarse box that no stage would match after it was moved."""
    trainer = make_cascade_trainer(loss={"federated": None})
    for stage in trainer.learner.detector.cascade.stages:
        nn.init.constant_(stage.bbox_pred[2].bias, 3.0)
    seen = []
    outputs = trainer.learner.detector.cascade.outputs

    def spy(stage, maps, boxes, is_real, text):
        seen.append((boxes, is_real))
        return outputs(stage, maps, boxes, is_real, text)

    trainer.learner.detector.cascade.outputs = spy
    losses = trainer.step(0, 0, batch_of(one(2, is_extra=True), one(1, is_extra=True))).losses
    assert all(losses[f"loss_soft{stage}"] > 0 for stage in STAGES)
    for boxes, is_real in seen:
        assert torch.equal(boxes, seen[0][0])
        assert is_real.tolist() == [[True, True], [True, False]]


@pytest.fixture(scope="module")
def one_rank():
    """Losses, gradients and weights after three steps of eight pictures."""
    return take_cascade_steps()


def test_the_steps_below_learn_of_everything(one_rank):
    for name in one_rank["losses"][0]:
        assert sum(losses[name] for losses in one_rank["losses"]) > 0, name


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_makes_the_same_steps(one_rank, accumulate):
    found = take_cascade_steps(accumulate=accumulate)
    for ours, theirs in zip(found["losses"], one_rank["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert_close(found["gradients"], one_rank["gradients"])
    assert_close(found["weights"], one_rank["weights"])


def test_two_ranks_make_the_same_steps_as_one_alone(one_rank, tmp_path):
    for command in start_ranks(tmp_path, 2, take_cascade_steps_as_rank, tmp_path, 2):
        assert command.wait() == 0, command.output
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for step, theirs in enumerate(one_rank["losses"]):
        for name, value in theirs.items():
            ours = sum(rank["losses"][step][name] for rank in ranks) / 2
            assert ours == pytest.approx(value, rel=1e-5), (step, name)
    for rank in ranks:
        assert_close(rank["gradients"], one_rank["gradients"])
        assert_close(rank["weights"], one_rank["weights"])


def test_draws_of_another_size_make_other_steps(one_rank):
    """The tests above can fail."""
    found = take_cascade_steps(pictures_a_draw=4)["losses"][0]
    for name in ("loss_class_0", "loss_class"):
        assert found[name] != pytest.approx(one_rank["losses"][0][name], rel=1e-3), name


def test_a_step_depends_on_seed_and_step_alone():
    first, second = (make_cascade_trainer().step(7, 0, of_all_kinds(range(4))) for _ in range(2))
    assert vars(first) == vars(second)
    assert make_cascade_trainer().step(8, 0, of_all_kinds(range(4))).losses != first.losses
