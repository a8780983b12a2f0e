"""A small split in LVIS's format, and caches of its wholes, to be analysed."""

import json

import numpy as np

from richsem_schemas.annotations import read_annotations
from tests.caches import GEOMETRY, WindowsCache
from tests.pictures import jpeg

HW = (48, 64)
PICTURES = 20
FREQUENCIES = {"ant": "r", "bee": "c", "cat": "f", "dog": "f", "unseen": "r"}
NAMES = tuple(FREQUENCIES)
GEOMETRY = GEOMETRY.model_copy(update={"whole_short_side": 40, "whole_longest_side": 66})


def content():
    """0 to 4 boxes a picture, of all categories but the last; every fifth picture has none."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(PICTURES):
        negatives, doubtful = (rng.choice(np.arange(1, 6), 2, replace=False).tolist() for _ in range(2))
        lists = {"neg_category_ids": negatives, "not_exhaustive_category_ids": doubtful}
        images.append({"id": 100 - number, "file_name": f"{number:03d}.jpg", "height": HW[0], "width": HW[1], **lists})
        for _ in range(number % 5):
            x, y, w, h = rng.uniform((0, 0, 4, 4), (30, 30, 34, 34)).round(2).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 100 - number, "category_id": int(rng.integers(1, 5))}
                | {"bbox": [x, y, w, min(h, HW[0] - y)], "area": w * min(h, HW[0] - y), "iscrowd": 0}
            )
    categories = [{"id": n, "name": name, "frequency": FREQUENCIES[name]} for n, name in enumerate(NAMES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_split(folder):
    """val.json and its pictures."""
    (folder / "val.json").write_text(json.dumps(content()))
    for number in range(PICTURES):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg(number, HW))
    return folder


def cache_of(folder, out, **options):
    """A cache of its wholes, two shards of them, with noised copies where they are asked for."""
    data = read_annotations(folder / "val.json", folder)
    return WindowsCache(data, out, **{"windows": 0, "whole": True, "geometry": GEOMETRY, **options}).make()
