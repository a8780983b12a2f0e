import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels, unit_rows

LVIS_ROWS = 1_204


def clip_like(regions, classes, dim=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(regions, dim)).astype("f4"), rng.normal(size=(classes, dim)).astype("f4")


def distribution(logits):
    return log_softmax(np.atleast_2d(np.asarray(logits, np.float64)), axis=1)


def mass(labels):
    return np.exp(labels.log_probs.astype(np.float64)).sum(axis=1) + np.exp(labels.log_rest.astype(np.float64))


@pytest.mark.parametrize("logit_scale", [1.0, 14.3, 100.0])
def test_log_probs_equal_scipys_log_softmax_of_scaled_cosines(logit_scale):
    regions, text = clip_like(9, 50)
    cosines = np.array(
        [
            [
                np.dot(region.astype("f8"), row.astype("f8"))
                / (np.sqrt((region.astype("f8") ** 2).sum()) * np.sqrt((row.astype("f8") ** 2).sum()))
                for row in text
            ]
            for region in regions
        ]
    )
    found = class_log_probs(regions, text, logit_scale=logit_scale)
    np.testing.assert_allclose(found, log_softmax(logit_scale * cosines, axis=1), rtol=0, atol=1e-10)
    assert found.dtype == np.float64


def test_hand_computed_log_probs():
    # Cosines 1, 0 and -1 at scale ln 2: odds 2 : 1 : 1/2.
    found = class_log_probs(np.array([[3.0, 0.0]]), np.array([[2.0, 0], [0, 5], [-1, 0]]), logit_scale=np.log(2))
    np.testing.assert_allclose(np.exp(found), [[4 / 7, 2 / 7, 1 / 7]], atol=1e-15)


def test_norms_of_the_features_do_not_count():
    regions, text = clip_like(4, 7)
    expected = class_log_probs(regions, text, logit_scale=100)
    found = class_log_probs(regions * np.float32(17), text * np.float32(0.01), logit_scale=100)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(unit_rows(regions), axis=1), 1, atol=1e-14)


def test_huge_logits_neither_overflow_nor_turn_to_nan():
    found = class_log_probs(np.eye(2), np.eye(2), logit_scale=5_000.0)
    assert found.tolist() == [[0.0, -5_000.0], [-5_000.0, 0.0]]


def test_a_batch_equals_its_rows():
    regions, text = clip_like(6, 30)
    together = class_log_probs(regions, text, logit_scale=100)
    for index in range(6):
        alone = class_log_probs(regions[index : index + 1], text, logit_scale=100)
        np.testing.assert_allclose(alone[0], together[index], atol=1e-12)
    all_labels = top_k_soft_labels(together, top_k=5)
    for index in range(6):
        labels = top_k_soft_labels(together[index : index + 1], top_k=5)
        assert np.array_equal(labels.class_ids[0], all_labels.class_ids[index])
        assert np.array_equal(labels.log_probs[0], all_labels.log_probs[index])
        assert labels.log_rest[0] == all_labels.log_rest[index]


def test_no_regions_give_empty_labels():
    _, text = clip_like(1, 30)
    log_probs = class_log_probs(np.zeros((0, 64), np.float32), text, logit_scale=100)
    labels = top_k_soft_labels(log_probs, top_k=4)
    assert log_probs.shape == (0, 30)
    assert (labels.class_ids.shape, labels.log_probs.shape, labels.log_rest.shape) == ((0, 4), (0, 4), (0,))


def test_top_k_of_hand_computed_probabilities():
    labels = top_k_soft_labels(np.log([[0.125, 0.5, 0.25, 0.125]]), top_k=2)
    assert labels.class_ids.tolist() == [[1, 2]]
    np.testing.assert_allclose(np.exp(labels.log_probs.astype("f8")), [[0.5, 0.25]], atol=5e-4)
    np.testing.assert_allclose(labels.log_rest, [np.log(0.25)], rtol=1e-7)
    assert (labels.class_ids.dtype, labels.log_probs.dtype, labels.log_rest.dtype) == (np.int32, np.float16, np.float32)


def test_ties_go_to_the_lower_class_id():
    labels = top_k_soft_labels(distribution([1.0, 2.0, 1.0, 2.0, 1.0, 0.0]), top_k=5)
    assert labels.class_ids.tolist() == [[1, 3, 0, 2, 4]]
    assert top_k_soft_labels(distribution(np.zeros(LVIS_ROWS)), top_k=64).class_ids.tolist() == [list(range(64))]


@pytest.mark.parametrize("top_k", [1, 5, 64, 1_203])
def test_the_rest_is_the_log_of_the_mass_left_out(top_k):
    log_probs = class_log_probs(*clip_like(5, LVIS_ROWS), logit_scale=100)
    labels = top_k_soft_labels(log_probs, top_k=top_k)
    for row, ids, rest in zip(log_probs, labels.class_ids, labels.log_rest, strict=True):
        expected = logsumexp(np.delete(row, ids))
        np.testing.assert_allclose(rest, expected, rtol=1e-6)


def test_a_rest_far_below_float16_is_kept():
    labels = top_k_soft_labels(distribution([0.0, -300.0]), top_k=1)
    np.testing.assert_allclose(labels.log_rest, [-300.0], rtol=1e-6)


def test_nothing_is_left_of_the_whole_vocabulary():
    labels = top_k_soft_labels(distribution(np.arange(7.0)), top_k=7)
    assert labels.log_rest.tolist() == [-np.inf]
    assert labels.class_ids.tolist() == [[6, 5, 4, 3, 2, 1, 0]]


@pytest.mark.parametrize("top_k", [-1, 0, 8])
def test_a_top_k_outside_of_the_vocabulary_is_refused(top_k):
    with pytest.raises(ValueError, match=rf"top_k is {top_k}, must be in 1\.\.7"):
        top_k_soft_labels(distribution(np.arange(7.0)), top_k=top_k)


def check(log_probs, top_k):
    labels = top_k_soft_labels(log_probs, top_k=top_k)
    assert np.abs(mass(labels) - 1).max() < 1e-3
    assert (labels.log_probs <= 0).all()
    exact = np.take_along_axis(log_probs, labels.class_ids.astype(int), axis=1)
    assert (np.diff(exact, axis=1) <= 0).all()
    wide = labels.log_probs.astype(np.float64)
    step = np.spacing(np.abs(exact.astype(np.float16))).astype(np.float64)
    # Half a step of rounding on top of one step of what is handed on.
    assert (np.abs(wide - exact) <= 1.5 * step + 1e-12).all()
    return labels


@pytest.mark.parametrize("top_k", [1, 2, 64, LVIS_ROWS])
@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0])
def test_nearly_uniform_and_peaked_distributions_sum_to_one(spread, top_k):
    rng = np.random.default_rng(0)
    check(log_softmax(spread * rng.normal(size=(4, LVIS_ROWS)), axis=1), top_k)


@pytest.mark.parametrize("classes", [2, 3, 10, 63, 64, 65, 257, 600, 997, LVIS_ROWS, 2_000])
def test_uniform_distributions_of_any_size_sum_to_one(classes):
    check(distribution(np.zeros(classes)), classes)
    check(distribution(np.zeros(classes)), min(classes, 64))


@settings(max_examples=80, deadline=None)
@given(
    classes=st.integers(1, LVIS_ROWS),
    seed=st.integers(0, 2**32),
    spread=st.floats(0, 30),
    shape=st.sampled_from(["normal", "steps", "one peak", "half"]),
    keep=st.sampled_from(["one", "64", "all"]),
)
def test_any_distribution_sums_to_one_and_keeps_its_order(classes, seed, spread, shape, keep):
    rng = np.random.default_rng(seed)
    logits = {
        "normal": rng.normal(size=classes),
        "steps": rng.integers(0, 3, classes),
        "one peak": np.eye(1, classes)[0],
        "half": np.arange(classes) % 2,
    }[shape]
    top_k = {"one": 1, "64": min(64, classes), "all": classes}[keep]
    check(distribution(spread * logits), top_k)


@settings(max_examples=60, deadline=None)
@given(classes=st.integers(2, 400), seed=st.integers(0, 2**32), spread=st.floats(0, 10))
def test_rounded_log_probs_increase_by_one_float16_step_at_most(classes, seed, spread):
    rng = np.random.default_rng(seed)
    wide = check(distribution(spread * rng.normal(size=classes)), classes).log_probs
    step = np.spacing(np.abs(wide)).astype(np.float64)
    rise = np.diff(wide.astype(np.float64), axis=1)
    assert (rise <= np.maximum(step[:, :-1], step[:, 1:]) + 1e-12).all()


def test_the_same_embedding_gives_the_same_label_every_time():
    regions, text = clip_like(20, LVIS_ROWS)
    first = top_k_soft_labels(class_log_probs(regions, text, logit_scale=100), top_k=64)
    second = top_k_soft_labels(class_log_probs(regions.copy(), text.copy(), logit_scale=100), top_k=64)
    assert first.class_ids.tobytes() == second.class_ids.tobytes()
    assert first.log_probs.tobytes() == second.log_probs.tobytes()
    assert first.log_rest.tobytes() == second.log_rest.tobytes()
