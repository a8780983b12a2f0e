import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy

from richsem_schemas.cache.divergence import kl_divergence, top_k_kl_divergence
from richsem_schemas.cache.soft_labels import TopKSoftLabels, top_k_soft_labels

CLASSES = 9


@pytest.fixture
def distributions():
    """Two log-distributions of 50 regions."""
    rng = np.random.default_rng(0)
    return [log_softmax(rng.normal(size=(50, CLASSES)) * 3, axis=1) for _ in range(2)]


def truncated(log_probs, keep):
    """Labels of the most probable classes, not rounded."""
    order = np.argsort(-log_probs, axis=1)
    outside = np.exp(np.take_along_axis(log_probs, order[:, keep:], 1)).sum(axis=1)
    with np.errstate(divide="ignore"):
        return TopKSoftLabels(order[:, :keep], np.take_along_axis(log_probs, order[:, :keep], 1), np.log(outside))


def dense(labels):
    """[R, C] probabilities of the classes that labels keep, 0 elsewhere."""
    probs = np.zeros((len(labels.class_ids), CLASSES))
    np.put_along_axis(probs, labels.class_ids.astype(int), np.exp(labels.log_probs.astype(np.float64)), 1)
    return probs


def test_divergence_of_wholes_is_scipys(distributions):
    log_p, log_q = distributions
    np.testing.assert_allclose(kl_divergence(log_p, log_q), entropy(np.exp(log_p), np.exp(log_q), axis=1), rtol=1e-9)


@pytest.mark.parametrize(("keep_p", "keep_q"), [(4, 6), (6, 4), (1, 1), (3, CLASSES), (CLASSES, CLASSES)])
def test_divergence_of_truncated_labels_is_scipys_over_the_coarsened_classes(distributions, keep_p, keep_q):
    p, q = (truncated(log, keep) for log, keep in zip(distributions, (keep_p, keep_q), strict=True))
    rests = [np.exp(labels.log_rest.astype(np.float64)) for labels in (p, q)]
    expected = []
    for one_p, one_q, rest_p, rest_q in zip(dense(p), dense(q), *rests, strict=True):
        kept = (one_p > 0) & (one_q > 0)
        coarse_p, coarse_q = [*one_p[kept], one_p[~kept].sum() + rest_p], [*one_q[kept], one_q[~kept].sum() + rest_q]
        expected.append(rel_entr(coarse_p, coarse_q).sum())
    found = top_k_kl_divergence(p, q, classes=CLASSES)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found <= kl_divergence(*distributions) + 1e-12).all()


def test_a_rest_of_next_to_nothing_is_not_lost_in_rounding():
    # p: 1/2, 1/2 of two classes; q keeps one of them with all but e^-50: KL = 0.5 ln 0.5 + 0.5 (ln 0.5 + 50).
    p = TopKSoftLabels(np.array([[0, 1]], np.int32), np.log([[0.5, 0.5]]).astype(np.float16), np.array([-np.inf]))
    q = TopKSoftLabels(np.array([[0]], np.int32), np.zeros((1, 1), np.float16), np.array([-50.0]))
    half = float(p.log_probs[0, 0])
    [found] = top_k_kl_divergence(p, q, classes=2)
    assert found == pytest.approx(2 * np.exp(half) * half + np.exp(half) * 50, rel=1e-9)


def test_a_label_does_not_diverge_from_itself(distributions):
    p = top_k_soft_labels(distributions[0], top_k=3)
    assert top_k_kl_divergence(p, p, classes=CLASSES) == pytest.approx(np.zeros(50), abs=1e-15)
    assert kl_divergence(distributions[0], distributions[0]).tolist() == [0.0] * 50
