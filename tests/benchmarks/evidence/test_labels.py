"""Distances of cached labels from exact ones, and what they do to gradients."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cityblock
from scipy.special import log_softmax, rel_entr

from benchmarks.evidence import borrowing, labels
from benchmarks.evidence.distances import coarsened, kl, spread, total_variation
from benchmarks.evidence.forms import EXACT, HARD, TAILS, forms_of, with_tail
from benchmarks.evidence.gradients import ANOTHER_BATCH, compared, compared_gradients, gradients
from benchmarks.evidence.labels_page import labels_section
from benchmarks.evidence.lessons import lessons_of
from benchmarks.evidence.students import Student, students
from benchmarks.evidence.views import Sees, annotated_world, demo_world, fresh_windows, stored_windows
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from richsem_train.data.fresh_windows import MIN_OVERLAP
from richsem_train.losses.soft_labels import kl_top_k
from richsem_train.run.build import described_detector
from richsem_train.run.checkpoint import Checkpoint, ModelInfo, save_checkpoint
from tests.trainer.tiny import write_split

CLASSES = 12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def distributions(rng, count=5):
    return log_softmax(3 * rng.standard_normal((count, CLASSES)), axis=-1)


def test_kl_is_scipys(rng):
    p, q = distributions(rng), distributions(rng)
    np.testing.assert_allclose(kl(p, q), rel_entr(np.exp(p), np.exp(q)).sum(-1), rtol=1e-12)


def test_kl_is_infinite_where_a_class_is_ruled_out_and_takes_nothing_from_impossible_ones():
    half, sure = np.log([[0.5, 0.5]]), np.array([[0.0, -np.inf]])
    assert kl(half, sure)[0] == np.inf
    assert kl(sure, half)[0] == pytest.approx(np.log(2))
    assert spread(kl(half, sure))["mean"] is None


def test_total_variation_is_half_of_scipys_city_block(rng):
    p, q = distributions(rng), distributions(rng)
    expected = [cityblock(np.exp(one), np.exp(other)) / 2 for one, other in zip(p, q, strict=True)]
    np.testing.assert_allclose(total_variation(p, q), expected, rtol=1e-12)


def test_a_buckets_kl_is_a_lower_bound_that_equal_proportions_meet(rng):
    p, q = distributions(rng, 200), distributions(rng, 200)
    ids = np.argsort(-p, axis=1)[:, :3]
    bound = kl(coarsened(p, ids), coarsened(q, ids))
    assert (bound < kl(p, q)).all()
    # The same p outside of the bucket, its classes shared out as in q: nothing is lost.
    alike = np.where(np.isin(np.arange(CLASSES), ids[0]), p[0], q[0])
    outside = ~np.isin(np.arange(CLASSES), ids[0])
    alike[outside] += np.log(np.exp(p[0, outside]).sum() / np.exp(q[0, outside]).sum())
    assert kl(coarsened(alike[None], ids[:1]), coarsened(q[:1], ids[:1])) == pytest.approx(kl(alike[None], q[:1]))


def test_tails_of_four_classes_by_hand():
    exact = np.log([[0.5, 0.3, 0.15, 0.05]])
    ids, masses = np.array([[0, 1]]), np.log([[0.5, 0.3, 0.2]])
    taught = {tail: np.exp(with_tail(exact, ids, masses, tail)[1][0]) for tail in TAILS}
    np.testing.assert_allclose(taught["bucket"], [0.5, 0.3, 0.2])
    np.testing.assert_allclose(taught["uniform"], [0.5, 0.3, 0.1, 0.1])
    np.testing.assert_allclose(taught["renormalise"], [0.625, 0.375, 0, 0])


@pytest.mark.parametrize("tail", TAILS)
def test_what_is_taught_is_what_the_trainers_loss_teaches(rng, tail):
    exact, student = distributions(rng), distributions(rng)
    stored = top_k_soft_labels(exact, top_k=4)
    masses = np.concatenate([stored.log_probs, stored.log_rest[:, None]], axis=1).astype(np.float64)
    student_X, taught_X = with_tail(student, stored.class_ids, masses, tail)
    logits = torch.from_numpy(student).requires_grad_()
    loss = kl_top_k(
        torch.from_numpy(stored.class_ids.astype(np.int64)),
        torch.from_numpy(masses[:, :-1]),
        torch.from_numpy(masses[:, -1]),
        logits,
        tail=tail,
    )
    if tail == "bucket":
        np.testing.assert_allclose(loss.detach().numpy(), kl(taught_X, student_X), rtol=1e-9)
    else:
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        np.testing.assert_allclose(gradient.numpy(), np.exp(student) - np.exp(taught_X), atol=1e-9)


def test_cosine_and_norm_of_gradients_by_hand():
    assert compared(torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])) == pytest.approx((1, 2))
    assert compared(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx((0.5**0.5, 2**0.5))
    assert np.isnan(compared(torch.zeros(2), torch.ones(2))).all()


@pytest.fixture(scope="module")
def tiny():
    """Eight scenes and pictures of the demo's world."""
    return demo_world(8)


@pytest.fixture(scope="module")
def sees(tiny):
    return Sees.for_world(load_teacher(parse_teacher("demo"), device=torch.device("cpu")), tiny)


@pytest.fixture(scope="module", params=["windows", "mosaics"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def lessons(tiny, sees, kind):
    return lessons_of(tiny, kind, sees, 8)


@pytest.fixture(scope="module")
def info(sees):
    """Of a detector of a minute's size."""
    small = ["hidden_dim=32", "encoder_layers=1", "decoder_layers=1", "heads=2", "ffn_dim=32", "queries=8"]
    config = load_config("demo", [*(f"model.{each}" for each in small), "model.denoising.queries=0"])
    names = sees.text.class_names
    return ModelInfo(config, names, ("",) * len(names), sees.text.features.shape[1], sees.text.logit_scale)


@pytest.fixture(scope="module")
def checkpoint(info, sees, tmp_path_factory):
    torch.manual_seed(5)
    detector = described_detector(info, text=sees.text, device=torch.device("cpu"), semantic_branch=True)
    path = tmp_path_factory.mktemp("checkpoint") / "last.pt"
    save_checkpoint(path, Checkpoint(info, detector.state_dict()))
    return path


def test_an_annotated_picture_is_of_the_class_of_its_largest_box(tmp_path):
    path = write_split(tmp_path, "train", 4, seed=1)
    written = json.loads(path.read_text())
    # Ids needn't be rows.
    for record in (*written["categories"], *written["annotations"]):
        key = "category_id" if "category_id" in record else "id"
        record[key] *= 10
    written["annotations"] = [each for each in written["annotations"] if each["image_id"] != 2]
    path.write_text(json.dumps(written))
    found = annotated_world(path, tmp_path / "train")
    names = {each["id"]: each["name"] for each in written["categories"]}
    largest = {}
    for each in sorted(written["annotations"], key=lambda each: each["bbox"][2] * each["bbox"][3]):
        largest[each["image_id"]] = names[each["category_id"]]
    shown = [("none", *found.names)[row] for row in found.picture_rows]
    assert shown == [largest.get(number, "none") for number in (1, 2, 3, 4)]
    assert len(found.scenes) == 3
    boxes = [each for each in written["annotations"] if each["image_id"] == 3]
    rows = [("none", *found.names)[row] for row in found.scenes[1].rows]
    assert rows == [names[each["category_id"]] for each in boxes]


def form(name, kind="windows", classes=97):
    (found,) = [each for each in forms_of(kind, classes) if each.name == name]
    return found


def test_the_exact_form_is_at_no_distance_and_storage_is_near(lessons, sees, kind):
    found = labels.distances(lessons, forms_of(kind, 97), sees.text)
    assert found[EXACT]["kl"]["mean"] == found[EXACT]["total_variation"]["mean"] == 0
    assert found[EXACT]["top_1_agrees"] == 1
    assert 0 < found["float16"]["kl"]["mean"] < found["int8"]["kl"]["mean"] < 1e-3
    assert found["top 8, bucket"]["kl"]["mean"] <= found["top 8, uniform"]["kl"]["mean"]
    assert found[HARD]["kl"]["mean"] is None


def test_borrowed_labels_are_as_near_as_the_study_of_borrowing_has_them(tiny, sees):
    lessons = lessons_of(tiny, "windows", sees, 8)
    fresh, stored = (borrowing.seen(sees, views) for views in (fresh_windows(tiny, 1), stored_windows(tiny)))
    theirs = borrowing.compared(fresh, stored, overlap=MIN_OVERLAP)["stored"]
    for count in (1, 4):
        ours = labels.distances(lessons, [form(f"fresh window, K = {count}")], sees.text)
        (ours,) = ours.values()
        # They borrow unrounded embeddings.
        assert ours["kl"]["mean"] == pytest.approx(theirs[count]["kl"], rel=1e-2)
        assert ours["without_label"] == pytest.approx(theirs[count]["without_label"])


def test_a_view_without_boxes_borrows_nothing_and_one_that_none_has_stored_knows_nothing(lessons, sees, kind):
    lesson = next(each for each in lessons if len(each.exact))
    nothing = np.empty((0, lesson.exact.shape[1]), np.float32)
    view = replace(lesson.shown.view, regions=lesson.shown.view.regions[:0])
    bare = replace(lesson, shown=replace(lesson.shown, view=view, things=[]), exact=nothing, padded=nothing)
    borrowed = [each for each in forms_of(kind, 97) if "K = 2" in each.name]
    (found,) = labels.distances([lesson, bare], borrowed, sees.text).values()
    assert found == next(iter(labels.distances([lesson], borrowed, sees.text).values()))
    others = replace(lesson, stored=tuple(replace(each, things=[(-1, 0)] * len(each.things)) for each in lesson.stored))
    if kind == "windows":
        assert labels.distances([others], borrowed, sees.text)[borrowed[0].name]["without_label"] == 1


def test_exact_labels_turn_no_gradient_and_hard_ones_do(lessons, sees, info, kind):
    student = Student.of(info, sees.text)
    forms = [form(EXACT), replace(form(EXACT), name="the same"), form(HARD)]
    found = compared_gradients(student, lessons, forms, sees.text)
    for measure in ("branch", "detector", "all losses"):
        same = found["the same"][measure]
        assert same["cosine"]["median"] == pytest.approx(1, abs=1e-12)
        assert same["norm_ratio"]["median"] == same["norm_ratio_of_sum"] == pytest.approx(1, abs=1e-12)
    assert found[HARD]["branch"]["cosine"]["median"] < 0.9999
    assert found[ANOTHER_BATCH]["branch"]["batches"] == 0


@pytest.mark.parametrize("name", [EXACT, HARD])
def test_gradients_are_those_of_a_loss_written_by_hand(tiny, sees, info, name):
    pair = [replace(each, exact=each.exact.astype(np.float64)) for each in lessons_of(tiny, "mosaics", sees, 2)]
    student = Student.of(info, sees.text)
    for module in (student.detector, student.normalise, *student.criteria.values()):
        module.double()
    found = gradients(student, pair, [form(EXACT), form(HARD)], sees.text, seed=0)
    pixels = torch.stack([torch.from_numpy(each.shown.pixels.copy()).permute(2, 0, 1) for each in pair]).double()
    targets = [form(name).target(each, sees.text) for each in pair]
    mask = torch.zeros(len(pair), *pixels.shape[2:], dtype=torch.bool)
    outputs = student.detector((pixels / 255 - 0.5) / 0.25, mask)
    costs = student.criteria["bucket"].matcher.costs(outputs.pred_logits[-1:], outputs.pred_boxes[-1:], targets)[0]
    loss = torch.zeros(())
    for each, costs_QG, hidden_QE in zip(pair, costs, outputs.hidden, strict=True):
        queries, objects = linear_sum_assignment(costs_QG.numpy())
        logits = student.detector.semantic_logits(hidden_QE[queries])
        log_student = logits - logits.logsumexp(-1, keepdim=True)
        exact = class_log_probs(each.exact, sees.text.features, logit_scale=sees.text.logit_scale)[objects]
        if name == HARD:
            exact = np.log(np.maximum(np.eye(exact.shape[1])[each.rows[objects]], 1e-300))
        teacher = torch.from_numpy(exact)
        loss = loss + (teacher.exp() * (teacher - log_student)).sum()
    weights = [weight for _, weight in student.trained]
    # The paper's weight, and eight tiles.
    by_hand = torch.autograd.grad(0.5 * loss / 8, weights, allow_unused=True)
    flat = torch.cat([(0 * w.detach() if g is None else g).flatten() for w, g in zip(weights, by_hand, strict=True)])
    # Boxes and weights of queries are float32.
    rounding = {"rtol": 1e-4, "atol": 1e-7 * flat.abs().max().item()}
    torch.testing.assert_close(found.soft[name], flat, **rounding)
    projection = [g.flatten() for (key, _), g in zip(student.trained, by_hand, strict=True) if "clip_visual" in key]
    torch.testing.assert_close(found.measured(name)["branch"], *projection, **rounding)


def test_a_checkpoints_weights_are_the_trained_students(checkpoint, sees):
    trained, untrained = students(checkpoint, sees.text).values()
    weight = trained.detector.class_embed.clip_visual_proj.weight
    saved = torch.load(checkpoint, weights_only=True)["model"]
    torch.testing.assert_close(weight, saved["class_embed.clip_visual_proj.weight"])
    assert not torch.equal(weight, untrained.detector.class_embed.clip_visual_proj.weight)


def test_the_section_tells_cosines_of_gradients_as_measured():
    turn = {"cosine": {"median": 0.75}, "norm_ratio": {"median": 1.5}, "cosine_of_sum": 0.875}
    turns = {name: dict.fromkeys(("branch", "detector", "all losses"), turn) for name in (
        "padded batch", "float16", "int8", "top 8, bucket", "top 32, bucket", "fresh window, K = 4", "hard labels",
        "another batch",
    )}  # fmt: skip
    spreads = {"mean": 0.25, "median": 0.125, "quartiles": [0.1, 0.2]}
    infinite = {"mean": None, "median": None, "quartiles": None}
    distances = {"without_label": 0.0, "kl": spreads, "kl_reversed": spreads, "total_variation": spreads}
    distances |= {"cosine": None, "top_1_agrees": 0.5}
    forms = {"float16": distances, "hard labels": distances | {"kl": infinite}}
    node = {"forms": forms, "gradients": {"trained": turns}, "views": 8, "regions": 1200, "classes": 5}
    section = labels_section({"worlds": {"demo": {"windows": node | {"entropy": spreads}}}})
    assert "| float16 | 0.25 | 0.12 | 0.25 |  | 50% | 0% | 0.750 | 0.750 | 0.875 | 0.750 | 1.50 |" in section
    assert "| hard labels | 0.25* | 0.12* |" in section
    told = " ".join(section.split())
    assert "keep 0.750 by float16 and int8, 0.750 by top 8, 0.750 by top 32 (" in told
    assert "0.750 and 0.875 by fresh window, K = 4;" in told
    assert "1,200 regions of 8 views, 5 rows, entropy of the exact label 0.25" in section


def noting_forms(function, measured):
    def noted(*arguments):
        measured.append([form.name for form in arguments[-2]])
        return function(*arguments)

    return noted


def test_what_stands_in_the_file_is_not_measured_again(checkpoint, tmp_path, monkeypatch):
    path, figure = tmp_path / "labels.json", tmp_path / "labels.svg"
    run = {
        "json": path,
        "checkpoint": checkpoint,
        "annotations": None,
        "images": None,
        "views": 8,
        "batches": 1,
        "figure": figure,
    }
    labels.main(**run)
    first = json.loads(path.read_bytes())
    windows = first["worlds"]["demo"]["windows"]
    assert windows["forms"][EXACT]["kl"]["mean"] == 0
    assert {"machine", "settings", "worlds"} <= first.keys()
    assert {"date", "commit", "load"} <= windows["measured"][0].keys()
    assert figure.read_text().startswith("<?xml")
    section = labels_section(first)
    assert section.count("| int8 |") == 3
    assert "Boxes of windows" in section

    del windows["forms"]["int8"]
    del windows["gradients"]["trained"]["int8"]
    path.write_text(json.dumps(first))
    measured = []
    for function in (labels.distances, labels.compared_gradients):
        monkeypatch.setattr(labels, function.__name__, noting_forms(function, measured))
    labels.main(**run)
    assert measured == [["int8"], [EXACT, "int8"]]
    again = json.loads(path.read_bytes())["worlds"]["demo"]["windows"]
    assert "int8" in again["forms"]
    with pytest.raises(RichSemError, match=r"'views': 8.*'views': 4"):
        labels.main(**(run | {"views": 4}))


def test_what_is_missing_is_named(tmp_path):
    run = {"json": tmp_path / "labels.json", "checkpoint": tmp_path / "none.pt", "images": None}
    with pytest.raises(RichSemError, match=r"none.pt: there is no such checkpoint"):
        labels.main(**run, annotations=None)
    with pytest.raises(RichSemError, match="--annotations and --images belong together"):
        labels.main(**run, annotations=tmp_path)
