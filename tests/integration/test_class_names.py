"""What classes may be called, and what a teacher can't tell apart: in caches, texts and rescored labels."""

import re

import pytest

from richsem_prep.teacher.class_lists import read_vocabulary
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import SourceError
from tests.integration.shard_job import shard
from tests.pictures import jpeg

pytestmark = pytest.mark.usefixtures("small_views")


def classes(root, *names):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").write_bytes(jpeg(number))
    return root


def test_a_class_folder_called_none_is_refused_before_any_work_with_what_to_do(resnet, tmp_path):
    root, out = classes(tmp_path / "data", "cat", "none"), tmp_path / "out"
    expected = f"{root}: a class is called 'none', as row 0 of every vocabulary is; rename it"
    with pytest.raises(SourceError, match=f"^{re.escape(expected)}$"):
        shard(root, out, resnet)
    assert not (out / "plan" / "plan.json").exists()
    (root / "none").rename(root / "nothing")
    shard(root, out, resnet)
    assert open_cache(out).manifest.plan.vocabulary.class_names == ("none", "cat", "nothing")


def test_a_folder_whose_name_can_not_stand_in_a_prompt_is_refused(resnet, tmp_path):
    root = classes(tmp_path / "data", "cat", "a\nb")
    with pytest.raises(SourceError, match=r"'a\\nb' can't name a class; .*: rename it"):
        shard(root, tmp_path / "out", resnet)


def test_text_takes_the_plan_of_every_cache_that_shard_makes(resnet, tmp_path):
    # A joiner is no printable character by itself, and part of this Persian word.
    names = ("None", "می\u200cخواهم", "dog_(small)", "Cat", "cat")
    root, out = classes(tmp_path / "data", *names), tmp_path / "out"
    shard(root, out, resnet)
    found = read_vocabulary(str(out / "plan" / "plan.json"))
    assert found.class_names == ("none", *sorted(names))
    assert found == open_cache(out).manifest.plan.vocabulary


def test_names_that_the_teacher_reads_as_one_are_said_by_shard_text_and_rescore(prep, resnet, tmp_path):
    long = "a word or two " * 20
    (tmp_path / "names.txt").write_text(f"cat\n{long}x\nCAT\ndog\n{long}y\n")
    root, out = classes(tmp_path / "data", "Cat", "cat", "dog"), tmp_path / "out"
    _, said = shard(root, out, resnet)
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "'Cat' = 'cat'. Rename or merge them" in warning
    assert "dog" not in warning
    _, said = shard(root, out, resnet)
    assert warning in said
    code, told = prep(
        "text", "--teacher", resnet, "--names", tmp_path / "names.txt", "--out", tmp_path / "text", "--device", "cpu"
    )
    assert code == 0, told
    assert f"'cat' = 'CAT'; '{long}x' = '{long}y'. Rename" in told
    code, told = prep("rescore", out, "--text", tmp_path / "text", "--label-set", "again")
    assert code == 0, told
    assert "warning: the teacher reads some class names as one, and these classes share" in told
    code, told = prep("rescore", out, "--label-set", "soft", "--temperature", "2")
    assert "'Cat' = 'cat'" in told


def test_names_that_differ_for_the_teacher_are_passed_over_in_silence(resnet, tmp_path):
    _, said = shard(classes(tmp_path / "data", "cat", "dog"), tmp_path / "out", resnet)
    assert not [line for line in said if "warning" in line]


def test_a_small_set_is_cut_into_shards_of_64_and_goes_on_as_its_plan_has_it(pictures, resnet, tmp_path):
    out = tmp_path / "out"
    shard(pictures, out, resnet, samples_per_shard=None, mosaics=0)
    plan = open_cache(out).manifest.plan
    assert (plan.samples, plan.samples_per_shard, plan.shards) == (91, 64, 2)
    shard(pictures, tmp_path / "other", resnet, samples_per_shard=50, mosaics=0, shard_range=(0, 1))
    summary, _ = shard(pictures, tmp_path / "other", resnet, samples_per_shard=None, mosaics=0)
    assert (summary.already, open_cache(tmp_path / "other").manifest.plan.samples_per_shard) == (1, 50)
