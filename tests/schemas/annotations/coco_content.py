"""Annotation files in COCO's layout, whole and broken, as small as they may be."""

import json

from richsem_schemas.annotations import read_annotations


def image(image_id=1, **changes):
    record = {"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 60}
    return {key: value for key, value in (record | changes).items() if value is not None}


def annotation(annotation_id=1, **changes):
    record = {"id": annotation_id, "image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 20.0, 20.0], "area": 400.0}
    return {key: value for key, value in (record | changes).items() if value is not None}


def category(category_id=1, name="cat", **changes):
    return {"id": category_id, "name": name} | changes


def content(images=None, annotations=None, categories=None):
    return {
        "images": [image()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": [category()] if categories is None else categories,
    }


def written(folder, dataset):
    path = folder / "annotations.json"
    path.write_text(dataset if isinstance(dataset, str) else json.dumps(dataset))
    return path


def read(root, dataset, file_format="coco"):
    return read_annotations(written(root.parent, dataset), root, file_format=file_format)


BROKEN = {
    "not JSON": ("{", "not a JSON file"),
    "empty": ("", "not a JSON file"),
    "deep": ("[" * 100_000, "not a JSON file"),
    "a list": ([], "is a list"),
    "no images": ({"annotations": [], "categories": []}, "images"),
    "images of a wrong type": ({"images": {}, "annotations": [], "categories": []}, "`images` is no list"),
    "empty images": (content(images=[]), "lists no pictures"),
    "no categories": (content(annotations=[], categories=[]), "lists no categories"),
    "a picture without id": (content([image(None)]), "id"),
    "a picture twice": (content([image(), image()]), "image id 1 stands there more than once"),
    "a picture without height": (content([image(height=None)]), "`height` of images\\[0\\] must be an integer"),
    "a flat picture": (content([image(height=0)]), "height 0"),
    "an enormous picture": (content([image(width=2**40)]), "width 1099511627776"),
    "an id as text": (content([image("1"), image(2)]), "`id` of images\\[0\\] must be an integer; it is '1'"),
    "a huge id": (content([image(10**30)]), "`id` of images\\[0\\] must be an integer"),
    "a box of three": (
        content(annotations=[annotation(), annotation(2, bbox=[1, 2, 3])]),
        "`bbox` of annotations\\[1\\]",
    ),
    "a box of text": (content(annotations=[annotation(bbox=["1", "2", "3", "4"])]), "must be a list of 4 numbers"),
    "a box of null": (content(annotations=[annotation(bbox=[1, 2, None, 4])]), "must be a list of 4 numbers"),
    "no box": (content(annotations=[annotation(bbox=None)]), "it is none"),
    "a wrong crowd flag": (content(annotations=[annotation(iscrowd="no")]), "`iscrowd` .* must be a number"),
    "a box of no picture": (content(annotations=[annotation(image_id=5)]), "1 annotations .* image_id 5"),
    "no image_id": (content(annotations=[annotation(image_id=None)]), "image_id"),
    "a record that is none": (content(annotations=[3]), "annotations\\[0\\] is of type int"),
    "unknown categories": (
        content(annotations=[annotation(n, category_id=n) for n in (1, 5, 9)]),
        "2 categories that `categories` doesn't list: 5, 9",
    ),
    "a negative category": (content(categories=[category(-1), category()]), "category id -1; ids are from 0"),
    "an enormous category": (content(categories=[category(10**9), category()]), "category id 1000000000"),
    "a category twice": (content(categories=[category(), category()]), "category id 1 stands there more than once"),
    "a nameless category": (content(categories=[{"id": 1}]), "categories\\[0\\] has the name None"),
    "a wrong frequency": (content(categories=[category(frequency="often")]), "frequency 'often'"),
}
