"""Tiny detection datasets in the layouts in which people have the real ones on disk."""

import json
from pathlib import Path

from tests.pictures import jpeg

HW = (48, 64)
BBOX_HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def boxes_of(number: int) -> list[list[float]]:
    """Boxes (xywh) of picture `number`: as many as number modulo 3."""
    return [[2.5 + 3 * number % 7 + 10 * box, 4.25, 12 + box, 20.5] for box in range(number % 3)]


def coco_json(names: list[dict], categories: list[dict]) -> dict:
    """COCO's keys over pictures with the given names, boxes as `boxes_of`, categories in turn."""
    images = [{"id": 100 + n, "height": HW[0], "width": HW[1], **name} for n, name in enumerate(names)]
    annotations = [
        {
            "id": 1000 + 10 * n + k,
            "image_id": 100 + n,
            "category_id": categories[(n + k) % len(categories)]["id"],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [[0.5] * 40],
        }
        for n in range(len(names))
        for k, box in enumerate(boxes_of(n))
    ]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def coco_tree(root: Path, count=8) -> Path:
    """annotations/instances_train2017.json and train2017/; category ids with gaps."""
    names = [f"{n:012d}.jpg" for n in range(count)]
    for n, name in enumerate(names):
        write(root / "train2017" / name, jpeg(n, HW))
    records = [
        {"file_name": name, "coco_url": f"http://images.cocodataset.org/train2017/{name}", "license": 3}
        for name in names
    ]
    categories = [
        {"supercategory": "x", "id": id_, "name": name}
        for id_, name in ((90, "toothbrush"), (1, "person"), (13, "car"))
    ]
    write(root / "annotations" / "instances_train2017.json", json.dumps(coco_json(records, categories)))
    return root


def lvis_tree(root: Path, count=8) -> Path:
    """annotations/lvis_v1_train.json without file names; train2017/ and val2017/ of COCO."""
    urls = [f"http://images.cocodataset.org/{('train2017', 'val2017')[n % 2]}/{n:012d}.jpg" for n in range(count)]
    for n, url in enumerate(urls):
        write(root / "/".join(url.split("/")[-2:]), jpeg(n, HW))
    categories = [
        {"id": id_, "name": name, "synset": f"{name}.n.01", "frequency": frequency, "image_count": 7}
        for id_, name, frequency in ((1, "aerosol_can", "c"), (2, "air_conditioner", "f"), (3, "airplane", "r"))
    ]
    records = [{"coco_url": url, "neg_category_ids": [], "not_exhaustive_category_ids": []} for url in urls]
    write(root / "annotations" / "lvis_v1_train.json", json.dumps(coco_json(records, categories)))
    return root


O365_CATEGORIES = [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}, {"id": 365, "name": "Table Tennis "}]


def objects365_v2_tree(root: Path, count=8) -> Path:
    """annotations/zhiyuan_objv2_train.json whose names begin with images/v1; patches below train/."""
    names = [f"patch{n % 2}/objects365_v{1 + n % 2}_{n:08d}.jpg" for n in range(count)]
    for n, name in enumerate(names):
        write(root / "train" / name, jpeg(n, HW))
    records = [{"file_name": f"images/v{1 + n % 2}/{name}", "url": ""} for n, name in enumerate(names)]
    dataset = coco_json(records, O365_CATEGORIES)
    write(root / "annotations" / "zhiyuan_objv2_train.json", json.dumps(dataset))
    return root


def objects365_v1_tree(root: Path, count=8) -> Path:
    """annotations/objects365_train.json and one folder train/."""
    names = [f"obj365_train_{n:012d}.jpg" for n in range(count)]
    for n, name in enumerate(names):
        write(root / "train" / name, jpeg(n, HW))
    dataset = coco_json([{"file_name": name} for name in names], O365_CATEGORIES)
    write(root / "annotations" / "objects365_train.json", json.dumps(dataset))
    return root


OPENIMAGES_LABELS = (("/m/011k07", "Tortoise"), ("/m/011q46kg", "Container"), ("/m/012074", "Magpie"))


def openimages_id(number: int) -> str:
    return f"{(number * 0x2468ACE13579BDF1) % 2**64:016x}"


def openimages_lines(count=8) -> list[str]:
    """Lines of the CSV of boxes; the boxes of `boxes_of` as fractions."""
    height, width = HW
    return [
        f"{openimages_id(n)},xclick,{OPENIMAGES_LABELS[(n + k) % 3][0]},1,"
        f"{x / width:.6f},{(x + w) / width:.6f},{y / height:.6f},{(y + h) / height:.6f},0,0,0,0,0"
        for n in range(count)
        for k, (x, y, w, h) in enumerate(boxes_of(n))
    ]


def openimages_tree(root: Path, count=8, *, parts=False) -> Path:
    """oidv6-train-annotations-bbox.csv, class descriptions, and train/ or (parts) train_0 .. train_f."""
    for n in range(count):
        image_id = openimages_id(n)
        write(root / (f"train_{image_id[0]}" if parts else "train") / f"{image_id}.jpg", jpeg(n, HW))
    write(root / "oidv6-train-annotations-bbox.csv", "\n".join([BBOX_HEADER, *openimages_lines(count)]) + "\n")
    labels = "".join(f"{label},{name}\n" for label, name in OPENIMAGES_LABELS)
    write(root / "class-descriptions-boxable.csv", labels)
    return root


CHALLENGE_TRAIN, CHALLENGE_VAL = (f"challenge-2019-{split}-detection-bbox.csv" for split in ("train", "validation"))
CHALLENGE_CLASSES = 500


def challenge_tree(root: Path, count=8) -> Path:
    """The files of OpenImages Challenge 2019 as they unpack, V6's beside them; every second box is a group's.

    Written from the documentation of the files. Two labels of the tree of V6 are classes of the challenge, with other
    lines there; train has the even pictures, validation the odd ones.
    """
    openimages_tree(root, count, parts=True)
    names = {label: name for label, name in OPENIMAGES_LABELS if name != "Container"}
    others = {f"/m/0c{number:03d}": f"Class {number}" for number in range(CHALLENGE_CLASSES - len(names))}
    classes = [f"{label},{name}\n" for label, name in (*others.items(), *reversed(names.items()))]
    write(root / "challenge-2019-classes-description-500.csv", "".join(classes))
    write(root / "challenge-2019-classes-description-segmentable.csv", "".join(classes[:300]))
    hierarchy = {"LabelName": "/m/0bl9f", "Subcategory": [{"LabelName": label} for label in names]}
    write(root / "challenge-2019-label500-hierarchy.json", json.dumps(hierarchy))
    for name, first in ((CHALLENGE_TRAIN, 0), (CHALLENGE_VAL, 1)):
        lines, labels = ["ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"], ["ImageID,LabelName,Confidence"]
        for number in range(first, count, 2):
            image_id = openimages_id(number)
            if first:
                write(root / "validation" / f"{image_id}.jpg", jpeg(number, HW))
            labels += [f"{image_id},{label},{number % 3 // 2}" for label in names]
            lines += [
                f"{image_id},{list(names)[k % 2]},0.125,{0.5 + k / 8},0.25,0.75,{k % 2}" for k in range(number % 4 + 1)
            ]
        write(root / name, "\n".join(lines) + "\n")
        write(root / name.replace("bbox", "human-imagelabels"), "\n".join(labels) + "\n")
    return root


def visual_genome_tree(root: Path, count=8, *, boxes_each=24) -> Path:
    """objects.json, image_data.json, VG_100K/ and VG_100K_2/; names in several spellings."""
    folders = [("VG_100K", "VG_100K_2")[n % 2] for n in range(count)]
    for n, folder in enumerate(folders):
        write(root / folder / f"{n + 1}.jpg", jpeg(n, HW))
    spellings = ("Man", "man ", " man.", "window", "Window", "tree")
    pictures = [
        {
            "image_id": n + 1,
            "image_url": "",
            "objects": [
                {"object_id": 1000 * n + k, "x": k % 40, "y": 3, "w": 10 + k, "h": 20, "synsets": ["x.n.01"]}
                | {"names": [spellings[k % 6], "other"]}
                for k in range(boxes_each)
            ]
            + [{"object_id": 1000 * n + 999, "x": 1, "y": 1, "w": 5, "h": 5, "names": [f"rare thing {n}"]}],
        }
        for n in range(count)
    ]
    url = "https://cs.stanford.edu/people/rak248/{}/{}.jpg"
    data = [
        {"image_id": n + 1, "width": HW[1], "height": HW[0], "url": url.format(folder, n + 1), "coco_id": None}
        for n, folder in enumerate(folders)
    ]
    write(root / "objects.json", json.dumps(pictures))
    write(root / "image_data.json", json.dumps(data))
    return root
