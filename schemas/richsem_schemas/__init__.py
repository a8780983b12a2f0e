"""The contract between the two programs: views, soft labels, and the cache that holds them.

A cache in five lines:

    from richsem_schemas import open_cache

    for view in open_cache("caches/lvis").views():
        print(view.name, view.pixels.shape, view.boxes_xyxy_px, view.soft_labels.class_ids)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from richsem_schemas.cache.reader import open_cache

__all__ = ["open_cache"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: most modules here need none of it.
    if name == "open_cache":
        from richsem_schemas.cache.reader import open_cache  # noqa: PLC0415

        return open_cache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
