"""From an export and the pictures that are there to boxes that can be learnt: classes, pixels, copies."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.boxes import AnnotatedBoxes, clean_boxes
from richsem_schemas.errors import RichSemError
from richsem_train.console import Reporter
from richsem_train.own_data.listing import Listing
from richsem_train.own_data.looked_at import LookedAt, groups_of_copies, look_at_pictures
from richsem_train.own_data.near_copies import groups_of_near_copies
from richsem_train.own_data.own_classes import joined_classes, with_used_classes
from richsem_train.own_data.own_pictures import OwnData, OwnPicture
from richsem_train.own_data.picture_index import PictureIndex
from richsem_train.own_data.records import Export, PictureRecord, Problems

_THIN_PX = 0.01

_SAME_SHAPE = 0.02
"""Least part by which two ratios of sides differ that are no rounding."""


def clean_data(export: Export, listing: Listing, *, near_copies: bool, reporter: Reporter) -> OwnData:
    """Find the pictures, look at their headers, and make the boxes fit them.

    Raises:
        RichSemError: no box or no picture is left, or a class can't be named.
    """
    problems = export.problems
    records = _joined(_located(export, listing), problems)
    files = [record.file for record in records if record.file is not None]
    looks = look_at_pictures(files, reporter)
    rows, class_names = joined_classes(export, problems)
    found = [
        picture
        for record, look in zip(records, looks, strict=True)
        if (picture := _picture(record, look, rows, export, problems)) is not None
    ]
    if not found:
        raise RichSemError(_no_pictures(export, listing))
    pictures, copies, near = _with_groups(found, files, looks, near_copies, reporter)
    return with_used_classes(export, class_names, pictures, copies, near)


def _located(export: Export, listing: Listing) -> list[PictureRecord]:
    index = PictureIndex(listing)
    near = export.annotations[0]
    located: list[PictureRecord] = []
    for record in export.pictures:
        file = record.file or index.find(record.name, near=near)
        if file is None and index.is_ambiguous(record.name):
            export.problems.add(
                "labels whose picture could be several files of one name, left out", f"{record.where}: {record.name}"
            )
        elif file is None:
            export.problems.add("labels of pictures that aren't there, left out", f"{record.where}: {record.name}")
        else:
            located.append(replace(record, file=file))
    used = {record.file for record in located}
    for path in listing.pictures:
        # YOLO's reader goes by the pictures, and has told of those without labels.
        if path not in used and export.format_name != "YOLO":
            export.problems.add("pictures without labels, left out", listing.relative(path))
    return located


def _joined(records: Sequence[PictureRecord], problems: Problems) -> list[PictureRecord]:
    """The records of one file as one, in the order of the files."""
    by_file: dict[Path, PictureRecord] = {}
    for record in records:
        assert record.file is not None
        if record.file not in by_file:
            by_file[record.file] = record
            continue
        problems.add("further records of one picture, joined to the first", record.where)
        one = by_file[record.file]
        crowds = [
            np.zeros(len(each.labels), np.bool_) if each.is_crowd is None else each.is_crowd for each in (one, record)
        ]
        by_file[record.file] = replace(
            one,
            labels=np.concatenate([one.labels, record.labels]),
            boxes_xywh=np.concatenate([one.boxes_xywh, record.boxes_xywh]),
            is_crowd=np.concatenate(crowds),
        )
    return [by_file[file] for file in sorted(by_file)]


def _picture(
    record: PictureRecord, look: LookedAt, rows: NDArray[np.int64], export: Export, problems: Problems
) -> OwnPicture | None:
    assert record.file is not None
    if look.hw is None:
        problems.add("pictures that can't be read, left out", f"{record.file}: {look.problem}")
        return None
    boxes = record.boxes_xywh
    if export.are_relative:
        boxes = boxes * np.tile(look.hw[::-1], 2)
    elif record.hw is not None and record.hw != look.hw:
        if not _are_alike(record.hw, look.hw):
            problems.add(
                "pictures of another shape than their labels say, left out",
                f"{record.where}: {record.hw[0]} high and {record.hw[1]} wide; {record.file} is {look.hw[0]} and "
                f"{look.hw[1]}, upright",
            )
            return None
        problems.add("pictures of another size than their labels say, boxes scaled", record.where)
        scale = np.array([look.hw[1] / record.hw[1], look.hw[0] / record.hw[0]] * 2)
        boxes = boxes * scale
    labels, boxes = _clean(record, rows[record.labels], boxes, look.hw, problems)
    return OwnPicture(
        record.file,
        look.hw,
        labels,
        boxes,
        record.split,
        negatives=tuple(rows[list(record.negatives)].tolist()),
        not_exhaustive=tuple(rows[list(record.not_exhaustive)].tolist()),
    )


def _are_alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether sizes have one ratio, roundings aside."""
    ratio = (one[0] * other[1]) / (one[1] * other[0])
    return abs(ratio - 1) <= _SAME_SHAPE + 1 / min(*one, *other)


def _clean(
    record: PictureRecord,
    labels: NDArray[np.int64],
    boxes_xywh: NDArray[np.float64],
    hw: tuple[int, int],
    problems: Problems,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if not len(labels):
        return labels, boxes_xywh
    if record.is_crowd is None and _are_sound(boxes_xywh, hw):
        return _each_once(record, labels, boxes_xywh, problems)
    is_crowd = np.zeros(len(labels), np.bool_) if record.is_crowd is None else record.is_crowd
    given = AnnotatedBoxes(np.zeros(len(labels), np.int64), labels, boxes_xywh, is_crowd)
    kept, found = clean_boxes(given, np.array([hw], np.int32))
    for what, count in found.items():
        problems.add(what, record.where, count)
    return _each_once(record, kept.category_ids, kept.boxes_xywh.astype(np.float64), problems)


def _are_sound(boxes_xywh: NDArray[np.float64], hw: tuple[int, int]) -> bool:
    """Whether nothing is to be cleaned, as in most pictures; cleaning each on its own would take long."""
    corners, sides = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    return bool(corners.min() >= 0 and sides.min() >= _THIN_PX and (corners + sides <= (hw[1], hw[0])).all())


def _each_once(
    record: PictureRecord, labels: NDArray[np.int64], boxes_xywh: NDArray[np.float64], problems: Problems
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Boxes to a thousandth of a pixel, without those that another one of their class repeats."""
    boxes = np.round(boxes_xywh, 3)
    rows = list(zip(labels.tolist(), map(tuple, boxes.tolist()), strict=True))
    first = (
        [number for number, row in enumerate(rows) if rows.index(row) == number] if len(set(rows)) < len(rows) else None
    )
    if first is None:
        return labels, boxes
    problems.add("boxes given twice, taken once", record.where, len(rows) - len(first))
    return labels[first], boxes[first]


def _with_groups(
    pictures: Sequence[OwnPicture],
    files: Sequence[Path],
    looks: Sequence[LookedAt],
    near_copies: bool,
    reporter: Reporter,
) -> tuple[list[OwnPicture], int, int | None]:
    """The pictures with numbers of their groups, and how many sets of copies and of near copies there are."""
    look_of = dict(zip(files, looks, strict=True))
    paths = [picture.file for picture in pictures]
    same = groups_of_copies(paths, [look_of[path] for path in paths], reporter)
    near = groups_of_near_copies(paths, reporter) if near_copies else None
    group = list(range(len(pictures)))
    for positions in [*(near or []), *same]:
        numbers = {group[position] for position in positions}
        least = min(numbers)
        for position in positions:
            group[position] = least
    return (
        [replace(picture, group=number) for picture, number in zip(pictures, group, strict=True)],
        len(same),
        (None if near is None else len(near)),
    )


def _no_pictures(export: Export, listing: Listing) -> str:
    told = "; ".join(f"{count:,} {what} (the first: {where})" for what, count, where in export.problems)
    return (
        f"{listing.picture_root}: {export.format_name} with {len(export.pictures):,} pictures, and none of them can be "
        f"used: {told or 'it lists none'}. Put the pictures there, or name their folder with --images"
    )
