"""Which format a folder or a file has, told by contents; of two formats neither is guessed."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from richsem_schemas.errors import IrregularFileError, RichSemError, SourceError
from richsem_schemas.io.files import open_regular
from richsem_train.console import Reporter
from richsem_train.own_data import cvat, voc
from richsem_train.own_data.coco import read_coco
from richsem_train.own_data.label_studio import read_label_studio
from richsem_train.own_data.listing import Listing
from richsem_train.own_data.records import Export
from richsem_train.own_data.xml_records import root_tag
from richsem_train.own_data.yolo import read_yolo, yolo_label_files, yolo_tables

_HEAD_BYTES = 2**20
_XML_HEAD_BYTES = 2**14
_SHOWN = 3
_COCO_LIST = re.compile(rb'"(images|annotations)"\s*:\s*\[')

READ_FORMATS = (
    "COCO's and LVIS's JSON, YOLO's folders with data.yaml, Pascal VOC's XML, CVAT's XML (CVAT for images 1.1) and "
    "Label Studio's JSON"
)


@dataclass(frozen=True)
class _Candidate:
    """A format that files are of, and how they are read."""

    name: str
    files: Sequence[Path]
    read: Callable[[Reporter], Export]


def read_export(listing: Listing, file: Path | None, reporter: Reporter) -> Export:
    """Read the one export that a folder holds, or that a file is.

    Args:
        listing: of the folder, or of the folder that the file's pictures lie in.
        file: annotations, or YOLO's data.yaml; None looks for them.
        reporter: is shown how far it is.

    Raises:
        RichSemError: there is none, or there are several, or it can't be read.
    """
    found = _candidates(listing, file)
    if len(found) == 1:
        return found[0].read(reporter)
    if not found:
        raise RichSemError(_nothing_found(listing, file))
    told = "; ".join(
        f"{each.name} ({', '.join(map(listing.relative, each.files[:_SHOWN]))}"
        f"{f' and {len(each.files) - _SHOWN:,} more' if len(each.files) > _SHOWN else ''})"
        for each in found
    )
    raise RichSemError(
        f"{listing.root}: holds annotations in {len(found)} formats: {told}. Only one is read; give the path of its "
        "file (of YOLO data.yaml) in the place of the folder, or move the others out"
    )


def _candidates(listing: Listing, file: Path | None) -> list[_Candidate]:
    def of(*endings: str) -> list[Path]:
        if file is None:
            return listing.ending(*endings)
        return [file] if file.suffix.lower() in endings else []

    found: list[_Candidate] = []
    kinds: dict[str, list[Path]] = {}
    for path in of(".json"):
        kinds.setdefault(_json_kind(path), []).append(path)
    for path in of(".xml"):
        kinds.setdefault(root_tag(_head(path, _XML_HEAD_BYTES)) or "", []).append(path)
    if coco_files := kinds.get("coco"):
        found.append(_Candidate("COCO JSON", coco_files, lambda reporter: read_coco(listing, coco_files, reporter)))
    if studio := kinds.get("label-studio"):
        found.append(
            _Candidate("Label Studio JSON", studio, lambda reporter: read_label_studio(listing, studio, reporter))
        )
    if voc_files := kinds.get(voc.ROOT):
        found.append(_Candidate("Pascal VOC", voc_files, lambda reporter: voc.read_voc(listing, voc_files, reporter)))
    if cvat_files := kinds.get(cvat.ROOT):
        found.append(_Candidate("CVAT XML", cvat_files, lambda reporter: cvat.read_cvat(listing, cvat_files, reporter)))
    if file is None:
        labels = yolo_label_files(listing)
        yolo = labels or yolo_tables(listing)
    else:
        yolo = of(".yaml", ".yml")
    if yolo:
        found.append(_Candidate("YOLO", yolo, lambda reporter: read_yolo(listing, file, reporter)))
    return found


def _json_kind(path: Path) -> str:
    """`coco`, `label-studio`, or empty for JSON of another kind."""
    head = _head(path, _HEAD_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"{") and _COCO_LIST.search(head):
        return "coco"
    if head.startswith(b"[") and re.search(rb'"(annotations|completions)"\s*:\s*\[', head) and b'"data"' in head:
        return "label-studio"
    return ""


def _head(path: Path, size: int) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(size)
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror or error})") from None


def _nothing_found(listing: Listing, file: Path | None) -> str:
    where = listing.root if file is None else file
    told = f"{where}: no annotations found; read are {READ_FORMATS}"
    if file is not None:
        return f"{told}. Name one of these, or the folder that holds them"
    if archives := listing.ending(".zip"):
        return f"{told}. There is an archive, {listing.relative(archives[0])}: name it in the place of the folder"
    others = listing.ending(".json", ".xml", ".csv")
    if others:
        return f"{told}. {listing.relative(others[0])} is none of these: export it anew in one of them"
    pictures = f"{len(listing.pictures):,} pictures" if listing.pictures else "not one picture"
    return f"{told}. There are {pictures} and no labels; draw boxes with such a tool, and export them"
