"""Annotation files by the reader of their format."""

import codecs
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations.annotation_file import METRIC_OF, AnnotationFile, AnnotationFormat
from richsem_schemas.annotations.coco_file import read_coco_file
from richsem_schemas.annotations.openimages_file import read_openimages_file
from richsem_schemas.annotations.visual_genome_file import read_visual_genome_file
from richsem_schemas.errors import IrregularFileError, SourceError
from richsem_schemas.io.files import open_regular

_SHOWN = 5
"""How many culprits a message names."""

_START = 64
"""Bytes in which the first bracket of a JSON file stands, whatever blanks are before it."""


def read_annotation_file(
    path: Path,
    file_format: AnnotationFormat,
    class_names: Sequence[str] | None = None,
    *,
    is_scored: bool = False,
) -> AnnotationFile:
    """Read an annotation file of any format, as it stands there; pictures aren't looked for.

    Args:
        path: as `read_annotations` takes it.
        file_format: whose file it is.
        class_names: as `read_annotations` takes them, for Visual Genome.
        is_scored: read what the metric of the format needs as well, and require it.

    Raises:
        SourceError: it can't be read, is something else, a record doesn't fit, or a box's category isn't listed.
    """
    try:
        found = _read_file(path, file_format, class_names, is_scored)
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    _check_known(found.boxes.category_ids, np.array(sorted(found.categories), np.int64), path)
    return found


def require_readable(path: Path) -> None:
    """Look for an annotation file.

    Raises:
        SourceError: it can't be read.
    """
    try:
        open_regular(path).close()
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise _unreadable(path, error) from error


def format_by_content(path: Path) -> AnnotationFormat:
    """Whose file this is: a `.csv` OpenImages', JSON that is one list Visual Genome's, other JSON COCO's or LVIS's.

    Raises:
        SourceError: it can't be read, or is neither.
    """
    try:
        with open_regular(path) as file:
            start = file.read(_START).removeprefix(codecs.BOM_UTF8).lstrip()
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise _unreadable(path, error) from error
    if path.suffix.lower() == ".csv":
        return "openimages"
    if start.startswith((b"[", b"{")):
        return "visual-genome" if start.startswith(b"[") else "coco"
    raise SourceError(
        f"{path}: neither JSON, as COCO, LVIS, Objects365 and Visual Genome write it, nor a .csv of OpenImages; is it "
        "still compressed? Unpack it"
    )


def _read_file(
    path: Path, file_format: AnnotationFormat, class_names: Sequence[str] | None, is_scored: bool
) -> AnnotationFile:
    if file_format == "openimages":
        return read_openimages_file(path)
    if file_format == "visual-genome":
        return read_visual_genome_file(path, class_names)
    return read_coco_file(path, metric=METRIC_OF[file_format] if is_scored else None)


def _unreadable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{error.filename or path}: can't be read ({error.strerror or error}); give the path of an annotation file"
    )


def _check_known(category_ids: NDArray[np.int64], known: NDArray[np.int64], path: Path) -> None:
    unknown = np.unique(category_ids[~np.isin(category_ids, known)])
    if len(unknown):
        shown = ", ".join(str(category_id) for category_id in unknown[:_SHOWN])
        raise SourceError(
            f"{path}: annotations of {len(unknown):,} categories that `categories` doesn't list: "
            f"{shown}{', ...' if len(unknown) > _SHOWN else ''}; add them there, or remove the annotations"
        )
