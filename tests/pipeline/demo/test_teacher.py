import hashlib
import json

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from pipeline.demo_teacher import measure as measure_teacher
from pipeline.demo_teacher import train as train_teacher
from pipeline.demo_teacher import views
from richsem_prep.demo import TEACHER_DIR, TEACHER_SIZE, world
from richsem_prep.teacher.teacher import load_teacher, parse_teacher

DETECTION_NAMES = [each.name for each in world.assignment().detection]


@pytest.fixture(scope="module")
def teacher():
    return load_teacher(parse_teacher("demo"), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def text_features(teacher):
    return measure_teacher.classifier(teacher, DETECTION_NAMES)


@pytest.fixture(scope="module")
def recipe():
    return json.loads((TEACHER_DIR / train_teacher.RECIPE_FILE).read_text())


def test_the_recipe_names_the_committed_weights(recipe):
    weights = (TEACHER_DIR / train_teacher.WEIGHTS_FILE).read_bytes()

    assert hashlib.sha256(weights).hexdigest() == recipe["weights_sha256"]
    assert len(weights) == recipe["weights_bytes"] < 6.3e6
    assert recipe["teacher_size"] == TEACHER_SIZE


def test_the_recipe_records_accuracies_above_the_bars(recipe):
    top_1 = {kind: found["top_1"] for kind, found in recipe["top_1"].items()}

    assert top_1["pictures"] >= 0.90
    assert min(top_1["crop/crop"], top_1["crop/mosaic"]) >= 0.90
    assert min(top_1["roi-align/crop"], top_1["roi-align/mosaic"], top_1["roi-align/scene"]) >= 0.85


def test_zero_shot_accuracy_on_held_out_pictures_is_as_recorded(teacher, text_features):
    rng = np.random.default_rng(12345)
    pictures = [views.whole_picture(rng, name) for name in DETECTION_NAMES * 3]

    found = measure_teacher.top_1(
        teacher, pictures, text_features, DETECTION_NAMES, region_encoder="crop", teacher_size=None
    )

    assert found.regions == 288
    assert found.top_1 >= 0.90


def test_regions_of_mosaics_are_recognised_by_roi_align(teacher, text_features):
    rng = np.random.default_rng(12345)
    mosaics = [views.mosaic(rng, [str(name) for name in rng.choice(DETECTION_NAMES, 4)]) for _ in range(50)]

    found = measure_teacher.top_1(
        teacher, mosaics, text_features, DETECTION_NAMES, region_encoder="roi-align", teacher_size=TEACHER_SIZE
    )

    assert found.regions == 200
    assert found.top_1 >= 0.85


def test_the_teacher_loads_through_open_clip_alone():
    model = open_clip.create_model(f"local-dir:{TEACHER_DIR}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{TEACHER_DIR}")

    tokens = tokenizer(["a photo of a striped_red_star."])

    assert tokens.shape == (1, 20)
    assert model.encode_text(tokens).shape == (1, 64)
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 64)
    assert model.logit_scale.exp() <= 100


def test_no_prompt_is_longer_than_the_context():
    tokenizer = open_clip.SimpleTokenizer(context_length=77)

    tokens = tokenizer([template.format(name) for template in train_teacher.TEMPLATES for name in world.NAMES])

    assert (tokens != 0).sum(dim=1).max() <= train_teacher.MODEL_CFG["text_cfg"]["context_length"]


def test_training_never_names_the_held_out_names():
    names = train_teacher.trained_names()

    assert not set(names) & set(world.assignment().held_out)
    assert set(DETECTION_NAMES) <= set(names)


def test_a_few_steps_of_training_run_and_repeat(tmp_path):
    tiny = train_teacher.TrainingRecipe(
        squash_steps=2,
        region_steps=1,
        squashed_pictures=4,
        squashed_crops=2,
        squashed_mosaics=2,
        squashed_windows=2,
        region_crops=1,
        region_mosaics=1,
        region_scenes=2,
        pool_pictures=12,
        pool_scenes=3,
    )
    losses: list[list[float]] = [[], []]

    for run in losses:
        model = train_teacher.train(tiny, on_step=lambda _step, loss, run=run: run.append(loss))
    digest = train_teacher.save_teacher(model, tmp_path)

    assert len(losses[0]) == 3
    assert np.isfinite(losses[0]).all()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert digest == hashlib.sha256((tmp_path / train_teacher.WEIGHTS_FILE).read_bytes()).hexdigest()
    saved = load_file(tmp_path / train_teacher.WEIGHTS_FILE)
    assert saved["visual.conv1.weight"].dtype == torch.float16


def test_the_loss_shares_the_target_among_images_of_one_name():
    images, texts = torch.eye(3)[[0, 0, 1]], torch.eye(3)

    aligned = train_teacher.contrastive_loss(images, texts, torch.tensor([0, 0, 1]), torch.tensor(100.0))
    mistaken = train_teacher.contrastive_loss(images, texts, torch.tensor([0, 1, 1]), torch.tensor(100.0))

    # Images find their caption for sure; of the two captions shown, one is shared by two images: entropy log 2.
    assert aligned.item() == pytest.approx((0 + (np.log(2) + 0) / 2) / 2, rel=1e-4)
    assert mistaken > 10


def test_windows_keep_the_boxes_that_are_mostly_in_view():
    kept = dropped = 0
    for seed in range(30):
        names = DETECTION_NAMES[seed : seed + 4]
        view = views.window(np.random.default_rng(seed), names)
        assert len(view.boxes_xyxy_px) == len(view.names) <= 4
        width, height = view.picture.size
        assert (view.boxes_xyxy_px >= 0).all()
        assert (view.boxes_xyxy_px <= (width, height, width, height)).all()
        kept += len(view.names)
        dropped += 4 - len(view.names)
    assert kept > dropped > 0
