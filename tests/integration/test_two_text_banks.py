"""A classifier by one CLIP's names and soft labels by another's, whichever the detector: from config to what finds."""

import numpy as np
import pytest
import torch

from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import TextFolder, write_text_folder
from richsem_schemas.errors import RichSemError
from richsem_train.run.assemble import assemble
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.distributed import Ranks
from richsem_train.run.open_data import open_data, open_vocabulary
from richsem_train.run.rebuilding import rebuilt_detector
from tests.caches import CLASSES, DIM, LOGIT_SCALE
from tests.trainer.tiny import VALUES, losses_of, make_world

WIDTH, SCALE = 24, 30.0
CPU = torch.device("cpu")
NAMES = ("none", *CLASSES)
MODELS = {
    "dino": VALUES["model"],
    "centernet-cascade": {
        "detector": "centernet-cascade",
        "backbone": VALUES["model"]["backbone"] | {"out_strides": [8, 16, 32]},
        "hidden_dim": 64,
        "roi_dim": 32,
        "rois": 16,
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def write_text(folder, cache, *, names=NAMES, seed=0, width=WIDTH):
    """A text folder of another CLIP than the cache's teacher."""
    teacher = open_cache(cache).label_set(None).spec.teacher
    teacher = teacher.model_copy(update={"weights_sha256": "7" * 64, "embed_dim": width, "logit_scale": SCALE})
    features = np.random.default_rng(seed).standard_normal((len(names), width)).astype(np.float32)
    bank = TextBank(tuple(names), tuple(names), ("a {}",), SCALE, features)
    write_text_folder(folder, TextFolder(bank, teacher, "mine", "raw"))
    return bank


@pytest.fixture(scope="module")
def other(world, tmp_path_factory):
    """Folder and bank of the classifier's text."""
    folder = tmp_path_factory.mktemp("text") / "other"
    return folder, write_text(folder, world.cache)


@pytest.fixture(scope="module", params=MODELS)
def changes(request, other):
    return {"model": MODELS[request.param], "classifier_text": {"folder": str(other[0])}}


@pytest.fixture(scope="module")
def trained(world, changes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    world.run(out, **changes)
    return out


def soft_losses(line):
    return {name: loss for name, loss in line["losses"].items() if name.startswith("loss_soft")}


def test_the_detector_has_the_classifiers_bank_and_its_losses_the_teachers(world, other, changes):
    config = world.config(**changes)
    data = open_data(config)
    teacher = open_cache(world.cache).text_bank("hashed")
    assert data.vocabulary.semantic_dim == DIM
    run = assemble(config, data, Ranks(0, 1, CPU))
    np.testing.assert_array_equal(run.detector.text_bank().raw, other[1].features)
    learnt = run.trainer.learner.teacher_text
    np.testing.assert_array_equal(learnt.raw, teacher.features)
    assert learnt.logit_scale == LOGIT_SCALE
    np.testing.assert_array_equal(run.trainer.learner.soft_loss.text_features, teacher.features)
    assert (run.info.text_dim, run.info.logit_scale) == (WIDTH, SCALE)
    widths = {name: tuple(tensor.shape) for name, tensor in run.detector.state_dict().items()}
    semantic = [shape for name, shape in widths.items() if "semantic_proj" in name or "clip_visual_proj" in name]
    assert semantic
    assert {shape[0] for shape in semantic} == {DIM}


def test_both_kinds_of_data_are_learnt_from(trained):
    lines = losses_of(trained)
    assert {line["data"] for line in lines} == {"detection", "extra"}
    for line in lines:
        assert np.isfinite(line["loss"])
        if line["data"] == "extra":
            assert all(loss > 0 for name, loss in soft_losses(line).items() if not name.endswith("_dn"))


def test_a_run_in_two_parts_takes_the_same_steps(world, trained, changes, tmp_path):
    world.run(tmp_path / "run", **changes | {"schedule__epochs": 1})
    world.run(tmp_path / "run", resume=True, **changes)
    assert losses_of(tmp_path / "run") == losses_of(trained)


def test_a_checkpoint_finds_by_the_classifiers_names_alone(world, other, trained):
    saved = load_checkpoint(trained / "checkpoints" / "last.pt")
    assert set(saved.fingerprints) == {"extra", "classifier_text"}
    detector = rebuilt_detector(saved, "saved", CPU)
    np.testing.assert_array_equal(detector.text_bank().raw, other[1].features)
    assert not any("semantic_proj" in name or "clip_visual_proj" in name for name in detector.state_dict())
    found = detector.detect(
        torch.randn(1, 3, 64, 64),
        torch.zeros(1, 64, 64, dtype=torch.bool),
        image_hw=[(64, 64)],
        original_hw=[(64, 64)],
        vocabulary_C=torch.arange(len(NAMES)) > 0,
        keep=5,
    )
    assert len(found) == 1
    assert torch.isfinite(found[0].scores).all()


def test_another_classifiers_bank_is_refused_at_a_resume(world, changes, tmp_path):
    short = changes | {"schedule__epochs": 1}
    world.run(tmp_path / "run", **short)
    write_text(tmp_path / "text", world.cache, seed=1)
    longer = changes | {"classifier_text": {"folder": str(tmp_path / "text")}}
    with pytest.raises(RichSemError, match="classifier_text is another label set than the run began with"):
        world.run(tmp_path / "run", resume=True, **longer)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("none", CLASSES[1], CLASSES[0], *CLASSES[2:]),
            r"classifier_text has 6 classes and the text of the soft labels 6; row 1 is 'b dog' in the one and 'a cat'",
        ),
        (NAMES[:-1], r"classifier_text has 5 classes and the text of the soft labels 6: a row must be one class in bo"),
    ],
)
def test_banks_of_other_names_are_refused(world, tmp_path, names, message):
    write_text(tmp_path / "text", world.cache, names=names)
    with pytest.raises(RichSemError, match=message):
        open_data(world.config(classifier_text={"folder": str(tmp_path / "text")}))


def test_without_soft_labels_the_classifiers_bank_is_the_only_one(world, other):
    changes = {"extra": None, "classifier_text": {"folder": str(other[0])}, "model__semantic_branch": False}
    for opened in (open_data(world.config(**changes)).vocabulary, open_vocabulary(world.config(**changes))):
        assert opened.text is opened.teacher_text
        assert opened.text.features.shape == (len(NAMES), WIDTH)
        assert opened.class_names == NAMES


def test_what_only_detects_takes_the_classifiers_bank(world, other):
    both = {"classifier_text": {"folder": str(other[0])}, "text": {"cache": str(world.cache)}}
    np.testing.assert_array_equal(open_vocabulary(world.config(**both)).text.features, other[1].features)


def test_a_bank_as_wide_as_the_teachers_leaves_the_first_weights_as_they_are(world, tmp_path):
    """The same names by the teacher itself, in a section of their own: the same detector, to the bit."""
    spec = open_cache(world.cache).label_set(None).spec
    teacher = open_cache(world.cache).text_bank("hashed")
    write_text_folder(tmp_path / "text", TextFolder(teacher, spec.teacher, "folders", "raw"))
    one, other = (
        assemble(config, open_data(config), Ranks(0, 1, CPU)).detector.state_dict()
        for config in (world.config(), world.config(classifier_text={"folder": str(tmp_path / "text")}))
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("section", [{}, {"cache": "a", "folder": "b"}, {"folder": "b", "label_set": "c"}])
def test_the_classifiers_text_comes_from_one_place(world, section):
    with pytest.raises(
        RichSemError, match=r"classifier_text: (name either classifier_text\.cache or|classifier_text\.)"
    ):
        world.config(classifier_text=section)
