import open_clip
import pytest
import torch
from safetensors.torch import save_file

from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_prep.teacher.text import TEMPLATES, prompts_of, text_bank, text_means
from richsem_schemas.errors import TeacherError
from richsem_schemas.vocabularies.vocabulary import Vocabulary
from tests.pipeline.teachers import RESNET, VIT, save_random_clip

CPU = torch.device("cpu")
NAMES = ("none", "aerosol_can", "bow_(decorative_ribbons)", "a rather long name of a thing that few people know")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return load_teacher(parse_teacher(save_random_clip(tmp_path_factory.mktemp("t") / "resnet", RESNET)), device=CPU)


def nothing(*_):
    pass


@pytest.mark.parametrize("config", [RESNET, VIT])
@pytest.mark.parametrize("has_fast_path", [True, False])
def test_weights_cast_once_give_the_very_bits_of_autocast(tmp_path, config, has_fast_path):
    teacher = load_teacher(parse_teacher(save_random_clip(tmp_path / "clip", config)), device=CPU)
    side = teacher.identity.input_hw[0]
    images = torch.randn((3, 3, side, side), generator=torch.Generator().manual_seed(0))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(has_fast_path)
    try:
        cast = teacher.with_weights_in(torch.bfloat16)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found, expected = cast.encode_image(images), teacher.encode_image(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert torch.equal(found, expected)
    kinds = [module for module in cast.model.visual.modules() if isinstance(module, torch.nn.Conv2d)]
    assert kinds
    assert {module.weight.dtype for module in kinds} == {torch.bfloat16}
    if not has_fast_path:
        attentions = [module for module in cast.model.visual.modules() if isinstance(module, torch.nn.Linear)]
        assert {module.weight.dtype for module in attentions} == {torch.bfloat16}
    # The teacher itself is as it was, and its text tower is not copied.
    assert {weight.dtype for weight in teacher.model.parameters()} == {torch.float32}
    assert cast.model.transformer is teacher.model.transformer
    assert cast.clip_resnet is None or cast.clip_resnet is not teacher.clip_resnet


def test_there_are_81_templates_the_bare_name_first():
    assert len(TEMPLATES) == 81
    assert TEMPLATES[0] == "{}."
    assert [template.format("cat") for template in TEMPLATES[1:]] == [
        template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES
    ]


def test_row_zero_is_the_bare_word_none():
    assert prompts_of("none", 0) == ["none"]
    assert len(prompts_of("none", 1)) == 81


@pytest.mark.parametrize("config", [RESNET, VIT])
def test_text_means_equal_open_clips_encode_text_in_float64(tmp_path, config):
    spec = parse_teacher(save_random_clip(tmp_path / "clip", config))
    teacher = load_teacher(spec, device=CPU)
    reference = open_clip.create_model(spec.model).eval().double()
    tokenizer = open_clip.get_tokenizer(spec.model)
    means = text_means(teacher, NAMES, on_progress=nothing)
    with torch.inference_mode():
        for row, name in enumerate(NAMES):
            prompts = ["none"] if row == 0 else [template.format(name) for template in TEMPLATES]
            expected = reference.encode_text(tokenizer(prompts)).mean(dim=0)
            torch.testing.assert_close(torch.from_numpy(means[row]).double(), expected, atol=2e-5, rtol=1e-4)


def test_a_shortened_context_leaves_the_model_as_it_was(teacher):
    before = teacher.model.positional_embedding.shape, teacher.model.attn_mask.shape
    teacher.encode_text(["a cat", "a photo of a dog"])
    assert (teacher.model.positional_embedding.shape, teacher.model.attn_mask.shape) == before


def test_the_text_bank_is_made_once_for_a_teacher_and_vocabulary(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    vocabulary = Vocabulary(name="few", class_names=NAMES)
    calls = []
    first = text_bank(teacher, vocabulary, "raw", on_progress=lambda *c: calls.append(c))
    made = len(calls)
    second = text_bank(teacher, vocabulary, "raw", on_progress=lambda *c: calls.append(c))
    assert calls == [(done, len(NAMES)) for done in range(len(NAMES) + 1)]
    assert len(calls) == made
    assert (first.features == second.features).all()
    text_bank(teacher, vocabulary, "clean", on_progress=lambda *c: calls.append(c))
    assert len(calls) == 2 * made


def test_the_identity_follows_the_weights(tmp_path):
    spec = save_random_clip(tmp_path / "a", RESNET), save_random_clip(tmp_path / "b", RESNET, seed=1)
    one, again, other = (load_teacher(parse_teacher(s), device=CPU).identity for s in (spec[0], spec[0], spec[1]))
    assert one == again
    assert one.weights_sha256 != other.weights_sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RN50", "not of the form MODEL:PRETRAINED"),
        ("RN50:", "not of the form"),
        ("RN5000:openai", "no model of open_clip; it knows: RN"),
        ("RN50:opnai", "its weights: openai"),
        ("RN50:/nowhere/weights.pt", "neither a file nor pretrained weights"),
        ("", "not of the form"),
    ],
)
def test_a_teacher_that_cannot_be_named_is_refused_with_what_can(text, message):
    with pytest.raises(TeacherError, match=message):
        parse_teacher(text)


def test_openai_weights_are_quick_gelu_under_both_names():
    assert parse_teacher("RN50:openai").quick_gelu
    assert parse_teacher("RN50-quickgelu:openai").quick_gelu
    assert not parse_teacher("ViT-B-32:laion2b_s34b_b79k").quick_gelu


def test_a_file_must_say_its_activation(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(TeacherError, match=r"RN50-quickgelu:.*RN50-gelu:"):
        parse_teacher(f"RN50:{tmp_path / 'w.pt'}")
    assert parse_teacher(f"RN50-gelu:{tmp_path / 'w.pt'}").model == "RN50"
    assert parse_teacher(f"RN50-quickgelu:{tmp_path / 'w.pt'}").model == "RN50-quickgelu"


def test_openai_weights_under_the_wrong_activation_are_refused(tmp_path):
    save_file({"input_resolution": torch.tensor(224), "x": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(TeacherError, match="trained with QuickGELU"):
        parse_teacher(f"RN50-gelu:{tmp_path / 'w.safetensors'}")


def test_a_tag_trained_with_gelu_is_refused_under_a_quick_gelu_name():
    gelu_tags = [
        (model, tag)
        for model, tag in open_clip.list_pretrained()
        if model.endswith("-quickgelu") and not open_clip.get_pretrained_cfg(model, tag).get("quick_gelu")
    ]
    for model, tag in gelu_tags[:3]:
        with pytest.raises(TeacherError, match="trained with GELU"):
            parse_teacher(f"{model}:{tag}")


def test_a_torchscript_archive_is_refused_with_the_recipe(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "RN50.pt")
    with pytest.raises(TeacherError, match=r"TorchScript archive.*convert it once"):
        parse_teacher(f"RN50-quickgelu:{tmp_path / 'RN50.pt'}")


def test_weights_of_another_model_are_refused_without_a_traceback(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(TeacherError, match="doesn't load as RN50-quickgelu"):
        load_teacher(parse_teacher(f"RN50-quickgelu:{tmp_path / 'w.pt'}"), device=CPU)


def test_a_file_that_holds_code_runs_none(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(TeacherError, match="doesn't load"):
        load_teacher(parse_teacher(f"RN50-quickgelu:{tmp_path / 'w.pt'}"), device=CPU)
    assert not (tmp_path / "ran").exists()


def test_weights_out_of_reach_say_how_to_get_them(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def unreachable(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("open_clip.factory.download_pretrained", unreachable)
    with pytest.raises(TeacherError, match=r"can't be fetched: .*open_clip.create_model\('RN50'.*RN50-quickgelu:FILE"):
        load_teacher(parse_teacher("RN50:openai"), device=CPU)
