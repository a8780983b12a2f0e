"""All that the detector is trained to do, as one dictionary of losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from richsem_train.devices import sent
from richsem_train.losses.dino.matcher import HungarianMatcher, Match
from richsem_train.losses.dino.stages import Stage, TaughtClasses, Truth, answers, focal_loss, stage_losses
from richsem_train.losses.federated import draw_federated
from richsem_train.losses.image_labels import image_label_losses, label_shares
from richsem_train.losses.soft_labels import SoftLoss, teaches
from richsem_train.outputs.dino import DenoisingQueries, DinoOutputs
from richsem_train.targets import Target


@dataclass(frozen=True)
class LossWeights:
    """How much each kind of loss counts, in the final layer as in all others."""

    classes: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    soft: float = 0.5
    image: float = 0.1


@dataclass(frozen=True)
class ImageLoss:
    """How pictures that have labels as a whole, and no boxes, are learnt from.

    Attributes:
        candidates: queries of a picture that may be the largest, the encoder's best first; None is all.
        negatives: whether the class losses of the decoder's queries say "no" to the classes of the draw, other than
            the picture's labels, as they do in a picture without objects.
    """

    candidates: int | None = None
    negatives: bool = False


class Criterion(nn.Module):
    """DINO's losses, and the semantic branch's.

    Keys are `loss_class`, `loss_bbox`, `loss_giou` for the final decoder layer, with `_0`, `_1`... for the layers
    before it, `_enc` for the encoder's proposals, `_dn` and `_dn_0`... for denoising queries; `loss_soft` and
    `loss_soft_dn` (final layer); `loss_image` and `loss_image_0`... for the decoder's layers. The same keys in the same
    order whatever the batch holds: what isn't there is 0.

    Args:
        decoder_layers: L of the outputs.
        matcher: assigns queries to objects.
        weights: of the kinds of losses.
        denoising: whether the model is trained with denoising queries (a batch without objects may lack them).
        soft_loss: None without a semantic branch.
        federated_weights_C: of `federated_weights`; None teaches all classes everywhere.
        federated_total: classes a federated loss.
        image_loss: None without pictures that are labelled as a whole.

    Source:
        The reference. The class loss is summed over queries and classes, the others over pairs; all are divided by
        the number of boxes, those of denoising by that times the groups of the picture's draw. Encoder proposals learn
        the real classes.
        Padding among the denoising queries learns "no object". Labelled pictures without objects do so too. Differs:
        unlabelled pictures have no class loss. Labels of whole pictures are learnt as by Detic's Deformable-DETR (Zhou
        et al. 2022, arXiv 2201.02605), by the largest query of each decoder layer (`image_label_losses`). Differs:
        there such pictures also give "no object" to all queries and all the encoder's tokens, for drawn classes that
        the label itself may be among; here to none, or (`ImageLoss.negatives`) to queries and for other classes.
    """

    weights: dict[str, float]
    federated_weights: Tensor | None

    def __init__(
        self,
        *,
        decoder_layers: int,
        matcher: HungarianMatcher | None = None,
        weights: LossWeights | None = None,
        denoising: bool = True,
        soft_loss: SoftLoss | None = None,
        federated_weights_C: Tensor | None = None,
        federated_total: int = 50,
        image_loss: ImageLoss | None = None,
    ) -> None:
        super().__init__()
        self.matcher = matcher or HungarianMatcher()
        self.decoder_layers = decoder_layers
        self.denoising = denoising
        self.soft_loss = soft_loss
        self.federated_total = federated_total
        self.image_loss = image_loss
        self.register_buffer("federated_weights", federated_weights_C, persistent=False)
        self.weights = self._named_weights(weights or LossWeights())

    def forward(
        self,
        outputs: DinoOutputs,
        targets: Sequence[Target],
        denoising: DenoisingQueries | None,
        *,
        num_boxes: float | Tensor,
        num_images: float | Tensor = 1.0,
        generators: Sequence[torch.Generator] = (),
        semantic_logits: Callable[[Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses, scalars by key.

        Args:
            outputs: of the model in training.
            targets: B of them, on the model's device, none of them "pseudo" any more (`with_pseudo_labels`); labels of
                "labelled" ones are 1 or more.
            denoising: None where the batch has no objects.
            num_boxes: objects of the step over the number of ranks; the same for all parts of a step.
            num_images: the same of pictures that have labels as a whole.
            generators: draw the federated classes; one for each draw, which are of equal numbers of consecutive
                pictures. Needed with federated weights.
            semantic_logits: the branch, hidden [N, E] to logits [N, C]; called once; needed with a soft loss.

        Raises:
            NonFiniteError: outputs hold NaN or infinity.
        """
        assert all(target.supervision != "pseudo" for target in targets), "pseudo labels are made before the losses"
        assert denoising is None or self.denoising, "denoising queries in a training without"
        matches = self.matcher.match_stages(
            {
                "decoder": (outputs.pred_logits, outputs.pred_boxes),
                "encoder": (outputs.encoder_logits[None], outputs.encoder_boxes[None]),
            },
            targets,
        )
        truth = Truth.of(targets)
        weights = _QueryWeights.of(outputs, denoising)
        classes = self._draw_classes(truth, generators)
        stages = self._stages(outputs, matches, denoising, weights.over(num_boxes), classes)
        losses = {
            name: loss
            for suffix, of_stage in zip(stages, stage_losses(list(stages.values()), truth), strict=True)
            for name, loss in _by_layer(of_stage, suffix)
        }
        if self.soft_loss is not None:
            assert semantic_logits is not None, "a soft loss without a semantic branch"
            final = matches["decoder"][-1]
            soft = _soft_losses(self.soft_loss, outputs, targets, final, denoising, weights, semantic_logits)
            losses |= {name: loss / num_boxes for name, loss in soft.items()}
        if self.image_loss is not None:
            images = [target.image_labels for target in targets]
            found = {"loss_image": _image_losses(outputs, images, self.image_loss.candidates) / num_images}
            if self.image_loss.negatives:
                found["loss_class"] = _image_negatives(outputs, images, classes[: self.decoder_layers]) / num_boxes
            for name, loss in _by_layer(found, ""):
                losses[name] = losses.get(name, 0) + loss
        # In one order, so that ranks with and without objects can average them as one tensor.
        nothing = torch.zeros((), device=truth.device)
        return {name: losses.get(name, nothing) for name in self.weights}

    def _stages(
        self,
        outputs: DinoOutputs,
        matches: dict[str, list[list[Match]]],
        denoising: DenoisingQueries | None,
        weights: "_QueryWeights",
        classes: TaughtClasses,
    ) -> dict[str, Stage]:
        """All queries that learn of classes and boxes, by the suffix of their losses' names."""
        layers = self.decoder_layers
        logits_1BQC, boxes_1BQ4 = outputs.encoder_logits[None], outputs.encoder_boxes[None]
        stages = {
            "": Stage(outputs.pred_logits, outputs.pred_boxes, matches["decoder"], weights.matching, classes[:layers]),
            "_enc": Stage(logits_1BQC, boxes_1BQ4, matches["encoder"], weights.matching, classes[layers : layers + 1]),
        }
        if denoising is not None:
            assert outputs.dn_logits is not None
            assert outputs.dn_boxes is not None
            assert weights.denoising is not None
            stages["_dn"] = Stage(
                outputs.dn_logits, outputs.dn_boxes, [denoising.positives], weights.denoising, classes[layers + 1 :]
            )
        return stages

    def _draw_classes(self, truth: Truth, generators: Sequence[torch.Generator]) -> TaughtClasses:
        """For the decoder's layers, the encoder and the denoising layers, in this order."""
        if self.federated_weights is None:
            return TaughtClasses(None, 0)
        assert generators, "a federated loss needs a generator for each draw"
        pictures, rest = divmod(len(truth.counts), len(generators))
        assert not rest, "draws are of equal numbers of pictures"
        draws = [place // pictures for place, count in enumerate(truth.counts) for _ in range(count)]
        drawn = draw_federated(
            truth.taught_labels,
            sent(torch.tensor(draws, dtype=torch.long), truth.device),
            self.federated_weights,
            total=self.federated_total,
            losses=2 * self.decoder_layers + 1,
            generators=generators,
        )
        return TaughtClasses(drawn, pictures)

    def _named_weights(self, weights: LossWeights) -> dict[str, float]:
        before = [f"_{layer}" for layer in range(self.decoder_layers - 1)]
        suffixes = ["", *before, "_enc"]
        if self.denoising:
            suffixes += ["_dn", *(f"_dn{layer}" for layer in before)]
        kinds = {"loss_class": weights.classes, "loss_bbox": weights.bbox, "loss_giou": weights.giou}
        named = {f"{kind}{suffix}": weight for suffix in suffixes for kind, weight in kinds.items()}
        if self.soft_loss is not None:
            named["loss_soft"] = weights.soft
            if self.denoising:
                named["loss_soft_dn"] = weights.soft
        if self.image_loss is not None:
            named |= {f"loss_image{suffix}": weights.image for suffix in ["", *before]}
        return named


@dataclass(frozen=True, eq=False)
class _QueryWeights:
    """How much each query counts.

    Attributes:
        matching: float32 [B, Q], all the same.
        denoising: float32 [B, N], all groups of a picture together as much as one; None without denoising queries.
    """

    matching: Tensor
    denoising: Tensor | None

    @classmethod
    def of(cls, outputs: DinoOutputs, denoising: DenoisingQueries | None) -> "_QueryWeights":
        device = outputs.pred_logits.device
        matching_BQ = torch.ones((), device=device).expand(outputs.pred_logits.shape[1:3])
        if denoising is None:
            return cls(matching_BQ, None)
        weight_B = torch.tensor([1 / max(groups, 1) for groups in denoising.groups])
        return cls(matching_BQ, sent(weight_B, device)[:, None] * (denoising.group >= 0))

    def over(self, num_boxes: float | Tensor) -> "_QueryWeights":
        return _QueryWeights(self.matching / num_boxes, None if self.denoising is None else self.denoising / num_boxes)


def _by_layer(losses: dict[str, Tensor], suffix: str) -> list[tuple[str, Tensor]]:
    """Losses [S] by kind, named by layer; the last layer is the final one."""
    named = []
    for kind, losses_S in losses.items():
        *before, final = losses_S.unbind()
        named += [(f"{kind}{suffix}_{layer}", loss) for layer, loss in enumerate(before)]
        named.append((f"{kind}{suffix}", final))
    return named


def _image_losses(outputs: DinoOutputs, images: Sequence[Tensor | None], candidates: int | None) -> Tensor:
    """Sums over pictures labelled as a whole [L], of the largest of so many queries in each layer."""
    # Matching queries stand in the order of the encoder's scores.
    best = slice(candidates)
    areas_LBQ = outputs.pred_boxes[:, :, best, 2:].detach().prod(-1)
    return image_label_losses(areas_LBQ, outputs.pred_logits[:, :, best], images)


def _image_negatives(outputs: DinoOutputs, images: Sequence[Tensor | None], classes: TaughtClasses) -> Tensor:
    """Focal losses [L] of all queries of pictures labelled as a whole against "no", but for what they show."""
    shares_BC = label_shares(images, like_C=outputs.pred_logits[0, 0, 0])
    logits_LBQK, ids, counts = classes.select(outputs.pred_logits)
    layers, batch, _, columns = logits_LBQK.shape
    shown_LBK = shares_BC.expand(layers, -1, -1).gather(-1, ids[:, :, 0].expand(layers, batch, columns))
    is_labelled_B = shares_BC.sum(-1) > 0
    said_LBK = counts[:, :, 0] & (shown_LBK == 0) & is_labelled_B[:, None]
    focal_LBQK = focal_loss(logits_LBQK.float(), torch.zeros_like(logits_LBQK, dtype=torch.float32))
    return (focal_LBQK * said_LBK[:, :, None]).sum((1, 2, 3))


def _soft_losses(
    soft_loss: SoftLoss,
    outputs: DinoOutputs,
    targets: Sequence[Target],
    final_matches: Sequence[Match],
    denoising: DenoisingQueries | None,
    weights: _QueryWeights,
    semantic_logits: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Run the semantic branch once, on matched queries and denoising positives of the pictures that teach."""
    stages = {"loss_soft": (outputs.hidden, final_matches, weights.matching)}
    if denoising is not None:
        assert outputs.dn_hidden is not None
        assert weights.denoising is not None
        stages["loss_soft_dn"] = (outputs.dn_hidden, denoising.positives, weights.denoising)
    rows, objects, first = [], [], 0
    for hidden_BQE, matches, _ in stages.values():
        own_rows, own_objects = _taught_rows(matches, hidden_BQE.shape[1], targets)
        rows.append(own_rows + first)
        objects.append(own_objects)
        first += hidden_BQE.shape[0] * hidden_BQE.shape[1]
    packed = sent(torch.stack([torch.cat(rows), torch.cat(objects)]), outputs.hidden.device)
    hidden_NE = torch.cat([hidden_BQE.flatten(0, 1) for hidden_BQE, _, _ in stages.values()])
    weight_N = torch.cat([weight_BQ.flatten() for _, _, weight_BQ in stages.values()])
    teachers = [target for target in targets if teaches(target)]
    divergences_P = soft_loss(semantic_logits(hidden_NE.index_select(0, packed[0])), teachers, packed[1])
    parts = (divergences_P * weight_N[packed[0]]).split([len(own) for own in rows])
    return {name: part_P.sum() for name, part_P in zip(stages, parts, strict=True)}


def _taught_rows(matches: Sequence[Match], queries: int, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """The pairs in pictures that teach, as `answers` has them; their objects are counted through those pictures."""
    pictures = [b for b, target in enumerate(targets) if teaches(target)]
    if not pictures:
        nothing_P = torch.zeros(0, dtype=torch.long)
        return nothing_P, nothing_P
    counts = [len(targets[b].labels) for b in pictures]
    return answers([matches[b] for b in pictures], queries, counts, pictures)
