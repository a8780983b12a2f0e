"""Names of the files that pictures are drawn into; what is written is tested with what draws."""

from pathlib import Path

import pytest

from richsem_train.results.gallery import name_outputs


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/etc/passwd", "..", ".jpg", "a\\..\\b.jpg", "x" * 300 + ".jpg", ""]
)
def test_names_never_leave_the_folder(name):
    (output,) = name_outputs([Path(name)])
    assert Path(output).name == output
    assert "\\" not in output
    assert not output.startswith(".")
    assert len(output) <= 130


def test_distinct_names_that_look_like_numbered_copies_stay_apart():
    names = name_outputs([Path("a.jpg"), Path("a-2.jpg"), Path("b/a.jpg")])
    assert len(set(names)) == 3
