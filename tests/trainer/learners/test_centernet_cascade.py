"""The two-stage detector learns: of every kind of picture, and the same in parts and on ranks."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from richsem_train.losses.centernet_cascade.truth import teaching_of
from richsem_train.run.distributed import Ranks
from richsem_train.run.step_result import NonFiniteLossError
from richsem_train.targets import Batch, converted
from tests.trainer.learners.cascade_steps import (
    batch_of,
    image_target,
    make_cascade_trainer,
    of_all_kinds,
    take_cascade_steps,
    take_cascade_steps_as_rank,
    two_stage,
)
from tests.trainer.pretended_device import DEVICE, pretended_device
from tests.trainer.processes import start_ranks
from tests.trainer.steps import assert_close, make_batch

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


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_pictures_teach_a_step_waits_for_one_suppression_and_for_what_the_host_reads(kind):
    with pretended_device() as device:
        trainer = make_cascade_trainer(Ranks(0, 1, DEVICE))
        device.waits.clear()
        trainer.step(0, 0, batch_of(*KINDS[kind]))
    reasons = Counter(reason.split(" at ")[0] for reason in device.waits.elements())
    # Losses and the gradient's norm.
    assert reasons == {"shape of nms": 1, "values read by a copy": 1}


def part(batch: Batch, picture: int) -> Batch:
    """One picture, padded as it is in the batch."""
    return Batch(batch.pixels[picture, None], (batch.targets[picture],), (batch.names[picture],))


def test_a_picture_alone_teaches_what_it_does_in_a_batch():
    sizes = [(64, 64), (40, 56), (48, 64), (64, 40)]
    batch = batch_of(*(replace(target, image_hw=hw) for target, hw in zip(KINDS["all"], sizes, strict=True)))
    learner = make_cascade_trainer(loss={"federated": 3}).learner
    totals = [3.0, 5.0, 7.0, 4.0, 2.0]
    generators = [torch.Generator().manual_seed(number) for number in range(4)]
    together = learner(batch, totals, [generator.clone_state() for generator in generators])
    alone = [learner(part(batch, picture), totals, [generators[picture].clone_state()]) for picture in range(4)]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(losses[name].item() for losses in alone), rel=1e-5, abs=1e-7), name


def find(trainer, batch: Batch, keep: int = 300):
    detector = trainer.learner.detector.eval()
    with torch.inference_mode():
        return detector.detect(
            trainer.learner.normalise(batch),
            batch.padding_mask,
            image_hw=[target.image_hw for target in batch.targets],
            original_hw=[target.original_hw for target in batch.targets],
            vocabulary_C=torch.arange(detector.num_classes) > 0,
            keep=keep,
        )


def test_a_picture_alone_is_found_as_in_a_batch_and_within_itself():
    targets = [one(image_hw=(64, 64), original_hw=(128, 64)), one(image_hw=(40, 56), original_hw=(20, 28))]
    trainer, batch = make_cascade_trainer(), batch_of(*targets)
    for picture, found in enumerate(find(trainer, batch)):
        (alone,) = find(trainer, part(batch, picture))
        assert len(found.scores) > 5
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.scores, alone.scores)
        torch.testing.assert_close(found.boxes_xyxy_px, alone.boxes_xyxy_px)
        height, width = targets[picture].original_hw
        assert found.boxes_xyxy_px.min() >= 0
        assert (found.boxes_xyxy_px.amax(0)[2:] <= torch.tensor([width, height])).all()


def boxes(*rows: list[float]):
    """Objects with those boxes, relative to the picture: centre and sides."""
    return one(
        len(rows),
        boxes_cxcywh_norm=torch.tensor(rows, dtype=torch.float64),
        labels=torch.arange(len(rows)) % 6 + 1,
        soft_labels=None,
    )


@pytest.mark.parametrize(
    "rows",
    [
        [[0.5, 0.5, 0.004, 0.004], [0.2, 0.8, 1e-9, 1e-9], [0.99, 0.99, 0.01, 0.02]],
        [[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 4.0, 3.0], [0.0, 0.0, 1.0, 1.0]],
        [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.2]],
        [[0.5, 0.5, 0.0, 0.3], [1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.4, 0.4]],
    ],
    ids=["smaller than a cell", "larger than the picture", "of one centre", "without area"],
)
@pytest.mark.parametrize("is_extra", [False, True])
def test_strange_boxes_have_finite_losses(rows, is_extra):
    trainer = make_cascade_trainer()
    batch = batch_of(replace(boxes(*rows), is_extra=is_extra), one(0, soft_labels=None, is_extra=is_extra))
    for step in range(2):
        assert trainer.step(step, 0, batch).loss > 0


@pytest.mark.parametrize("kind", ["boxes", "no boxes", "regions", "images", "all"])
def test_without_any_proposal_the_rest_is_learnt_and_nothing_found(kind):
    trainer = make_cascade_trainer()
    detector = trainer.learner.detector
    with torch.no_grad():
        detector.centernet.heatmap.weight.zero_()
        detector.centernet.heatmap.bias.fill_(-30.0)
    batch = batch_of(*KINDS[kind])
    # Before the step moves the bias.
    assert all(len(found.scores) == 0 for found in find(trainer, batch))
    losses = trainer.step(0, 0, batch).losses
    assert (losses["loss_class"] > 0) == (kind in {"boxes", "regions", "all"})
    assert losses["loss_image"] == 0


def test_more_classes_than_lvis_has_are_learnt_and_found():
    trainer = make_cascade_trainer(classes=1500, loss={"federated": 50})
    target = one(labels=torch.tensor([1499, 1300]))
    losses = trainer.step(0, 0, batch_of(target, image_target(one(), 1400))).losses
    assert min(losses["loss_class"], losses["loss_image"], losses["loss_soft"]) > 0
    (found,) = find(trainer, batch_of(target))
    assert len(found.scores) > 100
    assert found.labels.max() > 1203


def test_what_is_no_number_is_told_and_ends():
    trainer = make_cascade_trainer()
    with torch.no_grad():
        trainer.learner.detector.centernet.ltrb.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="loss_proposal_giou is nan"):
        trainer.step(0, 0, batch_of(*KINDS["boxes"]))
    trainer = make_cascade_trainer()
    with torch.no_grad():
        trainer.learner.detector.cascade[0].bbox_pred[2].bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match="loss_bbox_0 is nan"):
        trainer.step(0, 0, batch_of(*KINDS["boxes"]))
    assert find(trainer, batch_of(one()))[0].boxes_xyxy_px.isnan().any()


def in_float32(batch: Batch) -> Batch:
    return replace(batch, targets=tuple(converted(target, _as_float32) for target in batch.targets))


def _as_float32(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.is_floating_point() else values


def test_half_precision_gives_about_the_same_losses():
    """Proposals differ by rounding, and with them the regions that are drawn: the objects' own are the same."""
    # Of maps one pixel wide oneDNN's weight gradients in bf16 are now and then what lay in memory.
    batch = in_float32(batch_of(*(replace(each, image_hw=(160, 160)) for each in KINDS["regions"])))
    totals = [1.0] * 5
    found = []
    for precision in ("fp32", "bf16"):
        learner = make_cascade_trainer(precision=precision).learner.float()
        losses = learner(batch, totals, [torch.Generator().manual_seed(0)])
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        sum(losses.values()).backward()
        assert all(p.grad.isfinite().all() for p in learner.parameters() if p.requires_grad)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_half_precision_is_that_of_the_maps_and_of_all_stages_layers():
    learner = make_cascade_trainer(precision="bf16").learner.float()
    seen = []
    cascade = learner.detector.cascade
    for layer in [learner.detector.fpn, *(stage.fc2 for stage in cascade.stages)]:
        layer.register_forward_hook(lambda _, __, out: seen.append((out[0] if isinstance(out, list) else out).dtype))
    learner(in_float32(batch_of(*KINDS["regions"])), [1.0] * 5, [torch.Generator().manual_seed(0)])
    assert seen == [torch.bfloat16] * 4
