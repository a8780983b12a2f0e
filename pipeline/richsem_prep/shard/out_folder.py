"""OUT before a run writes into it: what may lie there, and what is removed."""

import os
from contextlib import suppress
from pathlib import PurePosixPath

from richsem_prep.shard.config import ShardConfig
from richsem_schemas.cache.jobs import JOBS_FOLDER
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import is_temporary, temporaries
from richsem_schemas.io.places import Place, RemotePath, lives_in_this_process, map_small_files

_PARTS = ("manifest.json", "receipts", "plan", "pictures", "labels", "index", "quarantine", "audits")

_SUFFIXES = (".json", ".jsonl", ".tar", ".parquet", ".arrow", ".npy", ".tmp")
"""Everything that this program writes into an OUT."""


def require_usable_out(config: ShardConfig) -> None:
    """Check that OUT is a cache, or can become one.

    Raises:
        RichSemError: it is no folder of its own, or workers can't see it.
    """
    out, sources = config.out, {"--root": config.root, "--from-cache": config.from_cache}
    given = {option: place for option, place in sources.items() if place is not None}
    for option, place in given.items():
        if config.executor == "ray" and (lives_in_this_process(out) or lives_in_this_process(place)):
            raise RichSemError(f"--out {out} {option} {place}: only this process sees memory://; use --executor inline")
    if out.exists() and not out.is_dir():
        raise RichSemError(f"--out {out} is no folder; name one")
    try:
        os.fsencode(str(out)).decode()
    except UnicodeDecodeError:
        raise RichSemError(f"--out {str(out)!r} has a name that is no UTF-8; name another") from None
    for option, place in given.items():
        inner, outer = sorted((f"{folder.resolve()}/" for folder in (out, place)), key=len, reverse=True)
        if inner.startswith(outer):
            raise RichSemError(f"--out {out} and {option} {place} lie in each other; a cache needs a folder of its own")
    _require_no_strangers(out)


def _require_no_strangers(out: Place) -> None:
    if not out.is_dir() or (out / "plan" / "plan.json").is_file() or (out / "plan" / "listing.arrow").is_file():
        return
    strangers = sorted(path.name for path in out.iterdir() if path.name != JOBS_FOLDER and not _is_begun_listing(path))
    if strangers:
        raise RichSemError(
            f"--out {out} holds other things ({', '.join(strangers[:5])}) and no cache; name a new or empty folder"
        )


def _is_begun_listing(path: Place) -> bool:
    """Whether a listing is being made here, or was when its run was killed: nothing has its name yet."""
    return (
        path.name in {"plan", "quarantine"}
        and path.is_dir()
        and all(is_temporary(part.name) for part in path.iterdir())
    )


def remove_cache(layout: CacheLayout) -> None:
    """Remove all that this program wrote into OUT."""
    for part in _PARTS:
        _remove(layout.out / part)


def remove_label_set(label_set: LabelSetLayout) -> None:
    """Remove a label set, its manifest first, so that what is half removed is no set."""
    for path in (
        label_set.manifest,
        label_set.folder,
        label_set.index(0).parent,
        label_set.receipt(0).parent,
        label_set.audits,
    ):
        _remove(path)


def _remove(path: Place) -> None:
    """Remove a file, or what this program wrote into a folder; anything else in it stays."""
    if isinstance(path, RemotePath):
        path.unlink(missing_ok=True)
        written = [path / name for name in path.sizes_below() if PurePosixPath(name).suffix in _SUFFIXES]
        map_small_files(path, lambda file: file.unlink(missing_ok=True), written)
        return
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for item in path.iterdir():
        if item.is_dir() or item.suffix in _SUFFIXES:
            _remove(item)
    with suppress(OSError):
        path.rmdir()


def sweep_listing(layout: CacheLayout) -> None:
    """Remove what a killed run left of a listing; other jobs may be at work on the quarantines of shards."""
    quarantined = (part for part in temporaries(layout.listing_quarantine.parent) if part.name.startswith(".listing."))
    for leftover in (*temporaries(layout.plan.parent), *quarantined):
        leftover.unlink(missing_ok=True)


def sweep_shards(layout: CacheLayout, label_set: LabelSetLayout, shards: range) -> None:
    """Remove what a killed run or worker left under temporary names, of these shards alone: others may be at work."""
    pictures, labels = PictureShard(layout, 0), LabelShard(label_set, 0)
    mine = {layout.shard_name(shard) for shard in shards}
    for first in (*pictures.files, pictures.quarantine, *labels.files):
        for path in temporaries(first.parent):
            if path.name.removeprefix(".").partition(".")[0] in mine:
                path.unlink(missing_ok=True)
