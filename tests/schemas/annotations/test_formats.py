"""OpenImages, Visual Genome and Objects365 as they lie on disk, whole and damaged."""

import contextlib
import json
import subprocess

import numpy as np
import pytest

from richsem_schemas.annotations import read_annotations, visual_genome_file
from richsem_schemas.annotations.visual_genome_file import normalised_name
from richsem_schemas.errors import SourceError
from tests import detection_trees as trees

HEADER = trees.BBOX_HEADER


def read_openimages(root, **options):
    return read_annotations(root / "oidv6-train-annotations-bbox.csv", root, file_format="openimages", **options)


def read_visual_genome(root, **options):
    return read_annotations(root / "objects.json", root, file_format="visual-genome", **options)


def replace_lines(root, change):
    path = root / "oidv6-train-annotations-bbox.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return root


@pytest.mark.parametrize("parts", [False, True])
def test_openimages_boxes_are_fractions_of_pictures_found_by_id(tmp_path, parts):
    root = trees.openimages_tree(tmp_path, parts=parts)
    data = read_openimages(root)
    assert data.are_relative
    # Pictures without boxes have no line, and so are unknown.
    assert len(data) == 5
    assert all((root / name).is_file() for name in data.files)
    assert data.hws_px.tolist() == [[1, 1]] * 5
    numbers = [n for n in range(8) if n % 3]
    for index, number in enumerate(numbers):
        assert data.files[index].endswith(trees.openimages_id(number) + ".jpg")
        x, y, w, h = np.transpose(trees.boxes_of(number))
        expected = np.stack([x, y, x + w, y + h], axis=1) / [64, 48, 64, 48]
        np.testing.assert_allclose(data.boxes_xyxy(index), expected, atol=1e-6)
        assert data.objects(index)[1].tolist() == [(number + k) % 3 + 1 for k in range(number % 3)]
    assert [(c.id, c.name) for c in data.categories] == [(1, "Tortoise"), (2, "Container"), (3, "Magpie")]
    assert data.problem_lines() == []


def test_columns_of_openimages_go_by_name_and_a_challenge_has_fewer(tmp_path):
    root = trees.openimages_tree(tmp_path)
    path = root / "challenge-2019-train-detection-bbox.csv"
    lines = ["ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"]
    lines += [f"{trees.openimages_id(n)},/m/012074,0.25,0.75,0.5,1,{n % 2}" for n in range(4)]
    path.write_text("\n".join(lines))
    data = read_annotations(path, root, file_format="openimages")
    assert [data.boxes_xyxy(n).tolist() for n in range(4)] == [
        [[0.25, 0.5, 0.75, 1.0]],
        [],
        [[0.25, 0.5, 0.75, 1.0]],
        [],
    ]
    assert data.problem_lines() == ["2 crowd regions left out"]


def read_challenge(root, name=trees.CHALLENGE_TRAIN, **options):
    return read_annotations(root / name, root, file_format="openimages", **options)


def test_a_challenge_has_its_own_500_classes_with_v6s_beside_them(tmp_path):
    root = trees.challenge_tree(tmp_path)
    train, val = read_challenge(root), read_challenge(root, trees.CHALLENGE_VAL)
    for data in (train, val):
        assert [category.id for category in data.categories] == list(range(1, 501))
        assert [category.name for category in data.categories[-2:]] == ["Magpie", "Tortoise"]
        assert set(data.category_ids.tolist()) == {500}
        assert all((root / name).is_file() for name in data.files)
    assert (len(train), len(val)) == (4, 4)
    assert all(name.startswith("train_") for name in train.files)
    assert all(name.startswith("validation/") for name in val.files)
    assert [category.name for category in read_openimages(root).categories] == ["Tortoise", "Container", "Magpie"]


@pytest.mark.parametrize("place", ["metadata", "../annotations"])
def test_a_challenges_classes_are_looked_for_further_than_v6s(tmp_path, place):
    root = trees.challenge_tree(tmp_path / "openimages")
    (root / place).mkdir()
    (root / "challenge-2019-classes-description-500.csv").rename(
        root / place / "challenge-2019-classes-description-500.csv"
    )
    assert len(read_challenge(root).categories) == 500


def test_without_its_own_list_a_challenge_is_read_by_v6s(tmp_path):
    root = trees.challenge_tree(tmp_path)
    for path in root.glob("challenge-2019-classes-description-*"):
        path.unlink()
    assert [category.name for category in read_challenge(root).categories] == ["Tortoise", "Container", "Magpie"]


def test_image_level_labels_are_no_boxes(tmp_path):
    root = trees.challenge_tree(tmp_path)
    with pytest.raises(SourceError, match="has no column XMin, XMax, YMin, YMax"):
        read_challenge(root, "challenge-2019-train-detection-human-imagelabels.csv")


def test_groups_are_no_objects_to_learn_and_are_ignored_where_they_are_scored(tmp_path):
    root = trees.challenge_tree(tmp_path)
    learnt, scored = (read_challenge(root, trees.CHALLENGE_VAL, is_scored=value) for value in (False, True))
    # Pictures 1, 3, 5, 7 have 2, 4, 2, 4 boxes, every second of them a group.
    assert np.diff(learnt.offsets).tolist() == np.diff(scored.offsets).tolist() == [1, 2, 1, 2]
    assert learnt.problem_lines() == ["6 crowd regions left out"]
    assert scored.problem_lines() == ["6 crowd regions, which are ignored"]
    boxes = scored.scored.boxes
    assert np.bincount(boxes.image_index[boxes.is_crowd]).tolist() == [1, 2, 1, 2]
    assert np.bincount(boxes.image_index[~boxes.is_crowd]).tolist() == [1, 2, 1, 2]
    assert set(boxes.category_ids[boxes.is_crowd].tolist()) == {499}
    np.testing.assert_allclose(boxes.boxes_xywh[boxes.is_crowd][0], [0.125, 0.25, 0.5, 0.5])


def test_without_its_last_column_a_challenges_groups_are_objects(tmp_path):
    """As the documentation has it done, for who takes them as the reference's files seem to."""
    root = trees.challenge_tree(tmp_path)
    cut = root / "challenge-2019-validation-groups-are-objects.csv"
    with cut.open("wb") as file:
        subprocess.run(["cut", "-d,", "-f1-6", root / trees.CHALLENGE_VAL], stdout=file, check=True)
    data = read_challenge(root, cut.name)
    assert np.diff(data.offsets).tolist() == [2, 4, 2, 4]
    assert set(data.category_ids.tolist()) == {499, 500}
    assert len(data.categories) == 500
    assert data.problem_lines() == []


def test_broken_lines_of_openimages_are_left_out_and_counted(tmp_path):
    root = trees.openimages_tree(tmp_path)
    whole = read_openimages(root)
    image_id = trees.openimages_id(1)
    replace_lines(
        root,
        lambda lines: [
            *lines[:3],
            "",
            f"{image_id},xclick,/m/012074,1,0.1",
            f"{image_id},xclick,/m/012074,1,zero,0.2,0.3,0.4,0,0,0,0,0",
            f'{image_id},"xcl,ick,/m/012074,1,0.1,0.2,0.3,0.4,0,0,0,0,0',
            *lines[3:],
            f"{image_id},xclick,/m/nobody,1,0.1,0.2,0.3,0.4,0,0,0,0,0",
            f"{image_id},xclick,/m/012074,1,1.2,1.4,0.3,0.4,0,0,0,0,0",
            f"{image_id},xclick,/m/012074,1,0.4,0.3,0.3,0.4,0,0,0,0,0",
            f"{image_id},xclick,/m/012074,1,-0.4,0.3,0.3,0.4,0,0,0,0,0",
            f"{image_id},xclick,/m/0120",
        ],
    )
    data = read_openimages(root)
    assert len(data.category_ids) == len(whole.category_ids) + 1
    assert data.problem_lines() == [
        "4 broken lines left out",
        "1 boxes of labels that class-descriptions-boxable.csv doesn't list left out (/m/nobody)",
        "1 boxes of zero or negative size left out",
        "1 boxes outside of their picture left out",
        "1 boxes clipped by more than a thousandth of a side",
    ]


def test_a_csv_cut_anywhere_reads_what_is_whole_or_says_what_is_wrong(tmp_path):
    root = trees.openimages_tree(tmp_path)
    path = root / "oidv6-train-annotations-bbox.csv"
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with contextlib.suppress(SourceError):
            assert len(read_openimages(root).category_ids) <= 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column ImageID, LabelName"),
        (b"\x1f\x8b\x08" + bytes(100), "unpacked"),
        (b"ImageID,LabelName,XMin,XMax,YMin\n1,/m/012074,0,1,0\n", "has no column YMax"),
        (HEADER.encode() + b"\n", "no usable line"),
        (HEADER.encode() + b"\n1,x,/m/nobody,1,0,1,0,1,0,0,0,0,0\n", "no label is in .*it has /m/nobody"),
        (HEADER.encode() + b"\n../../x,x,/m/012074,1,0,1,0,1,0,0,0,0,0\n", "stays in the folder"),
        (HEADER.encode() + b"\nabsent,x,/m/012074,1,0,1,0,1,0,0,0,0,0\n", "not below .*train/absent.jpg"),
    ],
)
def test_a_csv_that_is_none_of_openimages_is_one_clear_error(tmp_path, content, message):
    root = trees.openimages_tree(tmp_path)
    (root / "oidv6-train-annotations-bbox.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read_openimages(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the names of its labels are missing"),
        ("", "lists no classes"),
        ("/m/011k07,Tortoise\n/m/011q46kg", "line 2 is not `label,name`"),
        ("/m/011k07,Tortoise\n/m/011k07,Turtle\n", "line 2 names the label /m/011k07 again"),
    ],
)
def test_class_descriptions_that_cannot_be_used_are_one_clear_error(tmp_path, content, message):
    root = trees.openimages_tree(tmp_path)
    path = root / "class-descriptions-boxable.csv"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SourceError, match=message):
        read_openimages(root)


def test_class_descriptions_of_v7_have_a_header(tmp_path):
    root = trees.openimages_tree(tmp_path)
    old = root / "class-descriptions-boxable.csv"
    (root / "metadata").mkdir()
    (root / "metadata" / "oidv7-class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n" + old.read_text())
    old.unlink()
    assert read_openimages(root).categories[0].name == "Tortoise"


def test_visual_genome_counts_names_in_one_spelling_and_leaves_rare_ones_out(tmp_path):
    root = trees.visual_genome_tree(tmp_path)
    data = read_visual_genome(root)
    # 8 pictures of 24 boxes: 12 of `man`, 8 of `window`, and 4 of `tree`, which are too few.
    assert [(c.id, c.name) for c in data.categories] == [(1, "man"), (2, "window")]
    assert data.files[:2] == ("VG_100K/1.jpg", "VG_100K_2/2.jpg")
    assert data.objects(0)[1].tolist() == [1, 1, 1, 2, 2] * 4
    assert data.objects(3)[0][:2].tolist() == [[0, 3, 10, 20], [1, 3, 11, 20]]
    assert data.problem_lines() == ["40 boxes of names on fewer than 50 boxes left out"]


def test_another_part_of_visual_genome_takes_the_names_it_is_given(tmp_path):
    root = trees.visual_genome_tree(tmp_path)
    data = read_visual_genome(root, class_names=["tree", "zebra"])
    assert [(c.id, c.name, c.image_count) for c in data.categories] == [(1, "tree", 8), (2, "zebra", 0)]
    assert set(data.category_ids.tolist()) == {1}
    assert data.problem_lines() == ["168 boxes of names outside of the vocabulary left out"]


def test_names_are_normalised():
    spellings = {" Man.": "man", "red_car": "red car", "ＴＶ": "tv", "traffic\n light": "traffic light", '"!"': ""}
    assert {name: normalised_name(name) for name in spellings} == spellings


def vg_objects(*objects):
    return [{"image_id": 1, "objects": list(objects)}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a JSON file"),
        ("{}", None),
        ('{"a": [1]}', "one list of pictures"),
        ([], "lists no pictures"),
        ([3], "pictures\\[0\\] is of type int"),
        ([{"image_id": 1}], "pictures\\[0\\] has the `objects` None"),
        ([{"objects": []}], "`image_id` of pictures\\[0\\]"),
        (vg_objects(3), "the objects\\[0\\] is of type int"),
        (vg_objects({"x": "1", "y": 1, "w": 1, "h": 1, "names": ["man"]}), "`x` of the objects\\[0\\]"),
        (vg_objects({"x": 1, "y": 1, "w": 1, "h": 1, "names": ["man"]}), "none of its 1 names"),
        (vg_objects() * 2, "image id 1 stands there more than once"),
    ],
)
def test_an_objects_file_that_is_none_is_one_clear_error(tmp_path, content, message):
    root = trees.visual_genome_tree(tmp_path)
    (root / "objects.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SourceError, match=message):
        read_visual_genome(root)


def test_objects_without_numbers_or_names_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(visual_genome_file, "MIN_NAME_BOXES", 1)
    root = trees.visual_genome_tree(tmp_path)
    box = {"x": 1, "y": 1, "w": 5, "h": 5, "names": ["man"]}
    objects = vg_objects(box, {**box, "names": []}, {**box, "names": [3]}, {"x": 1, "names": ["man"]}, {**box, "w": 0})
    (root / "objects.json").write_text(json.dumps(objects))
    data = read_visual_genome(root)
    assert len(data.category_ids) == 1
    assert data.problem_lines() == [
        "2 boxes without a name left out",
        "1 boxes with NaN or infinite numbers left out",
        "1 boxes of zero or negative size left out",
    ]


def test_pictures_without_data_are_named(tmp_path):
    root = trees.visual_genome_tree(tmp_path)
    data = json.loads((root / "image_data.json").read_text())
    (root / "image_data.json").write_text(json.dumps(data[:5]))
    with pytest.raises(SourceError, match=r"3 of its pictures are not in .*image_data\.json; the first is 6"):
        read_visual_genome(root)
    (root / "image_data.json").unlink()
    with pytest.raises(SourceError, match=r"image_data\.json: can't be read"):
        read_visual_genome(root)


@pytest.mark.parametrize("tree", [trees.objects365_v1_tree, trees.objects365_v2_tree])
def test_objects365_pictures_are_found_in_their_patches_or_in_one_folder(tmp_path, tree):
    root = tree(tmp_path)
    (path,) = (root / "annotations").iterdir()
    data = read_annotations(path, root / "train", file_format="objects365")
    assert len(data) == 8
    assert all((root / "train" / name).is_file() for name in data.files)
    assert [c.name for c in data.categories] == ["Person", "Sneakers", "Table Tennis "]


def test_some_missing_pictures_are_allowed_where_it_is_said(tmp_path):
    root = trees.objects365_v2_tree(tmp_path)
    path = root / "annotations" / "zhiyuan_objv2_train.json"
    (root / "train" / "patch0" / "objects365_v1_00000000.jpg").unlink()
    with pytest.raises(SourceError, match="objects365_v1_00000000"):
        read_annotations(path, root / "train", file_format="objects365")
    data = read_annotations(path, root / "train", file_format="objects365", may_miss=True)
    assert data.files[:2] == ("patch0/objects365_v1_00000000.jpg", "patch1/objects365_v2_00000001.jpg")
    with pytest.raises(SourceError, match="are not below"):
        read_annotations(path, root / "annotations", file_format="objects365", may_miss=True)


def test_an_annotation_given_twice_counts_once_and_another_under_its_id_stays(tmp_path):
    root = trees.coco_tree(tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    dataset = json.loads(path.read_text())
    first = dataset["annotations"][0]
    dataset["annotations"] += [first, {**first, "bbox": [1, 1, 5, 5]}]
    path.write_text(json.dumps(dataset))
    data = read_annotations(path, root / "train2017", file_format="coco")
    assert len(data.category_ids) == len(dataset["annotations"]) - 1
    assert data.problem_lines() == ["1 annotations given twice under one id left out"]


def lines_of_openimages(root, ending, *lines):
    (root / "oidv6-train-annotations-bbox.csv").write_bytes(ending.join(lines))
    return read_openimages(root)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_group_boxes_are_left_out_whatever_ends_lines(tmp_path, ending):
    root = trees.openimages_tree(tmp_path)
    image_id = trees.openimages_id(1).encode()
    header = b"ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"
    group, single = (image_id + b",/m/012074,0.1,0.2,0.3,0.4," + flag for flag in (b"1", b"0"))
    data = lines_of_openimages(root, ending, header, group, single)
    assert data.problem_lines() == ["1 crowd regions left out"]
    assert len(data.category_ids) == 1


def test_a_carriage_return_within_a_field_breaks_its_line_only(tmp_path):
    root = trees.openimages_tree(tmp_path)
    image_id = trees.openimages_id(1).encode()
    header = b"ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"
    good = image_id + b",/m/012074,0.1,0.2,0.3,0.4,0"
    data = lines_of_openimages(root, b"\n", header, good, good.replace(b"0.2,", b"0.\r2,"))
    assert data.problem_lines() == ["2 broken lines left out"]
    assert len(data.category_ids) == 1
    with pytest.raises(SourceError, match="has no column LabelName"):
        lines_of_openimages(root, b"\n", header.replace(b"Label", b"Lab\rel"), good)


@pytest.mark.parametrize("ending", [b"\n", b"\r"])
@pytest.mark.parametrize("bad", [b"a,\xb8", b"a,\xb8" + b"\xff" * 100_000, b"\xed\xa0\x80"])
def test_a_short_line_that_is_not_utf8_is_left_out_like_others_in_silence(tmp_path, capfd, ending, bad):
    root = trees.openimages_tree(tmp_path)
    whole = read_openimages(root)
    lines = (root / "oidv6-train-annotations-bbox.csv").read_bytes().split(b"\n")
    data = lines_of_openimages(root, ending, *lines[:4], bad, *lines[4:])
    assert data.problem_lines() == ["1 broken lines left out"]
    np.testing.assert_array_equal(data.boxes_xywh_px, whole.boxes_xywh_px)
    assert capfd.readouterr() == ("", "")


def test_lines_beside_one_that_is_not_utf8_keep_their_letters(tmp_path):
    root = trees.openimages_tree(tmp_path)
    (root / "train").mkdir(exist_ok=True)
    (root / "train" / "日本.jpg").touch()
    header = HEADER.encode()
    named = "日本,x,/m/012074,1,0.1,0.2,0.3,0.4,0,0,0,0,0".encode()
    data = lines_of_openimages(root, b"\n", header, b"a,\xb8", named)
    assert data.files == ("train/日本.jpg",)
