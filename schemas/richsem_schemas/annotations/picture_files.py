"""Where the pictures of an annotation file lie below their folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from richsem_schemas.annotations.columns import Records
from richsem_schemas.errors import SourceError

_PROBES = 8
"""How many pictures, spread over the file, must exist for a rule to count."""


def locate_pictures(images: Records, root: Path, path: Path) -> tuple[str, ...]:
    """Name all pictures by the first rule under which the probed ones exist.

    The rules: `file_name`; the last two parts of `coco_url`, such as `train2017/000000000009.jpg`, as LVIS v1 needs it
    (its val split spans two folders); the last part of `coco_url` or `file_name`, for a `root` that is the very folder
    with the pictures.

    Args:
        images: records of the file.
        root: folder of the pictures.
        path: of the file, for messages.

    Returns:
        Names relative to `root`, in the order of `images`.

    Raises:
        SourceError: pictures are missing under every rule, or a name leads out of `root`.
    """
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder of pictures for {path}")
    probes = [images[position * len(images) // _PROBES] for position in range(_PROBES)]
    tried: list[str] = []
    for rule, name_of in _RULES.items():
        if any(name_of(image, path) is None for image in images):
            continue
        missing = _first_missing(probes, name_of, root, path)
        if missing is None:
            return tuple(str(name_of(image, path)) for image in images)
        tried.append(f"{missing} ({rule})")
    if not tried:
        raise SourceError(
            f"{path}: not every entry of `images` has a `file_name` or a `coco_url`; one of them must name the picture"
        )
    raise SourceError(
        f"{path}: its pictures are not below {root}; missing: {'; '.join(dict.fromkeys(tried))}. "
        "Give the folder that these names start from"
    )


def _first_missing(probes: Records, name_of: "_NameOf", root: Path, path: Path) -> str | None:
    names = (name_of(image, path) for image in probes)
    return next((name for name in names if name is not None and not (root / name).is_file()), None)


def _file_name(image: dict[str, Any], path: Path) -> str | None:
    return _safe_name(image, "file_name", path)


def _end_of_coco_url(image: dict[str, Any], path: Path) -> str | None:
    return _safe_name(image, "coco_url", path, last_parts=2)


def _last_part(image: dict[str, Any], path: Path) -> str | None:
    key = "file_name" if "file_name" in image else "coco_url"
    return _safe_name(image, key, path, last_parts=1)


def _safe_name(image: dict[str, Any], key: str, path: Path, *, last_parts: int = 0) -> str | None:
    """The last parts (0: all) of the name under a key; None where there is no such key."""
    name = image.get(key)
    if name is None:
        return None
    parts = name.split("/")[-last_parts:] if isinstance(name, str) else []
    if not parts or any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise SourceError(
            f"{path}: the picture {image.get('id')} has the {key} {str(name)[:200]!r}; a relative name without `..` "
            "is needed, so that it stays in the folder of the pictures"
        )
    return "/".join(parts)


_NameOf = Callable[[dict[str, Any], Path], str | None]

_RULES: dict[str, _NameOf] = {
    "its file_name": _file_name,
    "the last two parts of its coco_url": _end_of_coco_url,
    "the last part of its name": _last_part,
}
