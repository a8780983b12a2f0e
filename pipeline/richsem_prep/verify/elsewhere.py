"""What verify needs of pictures that lie in another cache."""

from richsem_schemas.cache.index import PictureColumns, read_picture_columns
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.files import hash_bytes, read_file
from richsem_schemas.io.places import open_place


def pictures_note(manifest: CacheManifest) -> str:
    """Where the pictures lie, and what that means for the checks."""
    note = f"its pictures lie in {manifest.pictures_in} and were not looked at"
    if _layout(manifest).manifest.is_file():
        return note
    return f"{note}; that cache isn't there, so views were not compared with their pictures, nor looked into"


def columns_elsewhere(manifest: CacheManifest, shard: int) -> PictureColumns | None:
    """The index of a shard of pictures that lie elsewhere; None where it isn't the one that the manifest names."""
    expected = next((summary.index for summary in manifest.shards if summary.shard == shard), None)
    index = _layout(manifest).pictures_index(shard)
    try:
        if expected is None or hash_bytes(read_file(index)) != expected:
            return None
        return read_picture_columns(index)
    except (OSError, CorruptCacheError):
        return None


def _layout(manifest: CacheManifest) -> CacheLayout:
    assert manifest.pictures_in is not None
    return CacheLayout(open_place(manifest.pictures_in), manifest.plan.dataset)
