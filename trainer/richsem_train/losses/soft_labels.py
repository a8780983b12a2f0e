"""The teacher's belief about a box, and how far the student's is from it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from richsem_train.choices import Tail
from richsem_train.numerics import at_least_float32
from richsem_train.targets import SoftLabels, Target


def teacher_log_probs(
    embeddings_GD: Tensor, text_features_CD: Tensor, *, logit_scale: float, temperature: float = 1.0
) -> Tensor:
    """CLIP's class distribution of each region: log-softmax of scaled cosines, float32 [G, C].

    Args:
        embeddings_GD: region embeddings, any norm.
        text_features_CD: text means, any norm; row = row of the vocabulary.
        logit_scale: multiplies the cosine; already exponentiated (~100).
        temperature: divides the logits; above 1 is softer than CLIP.
    """
    # A cosine in bf16 has steps of 0.004, which the scale makes 0.4.
    with torch.autocast(embeddings_GD.device.type, enabled=False):
        regions_GD = normalize(at_least_float32(embeddings_GD), dim=-1)
        texts_CD = normalize(at_least_float32(text_features_CD), dim=-1)
        return (logit_scale / temperature * (regions_GD @ texts_CD.T)).log_softmax(-1)


def kl_full(teacher_log_probs_NC: Tensor, student_logits_NC: Tensor) -> Tensor:
    """KL(teacher ‖ student) over all classes, [N].

    Args:
        teacher_log_probs_NC: rows sum to one in probability; -inf allowed.
        student_logits_NC: before the softmax.
    """
    student_log_probs_NC = at_least_float32(student_logits_NC).log_softmax(-1)
    return _divergence(teacher_log_probs_NC, student_log_probs_NC).sum(-1)


def kl_top_k(
    class_ids_NK: Tensor, log_probs_NK: Tensor, log_rest_N: Tensor, student_logits_NC: Tensor, *, tail: Tail
) -> Tensor:
    """KL(teacher ‖ student) where the teacher is known in K classes and the mass of the others, [N].

    Args:
        class_ids_NK: int64, distinct within a row.
        log_probs_NK: of these classes.
        log_rest_N: log of the mass outside; -inf where there is none.
        student_logits_NC: before the softmax, C >= K.
        tail: `bucket` compares the two masses outside: a lower bound of the full KL, equal to it where teacher and
            student share the others in the same proportions. `uniform` spreads the teacher's evenly over the others.
            `renormalise` gives it to the stored classes in proportion.

    Source:
        Ours; the paper distils the full distribution, which K = C gives.
    """
    student_NC = at_least_float32(student_logits_NC).log_softmax(-1)
    student_NK = student_NC.gather(-1, class_ids_NK)
    known_NK, rest_N = _normalised(log_probs_NK.to(student_NC.dtype), log_rest_N.to(student_NC.dtype))
    others = student_NC.shape[-1] - class_ids_NK.shape[-1]
    if tail == "renormalise" or others == 0:
        return _divergence(known_NK.log_softmax(-1), student_NK).sum(-1)
    kl_known_N = _divergence(known_NK, student_NK).sum(-1)
    if tail == "bucket":
        student_rest_N = student_NC.scatter(-1, class_ids_NK, -torch.inf).logsumexp(-1)
        return kl_known_N + _divergence(rest_N, student_rest_N)
    mean_student_rest_N = student_NC.scatter(-1, class_ids_NK, 0.0).sum(-1) / others
    return kl_known_N + _divergence(rest_N, mean_student_rest_N + math.log(others))


def hard_label_loss(labels_N: Tensor, student_logits_NC: Tensor) -> Tensor:
    """Cross entropy, which is the KL from a teacher that is sure of the label, [N]; 0 where the label is 0."""
    return cross_entropy(at_least_float32(student_logits_NC), labels_N, reduction="none", ignore_index=0)


class SoftLoss(nn.Module):
    """Divergence of the semantic branch from the teacher, whichever form its soft labels have.

    Args:
        text_features_CD: text means, for soft labels in the form of embeddings.
        logit_scale: the teacher's, already exponentiated; as a tensor it is `scale`.
        temperature: divides the teacher's logits; only for embeddings, as top-k labels have theirs built in.
        tail: only for top-k labels.
    """

    text_features: Tensor | None
    scale: Tensor

    def __init__(
        self,
        text_features_CD: Tensor | None = None,
        *,
        logit_scale: float = 100.0,
        temperature: float = 1.0,
        tail: Tail = "bucket",
    ) -> None:
        super().__init__()
        self.register_buffer("text_features", text_features_CD, persistent=False)
        self.register_buffer("scale", torch.tensor(float(logit_scale)), persistent=False)
        self.logit_scale = logit_scale
        self.temperature = temperature
        self.tail: Tail = tail

    def forward(self, student_logits_NC: Tensor, targets: Sequence[Target], rows_N: Tensor) -> Tensor:
        """Divergences [N], 0 where the teacher's belief isn't known.

        Args:
            student_logits_NC: of the semantic branch.
            targets: pictures that teach (`teaches`), all in the same form.
            rows_N: int64, for each row of the logits its object, counted through the targets.
        """
        if not targets:
            return student_logits_NC.sum(-1)
        if targets[0].is_hard:
            return hard_label_loss(torch.cat([target.labels for target in targets])[rows_N], student_logits_NC)
        soft_labels = [target.soft_labels for target in targets if target.soft_labels is not None]
        divergences_N = self._divergences(student_logits_NC, soft_labels, rows_N)
        is_known_G = _known(soft_labels)
        return divergences_N if is_known_G is None else divergences_N.where(is_known_G[rows_N], 0.0)

    def _divergences(self, student_logits_NC: Tensor, soft_labels: Sequence[SoftLabels], rows_N: Tensor) -> Tensor:
        if soft_labels[0].embeddings is not None:
            return kl_full(self.log_probs(_joined(soft_labels, "embeddings"))[rows_N], student_logits_NC)
        return kl_top_k(
            _joined(soft_labels, "class_ids")[rows_N],
            _joined(soft_labels, "log_probs")[rows_N],
            _joined(soft_labels, "log_rest")[rows_N],
            student_logits_NC,
            tail=self.tail,
        )

    def log_probs(self, embeddings_GD: Tensor) -> Tensor:
        """The teacher's log-probabilities of embeddings, [G, C]."""
        assert self.text_features is not None, "soft labels come as embeddings, and there are no text features"
        return teacher_log_probs(
            embeddings_GD, self.text_features, logit_scale=self.logit_scale, temperature=self.temperature
        )


def teaches(target: Target) -> bool:
    """Whether the semantic branch learns from the picture."""
    return target.is_hard or target.soft_labels is not None


def _joined(soft_labels: Sequence[SoftLabels], field: str) -> Tensor:
    return torch.cat([getattr(labels, field) for labels in soft_labels])


def _known(soft_labels: Sequence[SoftLabels]) -> Tensor | None:
    """Of which objects of some pictures the belief is known, bool [G]; None where of all."""
    if all(labels.is_known is None for labels in soft_labels):
        return None
    return torch.cat([_each_known(labels) for labels in soft_labels])


def _each_known(labels: SoftLabels) -> Tensor:
    if labels.is_known is not None:
        return labels.is_known
    rows = labels.embeddings if labels.embeddings is not None else labels.log_rest
    assert rows is not None
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device)


def _divergence(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """Element by element p (log p - log q); 0 where p is 0."""
    probs = teacher_log_probs.exp()
    return probs * (teacher_log_probs.where(probs > 0, 0.0) - student_log_probs)


def _normalised(log_probs_NK: Tensor, log_rest_N: Tensor) -> tuple[Tensor, Tensor]:
    """Make stored masses sum to one: they are rounded, and their sum scales the gradient."""
    log_sum_N = torch.cat([log_probs_NK, log_rest_N[:, None]], dim=-1).logsumexp(-1)
    return log_probs_NK - log_sum_N[:, None], log_rest_N - log_sum_N
