from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from richsem_train.losses.dino.criterion import Criterion, ImageLoss, LossWeights
from richsem_train.losses.dino.matcher import NonFiniteError
from richsem_train.losses.dino.stages import focal_loss
from richsem_train.losses.federated import draw_federated
from richsem_train.losses.soft_labels import SoftLoss, kl_full, kl_top_k
from richsem_train.targets import Target
from tests.trainer.losses.batches import (
    CLASSES,
    LAYERS,
    WIDTH,
    FakeDenoising,
    FakeOutputs,
    embedding_labels,
    generator,
    make_denoising,
    make_image_target,
    make_outputs,
    make_target,
    mask_of,
    match,
    top_k_labels,
    total_of,
)

KINDS = {"loss_class": "loss_ce", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}
TEXTS = torch.randn(CLASSES, 5, generator=generator(1))


def semantic_branch() -> nn.Linear:
    branch = nn.Linear(WIDTH, CLASSES, bias=False)
    nn.init.normal_(branch.weight, generator=generator(2))
    return branch


def run(
    outputs: FakeOutputs, targets: Sequence[Target], denoising: FakeDenoising | None = None, *, num_boxes: float = 4.0
) -> dict[str, Tensor]:
    """All classes everywhere, no semantic branch."""
    return Criterion(decoder_layers=LAYERS)(outputs, targets, denoising, num_boxes=num_boxes)


def transformers_losses(
    logits_BQC: Tensor, boxes_BQ4: Tensor, targets: Sequence[Target], num_boxes: float, matches=None
) -> dict[str, float]:
    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    image_loss = DeformableDetrImageLoss(matcher, CLASSES, 0.25, ["labels", "boxes"])
    outputs = {"logits": logits_BQC.detach(), "pred_boxes": boxes_BQ4.detach()}
    as_dicts = [{"class_labels": target.labels, "boxes": target.boxes_cxcywh_norm} for target in targets]
    matches = matches or matcher(outputs, as_dicts)
    losses = {}
    for kind in ("labels", "boxes"):
        losses |= image_loss.get_loss(kind, outputs, as_dicts, matches, num_boxes)
    return {name: loss.item() for name, loss in losses.items()}


def assert_equal(losses: dict[str, Tensor], suffix: str, expected: dict[str, float]) -> None:
    for ours, theirs in KINDS.items():
        assert losses[ours + suffix].item() == pytest.approx(expected[theirs], rel=1e-5), ours + suffix


def suffix_of(layer: int) -> str:
    return "" if layer == LAYERS - 1 else f"_{layer}"


def test_the_focal_loss_and_its_gradient_are_torchvisions():
    logits = torch.linspace(-40, 40, 401, dtype=torch.float64).repeat(2).requires_grad_()
    wanted = torch.arange(2, dtype=torch.float64).repeat_interleave(401)
    ours, theirs = focal_loss(logits, wanted), sigmoid_focal_loss(logits, wanted, alpha=0.25, gamma=2)
    # `softplus` is the identity from 20 on.
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("counts", [(3, 1), (0, 6), (2, 2)])
def test_decoder_and_encoder_losses_equal_transformers(counts: tuple[int, int]):
    outputs = make_outputs(2, scale=2.0)
    targets = [make_target(count, seed=count) for count in counts]
    num_boxes = 7.0

    losses = run(outputs, targets, num_boxes=num_boxes)

    for layer in range(LAYERS):
        expected = transformers_losses(outputs.pred_logits[layer], outputs.pred_boxes[layer], targets, num_boxes)
        assert_equal(losses, suffix_of(layer), expected)
    expected = transformers_losses(outputs.encoder_logits, outputs.encoder_boxes, targets, num_boxes)
    assert_equal(losses, "_enc", expected)


def test_denoising_losses_equal_transformers_at_the_given_pairs_over_boxes_times_groups():
    targets = [make_target(3), make_target(1, seed=1)]
    denoising = make_denoising([3, 1], groups=4)
    outputs = make_outputs(2, dn=24)

    losses = run(outputs, targets, denoising, num_boxes=4.0)

    for layer in range(LAYERS):
        logits, boxes = outputs.dn_logits[layer], outputs.dn_boxes[layer]
        expected = transformers_losses(logits, boxes, targets, 4.0 * 4, matches=list(denoising.positives))
        assert_equal(losses, f"_dn{suffix_of(layer)}", expected)


def test_federated_losses_look_at_the_drawn_classes_only_anew_for_every_loss():
    weights = torch.tensor([0.0, *torch.arange(1.0, CLASSES)])
    targets = [make_target(2), make_target(1, seed=1)]
    outputs = make_outputs(2, dn=8)
    criterion = Criterion(decoder_layers=LAYERS, federated_weights_C=weights, federated_total=5)

    losses = criterion(outputs, targets, make_denoising([2, 1]), num_boxes=3.0, generators=[generator(3)])

    labels = torch.cat([target.labels for target in targets])
    drawn = draw_federated(
        labels, torch.zeros_like(labels), weights, total=5, losses=2 * LAYERS + 1, generators=[generator(3)]
    )
    draws = mask_of(drawn, CLASSES)[:, 0]
    assert len({tuple(draw.tolist()) for draw in draws}) > 1
    for layer in range(LAYERS):
        logits = outputs.pred_logits[layer]
        wanted = torch.zeros_like(logits)
        for b, (queries, objects) in enumerate(match(logits, outputs.pred_boxes[layer], targets)):
            wanted[b, queries, targets[b].labels[objects]] = 1.0
        focal = sigmoid_focal_loss(logits, wanted)[..., draws[layer]].sum() / 3.0
        assert losses[f"loss_class{suffix_of(layer)}"].item() == pytest.approx(focal.item(), rel=1e-5)
    untaught_by_encoder = torch.autograd.grad(losses["loss_class_enc"], outputs.encoder_logits, retain_graph=True)[0]
    assert (untaught_by_encoder.abs().sum((0, 1)) > 0).tolist() == draws[LAYERS].tolist()
    by_denoising = torch.autograd.grad(losses["loss_class_dn"], outputs.dn_logits)[0]
    assert (by_denoising[-1].abs().sum((0, 1)) > 0).tolist() == draws[-1].tolist()


def test_federated_over_the_whole_vocabulary_is_the_dense_loss_without_none():
    targets = [make_target(2)]
    outputs = make_outputs(1)
    everything = Criterion(decoder_layers=LAYERS, federated_weights_C=torch.ones(CLASSES), federated_total=CLASSES)

    federated = everything(outputs, targets, None, num_boxes=2.0, generators=[generator()])["loss_class"]

    dense = run(outputs, targets, num_boxes=2.0)["loss_class"]
    none = sigmoid_focal_loss(outputs.pred_logits[-1, ..., 0], torch.zeros(1, 9), reduction="sum") / 2.0
    assert federated.item() == pytest.approx((dense - none).item(), rel=1e-5)


@pytest.mark.parametrize("form", ["embedding", "top_k", "hard", "none"])
def test_parts_of_a_batch_add_up_to_the_whole(form: str):
    makers = {"embedding": embedding_labels, "top_k": top_k_labels}
    targets = [
        make_target(3, seed=seed, soft_labels=makers[form](3, seed=seed) if form in makers else None)
        for seed in range(4)
    ]
    targets = [replace(target, is_hard=form == "hard") for target in targets]
    outputs = make_outputs(4, dn=12)
    criterion = Criterion(decoder_layers=LAYERS, soft_loss=SoftLoss(TEXTS, logit_scale=5.0))
    branch = semantic_branch()

    def losses_of(images: slice) -> dict[str, Tensor]:
        part, denoising = targets[images], make_denoising([3] * len(targets[images]))
        return criterion(outputs.of(images), part, denoising, num_boxes=12.0, semantic_logits=branch)

    whole = losses_of(slice(None))
    halves = losses_of(slice(0, 2)), losses_of(slice(2, 4))
    singles = [losses_of(slice(b, b + 1)) for b in range(4)]

    assert (whole["loss_soft"] > 0) == (form != "none")
    for name, loss in whole.items():
        assert loss.item() == pytest.approx(sum(half[name].item() for half in halves), rel=1e-5, abs=1e-7)
        assert loss.item() == pytest.approx(sum(single[name].item() for single in singles), rel=1e-5, abs=1e-7)


def test_unlabelled_pictures_have_no_class_loss_on_any_head_but_boxes_and_semantics():
    soft_labels = [top_k_labels(3), top_k_labels(1, seed=1)]
    targets = [
        make_target(len(labels.log_rest), seed=seed, supervision="unlabelled", soft_labels=labels)
        for seed, labels in enumerate(soft_labels)
    ]
    outputs = make_outputs(2, dn=12)
    criterion = Criterion(
        decoder_layers=LAYERS,
        soft_loss=SoftLoss(TEXTS),
        federated_weights_C=torch.ones(CLASSES),
        federated_total=5,
    )

    losses = criterion(
        outputs,
        targets,
        make_denoising([3, 1]),
        num_boxes=4.0,
        generators=[generator()],
        semantic_logits=semantic_branch(),
    )
    total_of(criterion, losses).backward()

    assert all((loss == 0) == name.startswith("loss_class") for name, loss in losses.items())
    for logits in (outputs.pred_logits, outputs.encoder_logits, outputs.dn_logits):
        assert torch.equal(logits.grad, torch.zeros_like(logits))
    for other in (outputs.pred_boxes, outputs.encoder_boxes, outputs.dn_boxes, outputs.hidden, outputs.dn_hidden):
        assert other.grad.abs().sum() > 0


def test_an_unlabelled_picture_leaves_the_labelled_ones_class_loss_alone():
    outputs = make_outputs(2)
    labelled = make_target(3)

    both = run(outputs, [labelled, make_target(2, seed=1, supervision="unlabelled")])
    alone = run(outputs.of(slice(0, 1)), [labelled])

    assert both["loss_class"].item() == pytest.approx(alone["loss_class"].item(), rel=1e-6)
    assert both["loss_bbox"] > alone["loss_bbox"]


def test_labels_of_unlabelled_pictures_are_not_federated_positives():
    stray = replace(make_target(1, supervision="unlabelled"), labels=torch.tensor([7]))
    outputs = make_outputs(2)
    weights = torch.ones(CLASSES)
    weights[7] = 0.0
    criterion = Criterion(decoder_layers=LAYERS, federated_weights_C=weights, federated_total=5)

    losses = criterion(outputs, [make_target(0), stray], None, num_boxes=1.0, generators=[generator()])
    total_of(criterion, losses).backward()

    assert outputs.pred_logits.grad[..., 7].abs().sum() == 0


@pytest.mark.parametrize("is_federated", [False, True])
def test_a_batch_without_objects_is_finite_and_touches_every_head(is_federated: bool):
    outputs = make_outputs(2)
    branch = semantic_branch()
    criterion = Criterion(
        decoder_layers=LAYERS,
        soft_loss=SoftLoss(TEXTS),
        federated_weights_C=torch.ones(CLASSES) if is_federated else None,
    )
    targets = [make_target(0, soft_labels=embedding_labels(0)), make_target(0)]

    losses = criterion(outputs, targets, None, num_boxes=1.0, generators=[generator()], semantic_logits=branch)
    total_of(criterion, losses).backward()

    assert {name for name, loss in losses.items() if loss != 0} == {
        "loss_class_enc",
        *(f"loss_class{suffix_of(layer)}" for layer in range(LAYERS)),
    }
    for leaf in (*outputs.leaves(), branch.weight):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    assert branch.weight.grad.abs().sum() == 0


def test_keys_and_weights_are_the_same_whatever_the_batch_holds():
    criterion = Criterion(decoder_layers=LAYERS, soft_loss=SoftLoss(TEXTS))
    full = criterion(
        make_outputs(1, dn=4),
        [make_target(1, soft_labels=top_k_labels(1))],
        make_denoising([1]),
        num_boxes=1.0,
        semantic_logits=semantic_branch(),
    )
    empty = criterion(make_outputs(1), [make_target(0)], None, num_boxes=1.0, semantic_logits=semantic_branch())

    assert list(full) == list(empty) == list(criterion.weights)
    places = ["", "_0", "_1", "_enc", "_dn", "_dn_0", "_dn_1"]
    expected = {f"{kind}{place}" for kind in KINDS for place in places} | {"loss_soft", "loss_soft_dn"}
    assert full.keys() == expected
    assert run(make_outputs(1), [make_target(1)]).keys() == expected - {"loss_soft", "loss_soft_dn"}
    assert Criterion(decoder_layers=1, denoising=False).weights.keys() == {
        f"{k}{s}" for k in KINDS for s in ("", "_enc")
    }


def test_losses_of_whole_images_have_keys_where_they_are_learnt():
    criterion = Criterion(decoder_layers=LAYERS, image_loss=ImageLoss(), weights=LossWeights(image=0.3))
    names = ["loss_image", "loss_image_0", "loss_image_1"]
    assert list(criterion.weights) == [*Criterion(decoder_layers=LAYERS).weights, *names]
    assert {criterion.weights[name] for name in names} == {0.3}
    assert LossWeights().image == 0.1, "Detic's"
    for targets in ([make_target(1)], [make_image_target([3])]):
        assert list(criterion(make_outputs(1), targets, None, num_boxes=1.0)) == list(criterion.weights)


IMAGE_LABELS = ([4], [1, 7, 11])


def image_losses(outputs, *, num_images=1.0, num_boxes=1.0, targets=None, **changes):
    targets = targets or [make_image_target(labels) for labels in IMAGE_LABELS]
    criterion = Criterion(decoder_layers=LAYERS, **({"image_loss": ImageLoss()} | changes))
    return criterion(outputs, targets, None, num_boxes=num_boxes, num_images=num_images, generators=[generator(5)])


@pytest.mark.parametrize("candidates", [None, 3, 100])
def test_the_largest_query_of_each_layer_learns_the_labels_of_the_image(candidates: int | None):
    outputs = make_outputs(2, scale=3.0)
    losses = image_losses(outputs, num_images=2.5, image_loss=ImageLoss(candidates=candidates))
    largest = set()
    for layer in range(LAYERS):
        expected = 0.0
        for image, labels in enumerate(IMAGE_LABELS):
            sizes = outputs.pred_boxes[layer, image, :candidates, 2:]
            query = int((sizes[:, 0] * sizes[:, 1]).argmax())
            logits = outputs.pred_logits[layer, image, query, 1:]
            for label in labels:
                wanted = torch.zeros(CLASSES - 1)
                wanted[label - 1] = 1
                entropy = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
                expected += entropy.item() / len(labels) / 2.5
            largest.add((image, query))
        assert losses["loss_image" + suffix_of(layer)].item() == pytest.approx(expected, rel=1e-5)
    assert len(largest) > len(IMAGE_LABELS), "layers differ in their largest query"


def test_nothing_else_learns_of_a_whole_image():
    outputs = make_outputs(2, scale=3.0)
    losses = image_losses(outputs, federated_weights_C=torch.ones(CLASSES), federated_total=5)
    assert {name for name, loss in losses.items() if loss} == {"loss_image", "loss_image_0", "loss_image_1"}
    sum(losses.values()).backward()
    for name, leaf in vars(outputs).items():
        if leaf is not None and name != "pred_logits":
            assert leaf.grad is None or not leaf.grad.any(), name
    taught = (outputs.pred_logits.grad != 0).any(-1)
    assert taught.sum((1, 2)).tolist() == [2] * LAYERS


def test_whole_images_beside_others_change_nothing_for_them():
    outputs = make_outputs(3, scale=2.0)
    targets = [make_image_target([2]), make_target(3), make_image_target([])]
    losses = image_losses(outputs, targets=targets, num_boxes=3.0)
    alone = run(outputs.of(slice(1, 2)), [targets[1]], num_boxes=3.0)
    image = image_losses(outputs.of(slice(0, 1)), targets=targets[:1])
    for name, loss in losses.items():
        theirs = image[name] if name.startswith("loss_image") else alone[name]
        assert loss.item() == pytest.approx(theirs.item(), rel=1e-5), name


@pytest.mark.parametrize("total", [None, 6])
def test_negatives_of_whole_images_spare_what_they_show(total: int | None):
    outputs, weights = make_outputs(2, scale=2.0), torch.tensor([0.0, *torch.ones(CLASSES - 1)])
    federated = {} if total is None else {"federated_weights_C": weights, "federated_total": total}
    losses = image_losses(outputs, num_boxes=4.0, image_loss=ImageLoss(negatives=True), **federated)
    without = image_losses(outputs, num_boxes=4.0, **federated)
    taught = torch.ones(LAYERS, CLASSES, dtype=torch.bool)
    if total is not None:
        nothing = torch.zeros(0, dtype=torch.long)
        drawn = draw_federated(nothing, nothing, weights, total=total, losses=2 * LAYERS + 1, generators=[generator(5)])
        taught = mask_of(drawn, CLASSES)[:LAYERS, 0]
        assert taught[:, [4, 1, 7, 11]].any(), "a drawn class is shown"
    for layer in range(LAYERS):
        expected = 0.0
        for image, labels in enumerate(IMAGE_LABELS):
            said = taught[layer].clone()
            said[labels] = False
            logits = outputs.pred_logits[layer, image][:, said]
            expected += sigmoid_focal_loss(logits, torch.zeros_like(logits), reduction="sum").item() / 4.0
        assert losses["loss_class" + suffix_of(layer)].item() == pytest.approx(expected, rel=1e-5)
    same = [name for name in losses if name not in {"loss_class", "loss_class_0", "loss_class_1"}]
    assert all(losses[name] == without[name] for name in same)
    sum(losses.values()).backward()
    shown = outputs.pred_logits.grad[:, 1, :, [1, 7, 11]]
    assert (shown != 0).any(-1).sum() <= LAYERS, "of these classes the largest queries alone learn"


def test_pictures_of_whom_nothing_is_known_get_no_negatives():
    losses = image_losses(make_outputs(1), targets=[make_image_target([])], image_loss=ImageLoss(negatives=True))
    assert not any(losses.values())


def test_total_is_the_weighted_sum():
    criterion = Criterion(
        decoder_layers=LAYERS,
        soft_loss=SoftLoss(TEXTS),
        weights=LossWeights(classes=3.0, bbox=0.0, giou=0.5, soft=10.0),
    )
    losses = {"loss_class_dn_0": 1.0, "loss_bbox_enc": 2.0, "loss_giou": 4.0, "loss_soft_dn": 8.0}
    total = total_of(criterion, {name: torch.tensor(loss) for name, loss in losses.items()})
    assert total.item() == 3.0 + 0.0 + 2.0 + 80.0


def test_soft_losses_are_the_divergences_at_matched_queries_and_denoising_positives():
    soft_labels = top_k_labels(2), top_k_labels(3, seed=1)
    targets = [make_target(2, soft_labels=soft_labels[0]), make_target(1), make_target(3, soft_labels=soft_labels[1])]
    denoising = make_denoising([2, 1, 3], groups=2)
    outputs = make_outputs(3, dn=12)
    branch = semantic_branch()
    seen: list[Tensor] = []

    def watched(hidden_NE: Tensor) -> Tensor:
        seen.append(hidden_NE)
        return branch(hidden_NE)

    criterion = Criterion(decoder_layers=LAYERS, soft_loss=SoftLoss(tail="uniform"))
    losses = criterion(outputs, targets, denoising, num_boxes=6.0, semantic_logits=watched)

    assert [len(hidden) for hidden in seen] == [2 + 3 + 2 * (2 + 3)]
    matches = match(outputs.pred_logits[-1], outputs.pred_boxes[-1], targets)
    for name, hidden, pairs, boxes in (
        ("loss_soft", outputs.hidden, matches, 6.0),
        ("loss_soft_dn", outputs.dn_hidden, denoising.positives, 12.0),
    ):
        expected = 0.0
        for b, labels in ((0, soft_labels[0]), (2, soft_labels[1])):
            queries, objects = pairs[b]
            stored = labels.class_ids[objects], labels.log_probs[objects], labels.log_rest[objects]
            expected += kl_top_k(*stored, branch(hidden[b, queries]), tail="uniform").sum().item() / boxes
        assert losses[name].item() == pytest.approx(expected, rel=1e-5)


def test_embeddings_and_all_classes_kept_give_the_same_loss_and_gradient():
    teacher = SoftLoss(TEXTS, logit_scale=10.0)
    embedded = embedding_labels(3)
    log_probs, ids = teacher.log_probs(embedded.embeddings).sort(-1, descending=True)
    kept = replace(embedded, embeddings=None, class_ids=ids, log_probs=log_probs, log_rest=torch.full((3,), -torch.inf))
    gradients = []
    for soft_labels in (embedded, kept):
        outputs, branch = make_outputs(1), semantic_branch()
        criterion = Criterion(decoder_layers=LAYERS, soft_loss=teacher)
        targets = [make_target(3, soft_labels=soft_labels)]
        loss = criterion(outputs, targets, None, num_boxes=3.0, semantic_logits=branch)["loss_soft"]
        loss.backward()
        queries, objects = match(outputs.pred_logits[-1], outputs.pred_boxes[-1], targets)[0]
        truth = teacher.log_probs(embedded.embeddings)[objects]
        assert loss.item() == pytest.approx(
            kl_full(truth, branch(outputs.hidden[0, queries])).sum().item() / 3.0, rel=1e-5
        )
        gradients.append(torch.cat([outputs.hidden.grad.flatten(), branch.weight.grad.flatten()]))
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_outputs_have_finite_losses_and_gradients(scale: float):
    outputs = make_outputs(2, dn=12, scale=scale)
    saturated = replace(outputs, pred_boxes=outputs.pred_boxes.detach().round().requires_grad_())
    targets = [make_target(3, soft_labels=embedding_labels(3)), make_target(1, soft_labels=embedding_labels(1))]
    criterion = Criterion(decoder_layers=LAYERS, soft_loss=SoftLoss(TEXTS))
    losses = criterion(
        saturated,
        targets,
        make_denoising([3, 1]),
        num_boxes=4.0,
        semantic_logits=lambda h: scale * semantic_branch()(h),
    )
    total_of(criterion, losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(leaf.grad.isfinite().all() for leaf in saturated.leaves())


def test_half_precision_outputs_have_float32_losses():
    outputs = make_outputs(1)
    half = FakeOutputs(*(leaf.detach().bfloat16() for leaf in outputs.leaves()))
    upcast = FakeOutputs(*(leaf.float() for leaf in half.leaves()))
    expected = run(upcast, [make_target(3)])
    for name, loss in run(half, [make_target(3)]).items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)


def test_more_objects_than_queries_are_not_an_error():
    losses = run(make_outputs(1, queries=2), [make_target(5)])
    assert all(loss.isfinite() for loss in losses.values())


def test_outputs_that_are_not_finite_name_the_picture():
    outputs = make_outputs(1)
    broken = replace(outputs, encoder_boxes=outputs.encoder_boxes * float("nan"))
    with pytest.raises(NonFiniteError, match=r"predicted boxes of picture 3.*encoder"):
        run(broken, [make_target(1, seed=3)])


def test_the_number_of_boxes_may_be_a_tensor():
    outputs, targets = make_outputs(1, dn=4), [make_target(1)]
    number = run(outputs, targets, make_denoising([1]), num_boxes=3.0)
    tensor = Criterion(decoder_layers=LAYERS)(outputs, targets, make_denoising([1]), num_boxes=torch.tensor(3.0))
    assert all(tensor[name].item() == pytest.approx(number[name].item(), rel=1e-6) for name in number)


def test_gradients_equal_those_of_losses_computed_one_layer_at_a_time():
    targets = [make_target(3), make_target(2, seed=1)]
    together, apart = make_outputs(2), make_outputs(2)
    losses = run(together, targets)
    sum(losses[f"{kind}{suffix_of(layer)}"] for kind in KINDS for layer in range(LAYERS)).backward()
    for layer in range(LAYERS):
        one = slice(layer, layer + 1)
        part = replace(apart, pred_logits=apart.pred_logits[one], pred_boxes=apart.pred_boxes[one])
        alone = Criterion(decoder_layers=1)(part, targets, None, num_boxes=4.0)
        sum(alone[kind] for kind in KINDS).backward()
    assert torch.allclose(together.pred_logits.grad, apart.pred_logits.grad, atol=1e-6)
    assert torch.allclose(together.pred_boxes.grad, apart.pred_boxes.grad, atol=1e-6)
