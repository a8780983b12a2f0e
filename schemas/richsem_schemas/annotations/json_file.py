"""Annotation files as Python objects, through the `lvis` package or as plain JSON."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

from richsem_schemas.errors import SourceError

AnnotationFormat = Literal["lvis", "coco"]
"""Who reads the file: the `lvis` package, or plain JSON with COCO's keys."""


def load_annotation_file(path: Path, file_format: AnnotationFormat) -> dict[str, Any]:
    """Read the file as a dict, without segmentations.

    Raises:
        SourceError: it can't be read, or is something else; its contents are not checked yet.
    """
    reader = _read_by_lvis if file_format == "lvis" else _read_json
    try:
        dataset = reader(path)
    except OSError as error:
        raise SourceError(
            f"{path}: can't be read ({error.strerror or error}); give the path of an annotation file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: not a JSON file ({error}); is it cut short, or still compressed?") from error
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise SourceError(
            f"{path}: not in the LVIS format ({type(error).__name__}: {error}); an object with the lists `images`, "
            "`annotations` and `categories` is expected"
        ) from error
    if not isinstance(dataset, dict):
        raise SourceError(
            f"{path}: holds a {type(dataset).__name__}; an annotation file holds an object with `images`, "
            "`annotations` and `categories`"
        )
    return dataset


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes(), object_hook=_without_segmentation)


def _read_by_lvis(path: Path) -> Any:
    lvis_class = _import_lvis()

    class BoxesOfLvis(lvis_class):  # type: ignore[misc, valid-type]
        # Polygons are most of the file: LVIS train takes 6 GB with them in Python's objects.
        def _load_json(self, annotation_path: Path) -> Any:
            return _read_json(annotation_path)

    return BoxesOfLvis(path).dataset


def _import_lvis() -> type:
    """Import the `lvis` package, which sets up the root logger as it is imported; that is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from lvis import LVIS  # noqa: PLC0415  # seconds, and OpenCV
    except ModuleNotFoundError as error:
        raise SourceError(f"reading LVIS needs {error.name}; install with: pip install 'richsem[train]'") from error
    except ImportError as error:
        raise SourceError(
            f"reading LVIS needs the package lvis, which can't be imported ({error}); its OpenCV needs system "
            "libraries: apt-get install libgl1 libglib2.0-0 libxcb1, or pip install opencv-python-headless"
        ) from error
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lvis_type: type = LVIS
    return lvis_type


def _without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)
    return record
