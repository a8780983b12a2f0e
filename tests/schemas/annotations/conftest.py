import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "pictures"
    for name in ("1.png", "2.png", "train2017/1.png", "val2017/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder / name)
    return folder
