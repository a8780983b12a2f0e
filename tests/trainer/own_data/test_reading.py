"""Progress through annotation files, in what has been read of them."""

import json

import pytest
from rich.console import Console

from richsem_train.console import ConsoleReporter
from richsem_train.own_data.formats import read_export
from richsem_train.own_data.listing import list_files
from tests.detection_trees import HW, write
from tests.pictures import jpeg

PADDING = "x" * 6_000_000


class Progress(ConsoleReporter):
    """Keeps what it is told of reading."""

    def __init__(self):
        super().__init__(Console(quiet=True))
        self.total, self.moves = None, []
        self.is_reading = False

    def begin(self, what, total, done=0):
        self.is_reading = what.startswith("reading")
        if self.is_reading:
            self.total = total

    def move(self, done, note=""):
        if self.is_reading:
            self.moves.append(done)


def coco():
    image = {"id": 1, "file_name": "a.jpg", "height": HW[0], "width": HW[1]}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    return json.dumps(
        {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}], "info": PADDING}
    )


def label_studio():
    value = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["cat"]}
    shape = {"type": "rectanglelabels", "value": value, "original_width": HW[1], "original_height": HW[0]}
    return json.dumps([{"id": 1, "annotations": [{"result": [shape]}], "data": {"image": "a.jpg"}, "note": PADDING}])


def cvat():
    box = '<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9" />'
    image = f'<image id="0" name="a.jpg" width="{HW[1]}" height="{HW[0]}">{box}</image>'
    return f"<annotations><meta>{PADDING}</meta>{image}</annotations>"


@pytest.mark.parametrize(("name", "content"), [("a.json", coco), ("a.json", label_studio), ("a.xml", cvat)])
def test_progress_is_told_in_megabytes_up_to_all_of_them(tmp_path, name, content):
    write(tmp_path / "a.jpg", jpeg(0, HW))
    write(tmp_path / name, content())
    progress = Progress()
    export = read_export(list_files(tmp_path, progress), None, progress)
    assert len(export.pictures) == 1
    assert progress.total == 6
    assert len(progress.moves) > 1
    assert progress.moves == sorted(progress.moves)
    assert progress.moves[-1] == 6
