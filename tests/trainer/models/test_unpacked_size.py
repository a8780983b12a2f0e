"""Checkpoints that would unpack to far more than they are: refused before anything is unpacked."""

import zipfile

import pytest
import torch

from richsem_schemas.errors import RichSemError
from richsem_train.models import unpacked_size
from richsem_train.models.backbone_weights import read_state
from richsem_train.run.checkpoint import load_checkpoint


def packed_again(path, value, *, name="data.pkl", pickle_tail=b""):
    """What `torch.save` wrote, deflated, with bytes behind the end of its pickle."""
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            is_pickle = entry.endswith("data.pkl")
            archive.writestr(entry.replace("data.pkl", name), content + pickle_tail * is_pickle)
    return path


@pytest.fixture
def unread(monkeypatch):
    def load(*_, **__):
        raise AssertionError("the file was unpacked")

    monkeypatch.setattr(torch, "load", load)


@pytest.mark.parametrize("read", [load_checkpoint, read_state])
def test_a_pickle_of_many_megabytes_is_refused_unread(tmp_path, unread, read):
    path = packed_again(tmp_path / "a.pt", {"w": torch.randn(10**6)}, pickle_tail=bytes(9 * 2**20))
    with pytest.raises(RichSemError, match=r"data.pkl' unpacks to 9,[\d,]+ bytes, and at most 8,388,608") as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "take another copy" in str(caught.value)


def test_the_case_of_its_name_makes_no_difference(tmp_path, unread):
    path = packed_again(tmp_path / "a.pt", {"w": torch.randn(10**6)}, name="DATA.PKL", pickle_tail=bytes(9 * 2**20))
    with pytest.raises(RichSemError, match=r"DATA.PKL' unpacks to"):
        read_state(path)


@pytest.mark.parametrize("read", [load_checkpoint, read_state])
def test_weights_packed_to_a_thousandth_are_refused_unread(tmp_path, unread, read):
    path = packed_again(tmp_path / "a.pt", {"w": torch.zeros(10**6)})
    with pytest.raises(RichSemError, match=r"unpacks to 4,00\d,\d+ bytes, over 20 times its"):
        read(path)


def test_weights_that_were_packed_again_are_read(tmp_path):
    weights = torch.randn(10_000)
    path = packed_again(tmp_path / "a.pt", {"w": weights, "bias": torch.zeros(10_000)})
    assert torch.equal(read_state(path)["w"], weights)


def test_the_legacy_format_is_left_to_torch(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"w": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    unpacked_size.require_plausible_size(path)
    assert read_state(path)["w"].tolist() == [0, 1, 2]
