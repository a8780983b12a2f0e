"""The GPU of a Mac, pretended: what a step and a detection ask of it is what PyTorch's own table says that it has.

No Mac is at hand: these tests know which operators, types and copies there are, and nothing of their numbers.
"""

from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._pytree import tree_leaves

from richsem_schemas.errors import RichSemError
from richsem_train import devices
from richsem_train.config import CenternetCascadeConfig, DinoConfig, LossConfig
from richsem_train.results.inference import BatchDetector
from richsem_train.run.detectors.dino import attention_backend
from richsem_train.run.distributed import Ranks, choose_device
from richsem_train.run.optimiser import make_optimiser, step_if_finite
from richsem_train.targets import converted
from tests.trainer import pretended_device as pretence
from tests.trainer.pretended_device import DEVICE, OnDevice, pretended_device
from tests.trainer.steps import CLASSES, make_batch, make_trainer
from tests.trainer.tiny import TWO_STAGE, VALUES

MODELS = {
    "dino": DinoConfig.model_validate(VALUES["model"]),
    "centernet-cascade": CenternetCascadeConfig.model_validate(TWO_STAGE["model"]),
}
CLIPPING = {"dino": {"clip_norm": 0.1}, "centernet-cascade": {"clip_norm": None, "clip_value": 1.0}}
MPS = torch.device("mps")
TORCHVISIONS = {"torchvision::roi_align", "torchvision::_roi_align_backward"}
"""Which torchvision has kernels for MPS of; suppression comes to the host here, for the sake of float64."""


@pytest.fixture
def mps(monkeypatch):
    """The pretended device is a Mac's, and its operators, types and copies are written down."""
    monkeypatch.setattr(devices, "is_mps", lambda device: device.type in (DEVICE.type, "mps"))
    # Not in a PyTorch for another system.
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: True)
    asked: dict[str, set[str]] = {"operators": set(), "float64": set(), "late copies": set()}
    dispatch = pretence.PretendedDevice.__torch_dispatch__

    def write_down(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        out = dispatch(self, func, types, args, kwargs)
        placed = [each for each in tree_leaves((args, given, out)) if isinstance(each, OnDevice)]
        if placed:
            asked["operators"].add(f"{func._schema.name}.{func._schema.overload_name}".rstrip("."))
        if any(each.dtype == torch.float64 for each in placed):
            asked["float64"].add(f"{func} at {pretence._line()}")
        if func.overloadpacket in pretence._COPIES and placed:
            is_late = given.get("non_blocking") or (func.overloadpacket is torch.ops.aten.copy_ and any(args[2:]))
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            target = args[0] if func.overloadpacket is torch.ops.aten.copy_ else out
            if is_late and isinstance(source, OnDevice) != isinstance(target, OnDevice):
                asked["late copies"].add(pretence._line())
        return out

    monkeypatch.setattr(pretence.PretendedDevice, "__torch_dispatch__", write_down)
    return asked


def batch_of(pictures):
    def narrowed(values):
        return values.float() if values.is_floating_point() else values

    batch = make_batch(range(pictures), objects=2)
    return replace(batch, targets=tuple(converted(target, narrowed) for target in batch.targets))


def trainer_on_mps(detector):
    return make_trainer(
        Ranks(0, 1, DEVICE),
        model=MODELS[detector],
        loss=LossConfig(federated=3),
        dtype=torch.float32,
        ema=0.9,
        **CLIPPING[detector],
    )


@cache
def kernels():
    """The keys that each operator of PyTorch has kernels for, by its table; empty where others make it up."""
    table = resources.files("torchgen") / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = {entry["func"].partition("(")[0]: entry for entry in yaml.safe_load(table.read_text())}

    def keys(entry):
        entry = entries.get(entry.get("structured_delegate"), entry)
        return {key.strip() for names in entry.get("dispatch", {}) for key in names.split(",")}

    return {name: keys(entry) for name, entry in entries.items()}


def lacks_kernel(operator):
    found = kernels()[operator.removeprefix("aten::")]
    return bool(found) and "MPS" not in found and not any(key.startswith("Composite") for key in found)


def check(asked):
    assert len(asked["operators"]) > 50
    operators = asked["operators"] - TORCHVISIONS
    assert {each for each in operators if not each.startswith("aten::")} == set()
    assert {each for each in operators if lacks_kernel(each)} == set()
    assert asked["float64"] == set()
    assert asked["late copies"] == set()


def test_the_table_knows_what_mps_has_and_has_not():
    assert not lacks_kernel("aten::convolution_backward")
    assert not lacks_kernel("aten::grid_sampler_2d")
    assert lacks_kernel("aten::_thnn_fused_lstm_cell")


@pytest.mark.parametrize("detector", MODELS)
def test_a_step_asks_for_nothing_that_mps_has_not(mps, detector):
    batch = batch_of(4)
    with pretended_device():
        found = trainer_on_mps(detector).step(0, 0, batch)
    check(mps)
    wanted = make_trainer(
        model=MODELS[detector], loss=LossConfig(federated=3), dtype=torch.float32, **CLIPPING[detector]
    )
    assert found.loss == pytest.approx(wanted.step(0, 0, batch).loss, rel=1e-4)


@pytest.mark.parametrize("detector", MODELS)
def test_a_detection_asks_for_nothing_that_mps_has_not(mps, detector):
    names = tuple("" if row == 0 else f"class {row}" for row in range(CLASSES))
    with pretended_device():
        learner = trainer_on_mps(detector).learner
        found = BatchDetector(
            learner.detector.eval(), learner.normalise, "fp32", names, keep=10, short_side=64, longest_side=64
        )
        mps["operators"].clear()
        with torch.inference_mode(False), torch.no_grad():
            (one, *_) = BatchDetector.detect.__wrapped__(found, batch_of(2))
    check(mps)
    assert 0 < len(one) <= 10


def test_a_step_that_is_not_finite_changes_nothing_there(mps):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    with pretended_device():
        model.to(DEVICE)
        optimiser = make_optimiser(model, lr=0.1, backbone_lr=0.1, weight_decay=0.1)
        assert not optimiser.defaults["fused"]
        before = model.weight.detach().cpu()
        for norm, is_same in ((torch.nan, True), (1.0, False)):
            for each in model.parameters():
                each.grad = torch.ones_like(each)
            step_if_finite(optimiser, torch.tensor(norm).to(DEVICE))
            assert torch.equal(model.weight.detach().cpu(), before) is is_same


# Which device.


@pytest.fixture
def machine(monkeypatch):
    def has(*, cuda=False, mps=False, built=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.backends.mps, "is_built", lambda: built)

    return has


def test_cuda_comes_before_mps_and_mps_before_the_cpu(machine):
    machine(cuda=True, mps=True)
    assert choose_device(None).type == "cuda"
    machine(mps=True)
    assert choose_device(None) == choose_device("mps") == choose_device("mps:0") == torch.device("mps", 0)
    assert choose_device("cpu").type == "cpu"
    machine()
    assert choose_device(None).type == "cpu"


@pytest.mark.parametrize(("built", "why"), [(True, "there is no Mac's GPU"), (False, "was built without it")])
def test_mps_that_is_not_there_is_refused(machine, built, why):
    machine(built=built)
    with pytest.raises(RichSemError, match=rf"--device mps is asked for, and .*{why}; use --device cpu"):
        choose_device("mps")


def test_several_processes_do_not_share_mps(machine):
    machine(mps=True)
    assert choose_device(None, alone=False).type == "cpu"
    with pytest.raises(RichSemError, match="is one device, for one process; start it without torchrun"):
        choose_device("mps", alone=False)


def test_the_torch_backend_samples_there_and_triton_does_not():
    model = MODELS["dino"]
    assert attention_backend(model.model_copy(update={"deformable_attention": "auto"}), MPS) == "torch"
    with pytest.raises(RichSemError, match="runs on CUDA devices, not on 'mps'"):
        attention_backend(model.model_copy(update={"deformable_attention": "triton"}), MPS)


def test_a_pytorch_that_cannot_train_there_is_told(mps, monkeypatch):
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: False)
    with (
        pytest.raises(RichSemError, match=r"no backward pass of grid_sample on 'meta'.*install a newer PyTorch"),
        pretended_device(),
    ):
        trainer_on_mps("dino")


def test_float64_is_made_on_the_host():
    values = torch.tensor([0.1, 0.2])
    assert devices.in_float64(values).dtype == torch.float64
    assert isinstance(devices.in_float64(values), Tensor)
