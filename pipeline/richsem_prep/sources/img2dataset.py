"""img2dataset's output with `--output_format webdataset`: tars of KEY.jpg, KEY.txt and KEY.json, a parquet each.

A sample's picture, caption and facts are members of one tar. The parquet beside it has a row for every link, those that
were dead included.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from richsem_prep.sources.captions import MAX_CAPTION_BYTES, CaptionError, parse_caption, too_long
from richsem_prep.sources.entry import Rejected, SourceEntry, require_pictures
from richsem_prep.sources.tar_files import TAR, find_tars, member_entry, member_name, tar_files
from richsem_prep.sources.tar_members import TarMember
from richsem_prep.sources.walk import first_names, scan_root
from richsem_prep.sources.webdataset import is_picture
from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import read_at
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import one_line, printable
from richsem_schemas.pictures.originals import open_below
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

TARS = "img2dataset's tars, such as 00000.tar"

_MAX_FACTS_BYTES = 2**20
_PARQUET_ROWS = 1_024
_SHOWN = 200


def list_img2dataset(root: Place, *, layout: str, with_captions: bool) -> Iterator[SourceEntry | Rejected]:
    """List the pictures in img2dataset's tars at any depth of ROOT; one tar at a time is in memory.

    Captions are those of KEY.txt, or else of KEY.json; where they are asked for, a picture without one is rejected.
    `layout` says in errors what is expected.

    Raises:
        SourceError: at once where ROOT is missing, empty or without a tar; while listing where a folder can't be read;
            at the end where no tar had a picture that counts.
    """
    tars, rejected = find_tars(root, layout=layout)
    if not tars:
        found = "; ".join(f"{item.name}: {item.reason}" for item in rejected[:3])
        found = found or f"found {first_names(scan_root(root, layout=layout))}"
        raise SourceError(f"{root}: {found}; expected {layout}. Point --root at it")
    asked = " with a caption; --dataset cc3m-unlabeled takes them without" if with_captions else ""
    return require_pictures(
        _list_tars(root, tars, rejected, with_captions),
        f"the tars in {root} hold no pictures{asked}; expected {TARS}",
    )


def _list_tars(
    root: Place, tars: list[bytes], rejected: list[Rejected], with_captions: bool
) -> Iterator[SourceEntry | Rejected]:
    yield from rejected
    for tar in tars:
        yield from _dead_links(root, tar)
        yield from _list_tar(root, tar, with_captions)


def _list_tar(root: Place, tar: bytes, with_captions: bool) -> Iterator[SourceEntry | Rejected]:
    members, rejected = tar_files(root, tar)
    yield from rejected
    pictures = [(path, member) for path, member in members.items() if is_picture(path)]
    if not with_captions:
        for path, member in pictures:
            yield member_entry(tar, path, member, NO_LABEL)
    elif pictures:
        with open_below(root, tar) as descriptor:
            for path, member in pictures:
                yield _captioned(tar, path, member, members, lambda m: read_at(descriptor, m.offset, m.size))


def _captioned(
    tar: bytes,
    path: bytes,
    picture: TarMember,
    members: Mapping[bytes, TarMember],
    read: Callable[[TarMember], bytes],
) -> SourceEntry | Rejected:
    name = member_name(tar, path)
    try:
        caption = _caption(_key(path), members, read)
    except CaptionError as error:
        return Rejected(name, str(error))
    return SourceEntry(name, tar, picture.offset, picture.size, NO_LABEL, caption=caption)


def _key(path: bytes) -> bytes:
    """The sample that a member belongs to: its path up to the first dot of the file name, as webdataset has it."""
    folder, slash, file = path.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]


def _caption(key: bytes, members: Mapping[bytes, TarMember], read: Callable[[TarMember], bytes]) -> str:
    text, facts = members.get(key + b".txt"), members.get(key + b".json")
    if text is not None:
        if text.size > MAX_CAPTION_BYTES:
            raise CaptionError(too_long(text.size))
        return parse_caption(read(text))
    if facts is None:
        raise CaptionError("no caption: neither KEY.txt nor KEY.json is in the tar")
    if facts.size > _MAX_FACTS_BYTES:
        raise CaptionError(f"its KEY.json has {facts.size:,} bytes; at most {_MAX_FACTS_BYTES:,} are read")
    return parse_caption(_caption_field(read(facts)))


def _caption_field(facts: bytes) -> bytes:
    try:
        value = json.loads(facts)
    except (ValueError, RecursionError):
        raise CaptionError("no caption: KEY.json is no JSON, and there is no KEY.txt") from None
    caption = value.get("caption") if isinstance(value, dict) else None
    if not isinstance(caption, str):
        raise CaptionError("no caption: KEY.json has none, and there is no KEY.txt")
    return caption.encode(errors="surrogatepass")


def _dead_links(root: Place, tar: bytes) -> Iterator[Rejected]:
    """The samples that img2dataset couldn't download, as the parquet beside a tar says; nothing where there is none."""
    parquet = tar[: -len(TAR)] + b".parquet"
    path = root / os.fsdecode(parquet)
    if not path.is_file():
        return
    try:
        with pa.OSFile(str(path)) if isinstance(path, Path) else BytesIO(path.read_bytes()) as file:
            for batch in pq.ParquetFile(file).iter_batches(_PARQUET_ROWS, columns=["key", "status", "error_message"]):
                for row in batch.to_pylist():
                    if row["status"] != "success":
                        why = one_line(row["error_message"] or row["status"], longest=_SHOWN)
                        name = f"{printable(tar)}/{one_line(row['key'], longest=_SHOWN)}"
                        yield Rejected(name, f"not downloaded: {why}")
    except (pa.ArrowException, OSError, KeyError, ValueError):
        yield Rejected(printable(parquet), "not legible as img2dataset's; the links it calls dead are not counted")
