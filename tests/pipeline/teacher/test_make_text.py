import numpy as np
import pytest
import torch

from richsem_prep.teacher.make_text import make_text
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.text_folder import read_text_folder
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_schemas.io.places import open_place
from tests.pipeline.teachers import RESNET, save_random_clip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_random_clip(tmp_path_factory.mktemp("teachers") / "resnet", RESNET)


@pytest.fixture(autouse=True)
def _own_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(teacher, tmp_path, **changes):
    names = tmp_path / "names.txt"
    names.write_text("cat\nbow_(tie)\n")
    templates = tmp_path / "templates.txt"
    templates.write_text("a {}.\nmy {}\n")
    options = {"names": str(names), "templates": str(templates), "policy": "clean", "out": tmp_path / "text"}
    return make_text(teacher, **(options | changes), device="cpu", on_progress=lambda done, total: None)


def test_features_are_the_means_of_open_clips_encodings_of_the_prompts(teacher, tmp_path):
    make(teacher, tmp_path)
    found = read_text_folder(tmp_path / "text")
    loaded = load_teacher(parse_teacher(teacher), device=torch.device("cpu"))
    prompts = [["none"], ["a cat.", "my cat"], ["a bow tie.", "my bow tie"]]
    with torch.inference_mode():
        expected = [loaded.model.encode_text(loaded.tokenizer(row)).mean(dim=0).numpy() for row in prompts]
    np.testing.assert_allclose(found.bank.features, np.stack(expected), rtol=1e-4, atol=1e-6)
    assert found.bank.class_names == ("none", "cat", "bow_(tie)")
    assert found.bank.prompted_names == ("none", "cat", "bow tie")
    assert found.teacher == loaded.identity
    assert (found.vocabulary, found.names) == ("names.txt", "clean")


def test_the_same_text_again_is_found_and_another_is_refused_by_field(teacher, tmp_path):
    make(teacher, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()}
    make(teacher, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "text").iterdir()} == before
    with pytest.raises(ManifestMismatchError, match="templates differ"):
        make(teacher, tmp_path, templates="name-only")
    with pytest.raises(ManifestMismatchError, match="vocabulary, class_names"):
        make(teacher, tmp_path, names="coco", templates="name-only")


def test_text_lies_at_urls_as_well(teacher, tmp_path):
    place = open_place(f"memory://{tmp_path.name}/text")
    make(teacher, tmp_path, out=place)
    make(teacher, tmp_path)
    assert (place / "text.json").read_bytes() == (tmp_path / "text" / "text.json").read_bytes()
    assert read_text_folder(place).bank.class_names == ("none", "cat", "bow_(tie)")


def test_a_folder_of_other_things_or_a_file_is_refused(teacher, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "thesis.tex").touch()
    with pytest.raises(RichSemError, match=r"thesis\.tex"):
        make(teacher, tmp_path)
    with pytest.raises(RichSemError, match="no folder"):
        make(teacher, tmp_path, out=tmp_path / "text" / "thesis.tex")
