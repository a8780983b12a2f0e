"""Tiny trees as img2dataset leaves them: a tar and a parquet for each shard, and its statistics."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")]
    + [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    + [("exif", pa.string()), ("sha256", pa.string())]
)


def facts(key, caption, *, status="success", error=None):
    """KEY.json, which is a row of the parquet as well."""
    sides = dict.fromkeys(("width", "height", "original_width", "original_height"), 256)
    url = f"http://example.com/{key}.jpg"
    row = {"caption": caption, "url": url, "key": key, "status": status, "error_message": error, **sides}
    return row | {"exif": "{}", "sha256": "0" * 64}


def add_member(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def sample(key, caption, picture):
    """Members of one sample, in img2dataset's order."""
    record = json.dumps(facts(key, caption), indent=4).encode()
    return {f"{key}.jpg": picture, f"{key}.json": record, f"{key}.txt": caption.encode()}


def write_tar(path, members):
    """A tar of named members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            add_member(archive, name, content)
    return path


def write_shard(root, number, samples, dead=()):
    """A shard: samples are (key, caption, picture); dead links are (key, error)."""
    members = {}
    for one in samples:
        members |= sample(*one)
    write_tar(root / f"{number:05d}.tar", members)
    rows = [facts(key, caption) for key, caption, _ in samples]
    rows += [facts(key, "gone", status="failed_to_download", error=error) for key, error in dead]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / f"{number:05d}.parquet")
    (root / f"{number:05d}_stats.json").write_text(json.dumps({"count": len(rows), "successes": len(samples)}))
