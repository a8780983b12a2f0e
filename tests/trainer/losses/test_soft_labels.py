from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor

from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_train.losses.soft_labels import (
    SoftLoss,
    Tail,
    hard_label_loss,
    kl_full,
    kl_top_k,
    teacher_log_probs,
    teaches,
)
from richsem_train.targets import SoftLabels
from tests.trainer.losses.batches import CLASSES, embedding_labels, generator, make_target, top_k_labels

TAILS: tuple[Tail, ...] = ("bucket", "uniform", "renormalise")


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def truncated(log_probs_NC: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    kept, ids = log_probs_NC.topk(k, -1)
    return ids, kept, log_probs_NC.scatter(-1, ids, -torch.inf).logsumexp(-1)


def scipy_kl(teacher: np.ndarray, student_logits: Tensor) -> np.ndarray:
    return rel_entr(teacher, softmax(student_logits.numpy(), axis=-1)).sum(-1)


def test_teacher_equals_the_caches_own_distribution():
    embeddings, texts = normal(6, 16), normal(CLASSES, 16, seed=1)
    expected = class_log_probs(embeddings.numpy(), texts.numpy(), logit_scale=100.0)
    assert np.allclose(teacher_log_probs(embeddings, texts, logit_scale=100.0), expected, atol=1e-9)


def test_temperature_divides_the_teachers_logits():
    embeddings, texts = normal(6, 16), normal(CLASSES, 16, seed=1)
    softer = teacher_log_probs(embeddings, texts, logit_scale=100.0, temperature=4.0)
    assert torch.allclose(softer, teacher_log_probs(embeddings, texts, logit_scale=25.0))


def test_teacher_is_float32_under_autocast():
    embeddings, texts = normal(6, 16).float(), normal(CLASSES, 16, seed=1).float()
    expected = teacher_log_probs(embeddings, texts, logit_scale=100.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher_log_probs(embeddings, texts, logit_scale=100.0), expected)


def test_full_kl_equals_scipys():
    teacher, student = normal(50, CLASSES, scale=4), normal(50, CLASSES, seed=1, scale=4)
    expected = scipy_kl(softmax(teacher.numpy(), axis=-1), student)
    assert np.allclose(kl_full(teacher.log_softmax(-1), student), expected, rtol=1e-10)


@pytest.mark.parametrize("tail", TAILS)
def test_all_classes_kept_equal_the_full_kl(tail: Tail):
    teacher, student = normal(9, CLASSES, scale=3).log_softmax(-1), normal(9, CLASSES, seed=1)
    ids, kept, rest = truncated(teacher, CLASSES)
    assert rest.isneginf().all()
    assert torch.allclose(kl_top_k(ids, kept, rest, student, tail=tail), kl_full(teacher, student), atol=1e-12)


def test_bucket_equals_scipys_kl_of_the_kept_and_one_more_class():
    teacher, student = normal(9, CLASSES, scale=2).log_softmax(-1), normal(9, CLASSES, seed=1, scale=2)
    ids, kept, rest = truncated(teacher, 4)
    probs = softmax(student.numpy(), axis=-1)
    kept_probs = np.take_along_axis(probs, ids.numpy(), -1)
    merged = np.concatenate([kept_probs, 1 - kept_probs.sum(-1, keepdims=True)], -1)
    expected = rel_entr(np.exp(np.concatenate([kept.numpy(), rest.numpy()[:, None]], -1)), merged).sum(-1)
    assert np.allclose(kl_top_k(ids, kept, rest, student, tail="bucket"), expected, rtol=1e-9)


@pytest.mark.parametrize("tail", ["uniform", "renormalise"])
def test_an_even_tail_and_none_equal_the_dense_kl(tail: Tail):
    teacher, student = normal(9, CLASSES, scale=2).log_softmax(-1), normal(9, CLASSES, seed=1, scale=2)
    ids, kept, rest = truncated(teacher, 4)
    dense, known = np.zeros((9, CLASSES)), log_softmax(kept.numpy(), axis=-1)
    if tail == "uniform":
        dense, known = np.repeat(np.exp(rest.numpy())[:, None] / (CLASSES - 4), CLASSES, -1), kept.numpy()
    np.put_along_axis(dense, ids.numpy(), np.exp(known), -1)
    assert np.allclose(kl_top_k(ids, kept, rest, student, tail=tail), scipy_kl(dense, student), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, CLASSES),
    teacher_scale=st.floats(0.1, 30),
    student_scale=st.floats(0.1, 30),
)
def test_bucket_is_between_zero_and_the_full_kl(seed: int, k: int, teacher_scale: float, student_scale: float):
    teacher = normal(8, CLASSES, seed=seed, scale=teacher_scale).log_softmax(-1)
    student = normal(8, CLASSES, seed=seed + 1, scale=student_scale)
    bucket = kl_top_k(*truncated(teacher, k), student, tail="bucket")
    assert (bucket >= -1e-12).all()
    assert (bucket <= kl_full(teacher, student) + 1e-9).all()


def test_bucket_is_exact_where_both_share_the_tail_alike():
    student = normal(5, CLASSES)
    shifted = student.clone()
    shifted[:, :3] += 9
    teacher = shifted.log_softmax(-1)
    bucket = kl_top_k(*truncated(teacher, 3), student, tail="bucket")
    assert torch.allclose(bucket, kl_full(teacher, student), atol=1e-12)


@pytest.mark.parametrize("tail", TAILS)
def test_the_teacher_itself_has_no_loss_and_no_gradient_where_the_tail_allows(tail: Tail):
    logits = normal(5, CLASSES)
    ids, kept, rest = truncated(logits.log_softmax(-1), 4)
    if tail == "uniform":
        logits = logits.log_softmax(-1)
        even = (rest - np.log(CLASSES - 4))[:, None].expand(-1, CLASSES)
        logits = even.scatter(-1, ids, kept)
    if tail == "renormalise":
        logits = torch.full_like(logits, -1e3).scatter(-1, ids, kept)
    logits = logits.detach().requires_grad_()
    divergence = kl_top_k(ids, kept, rest, logits, tail=tail)
    divergence.sum().backward()
    assert divergence.abs().max() < 1e-10
    assert logits.grad.abs().max() < 1e-10


@pytest.mark.parametrize("tail", TAILS)
def test_gradients_are_right(tail: Tail):
    ids, kept, rest = truncated(normal(3, CLASSES, scale=2).log_softmax(-1), 4)
    student = normal(3, CLASSES, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: kl_top_k(ids, kept, rest, logits, tail=tail), student)


@pytest.mark.parametrize("tail", TAILS)
def test_a_teacher_with_all_mass_in_the_kept_classes_is_finite(tail: Tail):
    ids = torch.tensor([[3, 5], [1, 2]])
    log_probs = torch.tensor([[0.0, -torch.inf], [0.5, 0.5]])
    log_probs[1] = log_probs[1].log()
    student = normal(2, CLASSES).float().requires_grad_()
    divergence = kl_top_k(ids, log_probs, torch.full((2,), -torch.inf), student, tail=tail)
    divergence.sum().backward()
    expected = -student.detach().log_softmax(-1)
    assert divergence[0].item() == pytest.approx(expected[0, 3].item(), rel=1e-5)
    assert divergence[1].item() == pytest.approx(expected[1, [1, 2]].mean().item() - np.log(2), rel=1e-5)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("extreme", [1e2, 1e4])
def test_extreme_students_have_finite_losses_and_gradients(tail: Tail, extreme: float):
    labels = top_k_labels(6)
    student = (extreme * normal(6, CLASSES)).float().requires_grad_()
    divergence = kl_top_k(labels.class_ids, labels.log_probs, labels.log_rest, student, tail=tail)
    divergence.sum().backward()
    assert divergence.isfinite().all()
    assert student.grad.isfinite().all()


def test_stored_masses_count_relative_to_their_sum():
    ids, kept, rest = truncated(normal(4, CLASSES, scale=2).log_softmax(-1), 4)
    student = normal(4, CLASSES, seed=1)
    for tail in TAILS:
        exact = kl_top_k(ids, kept, rest, student, tail=tail)
        assert torch.allclose(kl_top_k(ids, kept + 0.1, rest + 0.1, student, tail=tail), exact)


def test_a_caches_float16_top_k_is_close_to_the_exact_lower_bound():
    teacher, student = normal(40, 300, scale=2).log_softmax(-1), normal(40, 300, seed=1)
    stored = top_k_soft_labels(teacher.numpy(), top_k=64)
    ids = torch.from_numpy(stored.class_ids.astype(np.int64))
    kept, rest = (torch.from_numpy(part.astype(np.float64)) for part in (stored.log_probs, stored.log_rest))
    exact = kl_top_k(*truncated(teacher, 64), student, tail="bucket")
    assert torch.allclose(kl_top_k(ids, kept, rest, student, tail="bucket"), exact, atol=2e-3)


def test_hard_labels_equal_the_full_kl_from_one_hot_and_skip_no_label():
    student = normal(4, CLASSES)
    labels = torch.tensor([3, 0, 11, 1])
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).double().log()
    expected = kl_full(one_hot, student)
    expected[1] = 0.0
    assert torch.allclose(hard_label_loss(labels, student), expected)


def test_soft_loss_takes_each_form_at_the_rows_asked_for():
    texts, student = normal(CLASSES, 5, seed=3).float(), normal(4, CLASSES).float()
    rows = torch.tensor([4, 0, 2, 2])
    soft_loss = SoftLoss(texts, logit_scale=20.0, tail="uniform")

    embedded = [embedding_labels(3), embedding_labels(2, seed=1)]
    targets = [make_target(len(labels.embeddings), soft_labels=labels) for labels in embedded]
    everything = torch.cat([labels.embeddings for labels in embedded])
    expected = kl_full(teacher_log_probs(everything, texts, logit_scale=20.0)[rows], student)
    assert torch.allclose(soft_loss(student, targets, rows), expected)

    kept = top_k_labels(5)
    target = make_target(5, soft_labels=kept)
    expected = kl_top_k(kept.class_ids[rows], kept.log_probs[rows], kept.log_rest[rows], student, tail="uniform")
    assert torch.allclose(soft_loss(student, [target], rows), expected)

    expected = hard_label_loss(target.labels[rows], student)
    assert torch.allclose(soft_loss(student, [replace(target, is_hard=True)], rows), expected)


def test_pictures_teach_by_soft_or_hard_labels_only():
    target = make_target(2)
    assert not teaches(target)
    assert teaches(replace(target, is_hard=True))
    assert teaches(replace(target, soft_labels=SoftLabels(embeddings=torch.ones(2, 3))))


def test_objects_that_the_teacher_has_not_seen_have_no_loss_and_no_gradient():
    texts = normal(CLASSES, 5, seed=3).float()
    rows = torch.tensor([0, 1, 2, 3, 4, 4])
    soft_loss = SoftLoss(texts, logit_scale=20.0)
    for first, second in ((embedding_labels(3), embedding_labels(2, seed=1)), (top_k_labels(3), top_k_labels(2))):
        student = normal(6, CLASSES).float().requires_grad_()
        seen = replace(first, is_known=torch.tensor([True, False, True]))
        targets = [make_target(3, soft_labels=seen), make_target(2, soft_labels=second)]
        losses = soft_loss(student, targets, rows)
        whole = soft_loss(student, [make_target(3, soft_labels=first), targets[1]], rows)
        assert losses[1] == 0
        assert torch.equal(losses[[0, 2, 3, 4, 5]], whole[[0, 2, 3, 4, 5]])
        losses.sum().backward()
        assert (student.grad[1] == 0).all()
        assert (student.grad[[0, 2, 3, 4, 5]].abs().sum(1) > 0).all()
