"""Folders of labelled pictures as labelling tools write them, from the pictures and boxes of a COCO file."""

import json
import shutil
from pathlib import Path

import hotcoco

FORMATS = ("coco", "yolo", "voc", "cvat", "label-studio")
NAMES = {
    "coco": "COCO JSON",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "cvat": "CVAT XML",
    "label-studio": "Label Studio JSON",
}


def make_folder(kind: str, annotations: Path, pictures: Path, out: Path) -> Path:
    """A folder of a kind; YOLO's, VOC's and CVAT's labels are written by hotcoco."""
    coco = hotcoco.COCO(str(annotations))
    folder = {
        "coco": "images",
        "yolo": "images/all",
        "voc": "JPEGImages",
        "cvat": "images",
        "label-studio": "media",
    }[kind]
    for image in coco.dataset["images"]:
        place = out / folder / image["file_name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(pictures / image["file_name"])
    if kind == "coco":
        (out / "annotations").mkdir()
        shutil.copyfile(annotations, out / "annotations" / "instances.json")
    elif kind == "yolo":
        coco.to_yolo(str(out / "labels" / "all"))
        shutil.move(out / "labels" / "all" / "data.yaml", out / "data.yaml")
    elif kind == "voc":
        coco.to_voc(str(out))
    elif kind == "cvat":
        coco.to_cvat(str(out / "annotations.xml"))
    else:
        (out / "export.json").write_text(json.dumps(label_studio_tasks(coco.dataset)))
    return out


def label_studio_tasks(dataset: dict) -> list[dict]:
    """Tasks as Label Studio's documentation of its JSON export has them; sides in percent."""
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    tasks = []
    for number, image in enumerate(dataset["images"], 1):
        height, width = image["height"], image["width"]
        result = [
            {
                "id": str(annotation["id"]),
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": 100 * annotation["bbox"][0] / width,
                    "y": 100 * annotation["bbox"][1] / height,
                    "width": 100 * annotation["bbox"][2] / width,
                    "height": 100 * annotation["bbox"][3] / height,
                    "rotation": 0,
                    "rectanglelabels": [names[annotation["category_id"]]],
                },
            }
            for annotation in dataset["annotations"]
            if annotation["image_id"] == image["id"]
        ]
        tasks.append(
            {
                "id": number,
                "data": {"image": f"/data/upload/1/{number:08x}-{image['file_name']}"},
                "annotations": [{"id": number, "was_cancelled": False, "result": result}],
            }
        )
    return tasks


def small_coco(source: Path, pictures: int, out: Path) -> Path:
    """A COCO file of the first pictures of another, without crowds and masks, so that all formats can say the same."""
    content = json.loads(source.read_text())
    content["images"] = sorted(content["images"], key=lambda image: image["id"])[:pictures]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [
        {**annotation, "segmentation": []}
        for annotation in content["annotations"]
        if annotation["image_id"] in kept and not annotation["iscrowd"]
    ]
    out.write_text(json.dumps(content))
    return out
