"""No real file of Detic is at hand; names and shapes are written down from its modules."""

import os
import pickle

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.models.centernet_cascade.published_detic import load_published_detic
from tests.trainer.models.centernet_cascade.published_keys import (
    HIDDEN,
    detector,
    detic_state,
    names_and_shapes,
    saved,
)

BRANCHES = {f"cascade.stages.{stage}.semantic_proj.weight" for stage in range(3)}

SAMPLES = {
    "backbone.bottom_up.base.conv1.weight": "backbone.0.body.conv1.weight",
    "backbone.bottom_up.base.bn1.running_var": "backbone.0.body.bn1.running_var",
    "backbone.bottom_up.base.layer3.5.bn3.bias": "backbone.0.body.layer3.5.bn3.bias",
    "backbone.bottom_up.base.layer4.0.downsample.0.weight": "backbone.0.body.layer4.0.downsample.0.weight",
    "backbone.fpn_lateral3.weight": "fpn.inner_blocks.0.0.weight",
    "backbone.fpn_lateral5.bias": "fpn.inner_blocks.2.0.bias",
    "backbone.fpn_output4.weight": "fpn.layer_blocks.1.0.weight",
    "backbone.top_block.p6.weight": "fpn.extra_blocks.p6.weight",
    "backbone.top_block.p7.bias": "fpn.extra_blocks.p7.bias",
    "proposal_generator.centernet_head.bbox_tower.0.weight": "centernet.tower.0.weight",
    "proposal_generator.centernet_head.bbox_tower.10.bias": "centernet.tower.10.bias",
    "proposal_generator.centernet_head.bbox_pred.weight": "centernet.ltrb.weight",
    "proposal_generator.centernet_head.agn_hm.bias": "centernet.heatmap.bias",
    "proposal_generator.centernet_head.scales.4.scale": "centernet.scales.4",
    "roi_heads.box_head.0.fc1.weight": "cascade.stages.0.fc1.weight",
    "roi_heads.box_head.2.fc2.bias": "cascade.stages.2.fc2.bias",
    "roi_heads.box_predictor.1.cls_score.linear.weight": "cascade.stages.1.class_proj.weight",
    "roi_heads.box_predictor.1.bbox_pred.0.weight": "cascade.stages.1.bbox_pred.0.weight",
    "roi_heads.box_predictor.2.bbox_pred.2.bias": "cascade.stages.2.bbox_pred.2.bias",
}


@pytest.fixture
def load(tmp_path):
    """Gives a detector the weights of a state dict, by a file."""
    return lambda model, state, **options: load_published_detic(model, saved(tmp_path / "detic.pth", state), **options)


def refusal(load, model, state, **options) -> str:
    """The message; the detector is left as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RichSemError) as refused:
        load(model, state, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    return str(refused.value)


def test_every_weight_comes_from_the_file_and_each_from_a_place_of_its_own(load):
    model, state = detector(backbone="resnet50"), detic_state("resnet50")
    text = model.text_features.clone()
    report = load(model, state)
    weights = model.state_dict()
    assert report.missing == ()
    assert set(report.loaded) == weights.keys() - {"text_features"}
    taken = [weights[name].flatten()[0].item() for name in report.loaded]
    assert sorted(taken) == list(range(len(names_and_shapes("resnet50"))))
    for theirs, ours in SAMPLES.items():
        assert torch.equal(weights[ours], state[theirs]), ours
    assert torch.equal(model.text_features, text)


def test_the_report_says_what_was_left_out_and_why(load):
    report = load(detector(), detic_state())
    assert {reason: len(names) for reason, names in report.skipped.items()} == {
        "text embeddings, which are the label set's": 3,
        "pictures a class, which are counted anew": 3,
        "masks": 2,
        "classification head of the backbone": 2,
    }
    assert "2 skipped (masks)" in report.summary()


def test_branches_are_missing_and_left_as_initialised(load):
    model = detector(semantic_branch=True)
    before = {name: model.state_dict()[name].clone() for name in BRANCHES}
    report = load(model, detic_state())
    assert set(report.missing) == BRANCHES
    assert "3 missing, left as initialised" in report.summary()
    for name, weight in before.items():
        assert torch.equal(model.state_dict()[name], weight)


def test_checkpoints_of_ours_come_back_whole(load):
    trained = detector(semantic_branch=True)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += torch.randn_like(parameter)
    model = detector(semantic_branch=True)
    report = load(model, trained.state_dict())
    assert report.missing == ()
    assert report.skipped == {"the vocabulary": ("text_features",)}
    for name, weight in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    without = load(detector(), trained.state_dict())
    assert set(without.skipped["heads that this detector has not"]) == BRANCHES


def test_names_of_wrapped_models_are_unwrapped(load):
    report = load(detector(), {f"module.{name}": tensor for name, tensor in detic_state().items()})
    assert report.missing == ()


def test_half_precision_is_widened(load):
    model = detector()
    load(model, {name: tensor.half() for name, tensor in detic_state().items()})
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values() if weight.is_floating_point())


def test_a_file_without_a_part_or_with_another_one_is_refused(load):
    state = detic_state()
    lacking = {name: tensor for name, tensor in state.items() if ".bbox_tower.9." not in name}
    assert "it lacks centernet.tower.9.bias, centernet.tower.9.weight;" in refusal(load, detector(), lacking)
    more = state | {"proposal_generator.centernet_head.cls_tower.0.weight": torch.ones(2)}
    assert "no place for proposal_generator.centernet_head.cls_tower.0.weight;" in refusal(load, detector(), more)


def test_a_checkpoint_of_the_other_detector_is_refused(load):
    message = refusal(load, detector(), {"transformer.level_embed": torch.ones(4, 8)})
    assert "of another architecture: it lacks backbone.0.body.bn1.bias" in message
    assert "no place for transformer.level_embed" in message
    assert "choose a config of its model.detector" in message


def test_projections_to_text_of_another_width_are_refused_or_left_out(load):
    state = detic_state()
    message = refusal(load, detector(text=20), state)
    assert f"cascade.stages.0.class_proj.weight is (12, {HIDDEN}) instead of (20, {HIDDEN})" in message
    report = load(detector(text=20), state, fresh_heads=True)
    expected = {f"cascade.stages.{stage}.class_proj.{part}" for stage in range(3) for part in ("weight", "bias")}
    assert set(report.missing) == set(report.skipped["projections to other text embeddings"]) == expected
    # Nothing else may be of another width.
    name = "roi_heads.box_head.1.fc2.bias"
    other = state | {name: torch.ones(HIDDEN + 1)}
    assert "cascade.stages.1.fc2.bias is (25,)" in refusal(load, detector(text=20), other, fresh_heads=True)


def test_text_embeddings_of_another_clip_or_order_are_refused(load):
    state, name = detic_state(), "roi_heads.box_predictor.0.cls_score.zs_weight"
    embeddings = state[name]
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(2))
    for other in (noise, embeddings.roll(1, dims=1)):
        message = refusal(load, detector(), state | {name: other})
        assert "other text embeddings than the label set's" in message
        assert "at least 0.5 is expected" in message
    for near in (embeddings + 0.03 * noise, noise[:, :3]):
        # Of other templates, or of other classes, which say nothing.
        assert load(detector(), state | {name: near}).missing == ()
    assert load(detector(), state | {name: noise}, fresh_heads=True).missing == ()


def test_files_that_would_run_code_are_not_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"model": {"weight": Evil()}}, protocol=2))
    with pytest.raises(RichSemError, match="without running its code"):
        load_published_detic(detector(), path)
    assert not (tmp_path / "ran").exists()
