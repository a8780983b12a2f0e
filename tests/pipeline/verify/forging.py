"""Shards whose hashes are right and whose content is wrong."""

import tarfile
from dataclasses import replace

import numpy as np

from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.codec import LabelledView, pack_view
from richsem_schemas.cache.index import PICTURE_ROW
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, LabelSpec
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.shard_writer import ShardWriter
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.io.canonical_json import canonical_json
from richsem_schemas.io.files import hash_bytes


def problems_of(cache, **options):
    return verify_cache(cache.layout.out, **options).problems


def paths_of(problems):
    return {problem.path for problem in problems}


def messages_of(cache, **options):
    return [problem.message for problem in problems_of(cache, **options)]


def pictures_of(cache, number=0):
    return PictureShard(cache.layout, number)


def labels_of(cache, number=0):
    return LabelShard(cache.label_set, number)


def reseal(shard, **summary):
    """Make receipt and manifest of a shard fit its files again."""
    receipt = shard.read_receipt()
    hashes = {"tar": hash_bytes(shard.tar.read_bytes()), "index": hash_bytes(shard.index.read_bytes())}
    new = receipt.summary.model_copy(update=hashes | summary)
    receipt.model_copy(update={"summary": new}).write(shard.receipt)
    is_labels = isinstance(shard, LabelShard)
    path = (shard.label_set if is_labels else shard.layout).manifest
    manifest = (LabelManifest if is_labels else CacheManifest).read(path)
    shards = tuple(new if item.shard == shard.number else item for item in manifest.shards)
    totals = {name: sum(getattr(item, name) for item in shards) for name in ("views", "regions") if is_labels}
    totals["bytes"] = sum(item.tar.bytes for item in shards)
    manifest.model_copy(update={"shards": shards, **totals}).write(path)


def rewrite_views(cache, change=lambda labelled: labelled, shard=0, *, keep=lambda row: True):
    """Change every view of a shard and make all hashes right."""
    layout = LabelSpec.read(cache.label_set.spec).record_layout
    labels = labels_of(cache, shard)
    rows = labels.rows()
    rows = rows[[keep(row) for row in rows]]
    changed = [change(writable(labelled)) for labelled in labels.views(rows)]
    members: dict = {}
    for row, labelled in zip(rows, changed, strict=True):
        packed = pack_view(labelled.view, labelled.embeddings, labelled.labels, layout)
        members.setdefault(row["key"], {})[labelled.view.member] = packed
        row["size"] = len(packed)
    with ShardWriter(labels) as writer:
        rows["offset"] = [offset for key in members for offset in writer.add(key, members[key]).values()]
        writer.finish(rows, samples=0)
    reseal(labels, views=len(rows), regions=int(rows["regions"].sum()))


def writable(labelled):
    labels, view = labelled.labels, labelled.view
    return LabelledView(
        replace(view, tiles=view.tiles.copy(), regions=view.regions.copy()),
        TopKSoftLabels(labels.class_ids.copy(), labels.log_probs.copy(), labels.log_rest.copy()),
        labelled.embeddings.copy(),
    )


def only_on(kind, change):
    """Apply a change to the first view of a kind alone."""
    done = []

    def changed(labelled):
        if labelled.view.kind == kind and not done:
            done.append(True)
            return change(labelled) or labelled
        return labelled

    return changed


def rewrite_pictures(cache, change_row=lambda row: row, change_sidecar=lambda sidecar: sidecar, shard=0):
    """Change sidecars and index of a picture shard and make all hashes right."""
    pictures = pictures_of(cache, shard)
    stored, rows = list(pictures.pictures(root=None)), []
    with ShardWriter(pictures) as writer:
        for item in stored:
            data, row = canonical_json(change_sidecar(dict(item.sidecar))), item.row.copy()
            offsets = writer.add(row["key"], {"json": data, row["extension"]: item.data})
            row["offset"], row["json_offset"], row["json_size"] = offsets[row["extension"]], offsets["json"], len(data)
            rows.append(change_row(row.item()))
        writer.finish(np.array(rows, PICTURE_ROW), samples=0)
    reseal(pictures)


def rewrite_tar(shard, change, *, only=None):
    """Write a shard's tar anew with `change` applied to each member's header, or to that of one; hashes are right."""
    with tarfile.open(shard.tar) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]
    with open(shard.tar, "wb") as file:
        for number, (info, data) in enumerate(members):
            header = info.tobuf(tarfile.USTAR_FORMAT)
            file.write(change(header) if only in {None, number} else header)
            file.write(data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    reseal(shard)


def with_field(header, start, value):
    """A header with other bytes at `start` and its checksum made right."""
    header = bytearray(header)
    header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)
