"""All that the detector is trained to do, as one dictionary of losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from richsem_train.losses.boxes import cxcywh_to_xyxy, giou
from richsem_train.losses.federated import FederatedClasses, draw_federated
from richsem_train.losses.matcher import HungarianMatcher, Match
from richsem_train.losses.soft_labels import SoftLoss, teaches
from richsem_train.targets import Target

_ALPHA, _GAMMA = 0.25, 2.0
_NO_OBJECT = -1


class Outputs(Protocol):
    """What the losses need of the model's outputs; `models.dino.DinoOutputs` has it.

    Attributes:
        pred_logits: [L, B, Q, C], last layer final.
        pred_boxes: [L, B, Q, 4] cxcywh, normalised.
        hidden: [B, Q, E] of the final layer.
        encoder_logits: [B, Q, C].
        encoder_boxes: [B, Q, 4].
        dn_logits: [L, B, N, C]; None without denoising queries, as the next two.
        dn_boxes: [L, B, N, 4].
        dn_hidden: [B, N, E].
    """

    @property
    def pred_logits(self) -> Tensor: ...  # noqa: D102
    @property
    def pred_boxes(self) -> Tensor: ...  # noqa: D102
    @property
    def hidden(self) -> Tensor: ...  # noqa: D102
    @property
    def encoder_logits(self) -> Tensor: ...  # noqa: D102
    @property
    def encoder_boxes(self) -> Tensor: ...  # noqa: D102
    @property
    def dn_logits(self) -> Tensor | None: ...  # noqa: D102
    @property
    def dn_boxes(self) -> Tensor | None: ...  # noqa: D102
    @property
    def dn_hidden(self) -> Tensor | None: ...  # noqa: D102


class Denoising(Protocol):
    """What the losses need of the denoising queries; `models.denoising.DenoisingQueries` has it.

    Attributes:
        group: int64 [B, N], -1 where a query is none of its picture's.
        groups: by picture, repeats of every object.
        positives: by picture, denoising queries and the objects they are to restore, int64 [P] each.
    """

    @property
    def group(self) -> Tensor: ...  # noqa: D102
    @property
    def groups(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def positives(self) -> Sequence[Match]: ...  # noqa: D102


@dataclass(frozen=True)
class LossWeights:
    """How much each kind of loss counts, in the final layer as in all others."""

    classes: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0
    soft: float = 0.5


class Criterion(nn.Module):
    """DINO's losses, and the semantic branch's.

    Keys are `loss_class`, `loss_bbox`, `loss_giou` for the final decoder layer, with `_0`, `_1`... for the layers
    before it, `_enc` for the encoder's proposals, `_dn` and `_dn_0`... for denoising queries; `loss_soft` and
    `loss_soft_dn` (final layer). The same keys in the same order whatever the batch holds: what isn't there
    is 0.

    Args:
        decoder_layers: L of the outputs.
        matcher: assigns queries to objects.
        weights: of the kinds of losses.
        denoising: whether the model is trained with denoising queries (a batch without objects may lack them).
        soft_loss: None without a semantic branch.
        federated_weights_C: of `federated_weights`; None teaches all classes everywhere.
        federated_total: classes a federated loss.

    Source:
        The reference. The class loss is summed over queries and classes, the others over pairs; all are divided by
        the number of boxes, those of denoising by that times the groups of the picture's draw. Encoder proposals learn
        the real classes.
        Padding among the denoising queries learns "no object". Labelled pictures without objects do so too. Differs:
        unlabelled pictures have no class loss.
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
    ) -> None:
        super().__init__()
        self.matcher = matcher or HungarianMatcher()
        self.decoder_layers = decoder_layers
        self.denoising = denoising
        self.soft_loss = soft_loss
        self.federated_total = federated_total
        self.register_buffer("federated_weights", federated_weights_C, persistent=False)
        self.weights = self._named_weights(weights or LossWeights())

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Target],
        denoising: Denoising | None,
        *,
        num_boxes: float | Tensor,
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
        truth = _Truth.of(targets)
        losses = self._detection_losses(outputs, truth, matches, denoising, num_boxes, generators)
        if self.soft_loss is not None:
            assert semantic_logits is not None, "a soft loss without a semantic branch"
            final = matches["decoder"][-1]
            losses |= _soft_losses(self.soft_loss, outputs, targets, final, denoising, num_boxes, semantic_logits)
        # In one order, so that ranks with and without objects can average them as one tensor.
        return {name: losses[name] if name in losses else truth.zero() for name in self.weights}

    def _detection_losses(
        self,
        outputs: Outputs,
        truth: "_Truth",
        matches: dict[str, list[list[Match]]],
        denoising: Denoising | None,
        num_boxes: float | Tensor,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        layers = self.decoder_layers
        drawn = self._draw_classes(truth, generators)
        decoder = _Pairs.of(matches["decoder"], truth.counts, truth.device)
        weight_BQ = _matching_weight(outputs.pred_logits) / num_boxes
        losses = _by_layer(
            _stage_losses(outputs.pred_logits, outputs.pred_boxes, decoder, truth, drawn[:layers], weight_BQ), ""
        )
        encoder = _Pairs.of(matches["encoder"], truth.counts, truth.device)
        logits_1BQC, boxes_1BQ4 = outputs.encoder_logits[None], outputs.encoder_boxes[None]
        weight_BQ = _matching_weight(logits_1BQC) / num_boxes
        of_encoder = _stage_losses(logits_1BQC, boxes_1BQ4, encoder, truth, drawn[layers : layers + 1], weight_BQ)
        losses |= _by_layer(of_encoder, "_enc")
        if denoising is not None:
            assert outputs.dn_logits is not None
            assert outputs.dn_boxes is not None
            restored = _Pairs.of([denoising.positives], truth.counts, truth.device)
            weight_BQ = _denoising_weight(denoising) / num_boxes
            of_denoising = _stage_losses(
                outputs.dn_logits, outputs.dn_boxes, restored, truth, drawn[layers + 1 :], weight_BQ
            )
            losses |= _by_layer(of_denoising, "_dn")
        return losses

    def _draw_classes(self, truth: "_Truth", generators: Sequence[torch.Generator]) -> "_Columns":
        """For the decoder's layers, the encoder and the denoising layers, in this order."""
        if self.federated_weights is None:
            return _Columns(None, 0)
        assert generators, "a federated loss needs a generator for each draw"
        pictures, rest = divmod(len(truth.counts), len(generators))
        assert not rest, "draws are of equal numbers of pictures"
        draws = [place // pictures for place, count in enumerate(truth.counts) for _ in range(count)]
        drawn = draw_federated(
            truth.taught_labels,
            torch.tensor(draws, dtype=torch.long).to(truth.device, non_blocking=True),
            self.federated_weights,
            total=self.federated_total,
            losses=2 * self.decoder_layers + 1,
            generators=generators,
        )
        return _Columns(drawn, pictures)

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
        return named


@dataclass(frozen=True, eq=False)
class _Truth:
    """The objects of a batch side by side.

    Attributes:
        labels: int64 [G].
        boxes: float32 [G, 4] cxcywh, normalised.
        taught_labels: int64 [G], 0 in pictures without a class loss.
        is_taught: bool [B], whether a picture has a class loss.
        counts: objects of each picture.
    """

    labels: Tensor
    boxes: Tensor
    taught_labels: Tensor
    is_taught: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "_Truth":
        labels_G = torch.cat([target.labels for target in targets])
        taught = [
            target.labels if target.supervision == "labelled" else torch.zeros_like(target.labels) for target in targets
        ]
        is_taught_B = torch.tensor([target.supervision == "labelled" for target in targets])
        return cls(
            labels_G,
            torch.cat([target.boxes_cxcywh_norm for target in targets]).float(),
            torch.cat(taught),
            is_taught_B.to(labels_G.device, non_blocking=True),
            tuple(len(target.labels) for target in targets),
        )

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def zero(self) -> Tensor:
        return torch.zeros((), device=self.device)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Queries and the objects they answer for: P pairs in each of S layers, or the same P in all of them (S = 1).

    Attributes:
        image: int64 [P], places in the batch.
        query: int64 [S, P].
        truth: int64 [S, P], rows of all pictures' objects.
    """

    image: Tensor
    query: Tensor
    truth: Tensor

    @classmethod
    def of(
        cls,
        matches: Sequence[Sequence[Match]],
        counts: Sequence[int],
        device: torch.device,
        *,
        images: Sequence[int] | None = None,
    ) -> "_Pairs":
        """Put the pairs of pictures side by side.

        Args:
            matches: by layer and picture.
            counts: objects of each picture.
            device: of the result; one transfer.
            images: the pictures' places in the batch; by default they are the batch.
        """
        places = images or range(len(counts))
        firsts = [sum(counts[:b]) for b in range(len(counts))]
        rows = [torch.cat([torch.full_like(queries, b) for b, (queries, _) in zip(places, matches[0], strict=True)])]
        rows += [torch.cat([queries for queries, _ in layer]) for layer in matches]
        rows += [
            torch.cat([objects + first for (_, objects), first in zip(layer, firsts, strict=True)]) for layer in matches
        ]
        packed = torch.stack(rows).to(device, non_blocking=True)
        return cls(packed[0], *packed[1:].chunk(2))

    def predicted(self, values_SBQX: Tensor) -> Tensor:
        """The queries' own: [S, B, Q, X] to [S, P, X]."""
        return values_SBQX[_each_layer(values_SBQX), self.image, self.query]

    def classes(self, labels_G: Tensor, like_SBQX: Tensor) -> Tensor:
        """Which class each query is to say, int64 [S, B, Q]."""
        classes_SBQ = torch.full(like_SBQX.shape[:3], _NO_OBJECT, dtype=labels_G.dtype, device=labels_G.device)
        classes_SBQ[_each_layer(like_SBQX), self.image, self.query] = labels_G[self.truth]
        return classes_SBQ


def _each_layer(values_SBQX: Tensor) -> Tensor:
    return torch.arange(len(values_SBQX), device=values_SBQX.device)[:, None]


@dataclass(frozen=True, eq=False)
class _Columns:
    """The classes that take part in each of S class losses; all of them without a federated draw.

    Attributes:
        drawn: by loss and draw.
        pictures: a draw.
    """

    drawn: FederatedClasses | None
    pictures: int

    def __getitem__(self, layers: slice) -> "_Columns":
        if self.drawn is None:
            return self
        return _Columns(FederatedClasses(self.drawn.ids[layers], self.drawn.taught[layers]), self.pictures)

    def select(self, logits_SBQC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [S, B, Q, K], and which classes these are and whether they count, both [S, B, 1, K] or alike."""
        if self.drawn is None:
            ids = torch.arange(logits_SBQC.shape[-1], device=logits_SBQC.device).expand(1, 1, 1, -1)
            return logits_SBQC, ids, torch.ones_like(ids, dtype=torch.bool)
        ids, taught = (
            each.repeat_interleave(self.pictures, dim=1)[:, :, None] for each in (self.drawn.ids, self.drawn.taught)
        )
        return logits_SBQC.gather(-1, ids.expand(*logits_SBQC.shape[:3], -1)), ids, taught


@dataclass(frozen=True, eq=False)
class _StageLosses:
    """Losses of S layers, [S] each."""

    classes: Tensor
    bbox: Tensor
    giou: Tensor


def _matching_weight(logits_SBQC: Tensor) -> Tensor:
    """How much each matching query counts: all the same, float32 [B, Q]."""
    _, pictures, queries, _ = logits_SBQC.shape
    return torch.ones((), device=logits_SBQC.device).expand(pictures, queries)


def _denoising_weight(denoising: Denoising) -> Tensor:
    """How much each denoising query counts, float32 [B, N]: all groups of a picture together as much as one."""
    weight_B = torch.tensor([1 / max(groups, 1) for groups in denoising.groups])
    return weight_B.to(denoising.group.device, non_blocking=True)[:, None] * (denoising.group >= 0)


def _stage_losses(
    logits_SBQC: Tensor, boxes_SBQ4: Tensor, pairs: _Pairs, truth: _Truth, columns: _Columns, weight_BQ: Tensor
) -> _StageLosses:
    predicted_SP4 = pairs.predicted(boxes_SBQ4).float()
    true_SP4 = truth.boxes[pairs.truth]
    overlap_SP = giou(cxcywh_to_xyxy(predicted_SP4), cxcywh_to_xyxy(true_SP4))
    weight_SP = weight_BQ[pairs.image, pairs.query]
    return _StageLosses(
        classes=_class_loss(logits_SBQC, pairs, truth, columns, weight_BQ),
        bbox=((predicted_SP4 - true_SP4).abs().sum(-1) * weight_SP).sum(1),
        giou=((1 - overlap_SP) * weight_SP).sum(1),
    )


def _class_loss(logits_SBQC: Tensor, pairs: _Pairs, truth: _Truth, columns: _Columns, weight_BQ: Tensor) -> Tensor:
    classes_SBQ = pairs.classes(truth.labels, logits_SBQC)
    logits_SBQK, ids, counts = columns.select(logits_SBQC)
    wanted_SBQK = (classes_SBQ[..., None] == ids).float()
    focal_SBQK = sigmoid_focal_loss(logits_SBQK.float(), wanted_SBQK, alpha=_ALPHA, gamma=_GAMMA)
    return ((focal_SBQK * counts).sum(-1) * (weight_BQ * truth.is_taught[:, None])).sum((1, 2))


def _by_layer(losses: _StageLosses, suffix: str) -> dict[str, Tensor]:
    """Name the losses of each layer; the last layer is the final one."""
    named: dict[str, Tensor] = {}
    final = len(losses.bbox) - 1
    for kind, losses_S in (("loss_class", losses.classes), ("loss_bbox", losses.bbox), ("loss_giou", losses.giou)):
        for layer, loss in enumerate(losses_S.unbind()):
            named[f"{kind}{suffix}" if layer == final else f"{kind}{suffix}_{layer}"] = loss
    return named


def _soft_losses(
    soft_loss: SoftLoss,
    outputs: Outputs,
    targets: Sequence[Target],
    final_matches: Sequence[Match],
    denoising: Denoising | None,
    num_boxes: float | Tensor,
    semantic_logits: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Run the semantic branch once, on matched queries and denoising positives of the pictures that teach."""
    queries = [(outputs.hidden, final_matches, _matching_weight(outputs.pred_logits))]
    if denoising is not None:
        assert outputs.dn_hidden is not None
        queries.append((outputs.dn_hidden, denoising.positives, _denoising_weight(denoising)))
    taught = [_taught_queries(hidden_BQE, matches, targets) for hidden_BQE, matches, _ in queries]
    logits_NC = semantic_logits(torch.cat([hidden_NE for hidden_NE, _ in taught]))
    teachers = [target for target in targets if teaches(target)]
    divergences_N = soft_loss(logits_NC, teachers, torch.cat([pairs.truth[0] for _, pairs in taught]))
    parts = divergences_N.split([len(hidden_NE) for hidden_NE, _ in taught])
    named = zip(("loss_soft", "loss_soft_dn"), parts, taught, queries, strict=False)
    return {
        name: (part_N * weight_BQ[pairs.image, pairs.query[0]]).sum() / num_boxes
        for name, part_N, (_, pairs), (_, _, weight_BQ) in named
    }


def _taught_queries(hidden_BQE: Tensor, matches: Sequence[Match], targets: Sequence[Target]) -> "tuple[Tensor, _Pairs]":
    """Hidden states [P, E] of the pairs in pictures that teach, and the pairs, their objects counted through those."""
    images = [b for b, target in enumerate(targets) if teaches(target)]
    if not images:
        nothing_1P = torch.zeros(1, 0, dtype=torch.long, device=hidden_BQE.device)
        return hidden_BQE[:0, 0], _Pairs(nothing_1P[0], nothing_1P, nothing_1P)
    counts = [len(targets[b].labels) for b in images]
    pairs = _Pairs.of([[matches[b] for b in images]], counts, hidden_BQE.device, images=images)
    return hidden_BQE[pairs.image, pairs.query[0]], pairs
