"""Decoding a view's labels over decoding its pictures.

    python benchmarks/label_decode.py CACHE --json benchmarks/results/label_decode.json

For each view of the first shard: `unpack_view` against `decode_picture` of its tiles, both from bytes in memory.
"""

from pathlib import Path
from typing import Annotated

import typer
from common import median_seconds, report

from richsem_schemas.cache.codec import unpack_view
from richsem_schemas.cache.index import member_names
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.pictures.decode import decode_picture


def main(
    cache: Annotated[Path, typer.Argument()],
    labels: Annotated[str | None, typer.Option()] = None,
    repeats: Annotated[int, typer.Option()] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all views of the first shard."""
    opened = open_cache(cache)
    name = opened.label_set(labels).name
    kept, labelled = opened.picture_shard(0), opened.label_shard(name, 0)
    pictures = {int(p.row["sample"]): p.data for p in kept.pictures(kept.rows(), root=None)}
    rows = labelled.rows()
    span = labelled.span(rows)
    places = zip(rows["offset"].tolist(), rows["size"].tolist(), member_names(rows), strict=True)
    packed = [(span.read(offset, size), member) for offset, size, member in places]
    views = [unpack_view(*item).view for item in packed]
    label_seconds = median_seconds(lambda: [unpack_view(*item) for item in packed], repeats) / len(packed)
    tiles = [int(sample) for view in views for sample in view.tiles["sample"]]
    picture_seconds = median_seconds(lambda: [decode_picture(pictures[tile]) for tile in tiles], repeats) / len(packed)
    report(
        "label-decode",
        {
            "views": len(packed),
            "tiles_a_view": len(tiles) / len(packed),
            "label_microseconds_a_view": label_seconds * 1e6,
            "picture_microseconds_a_view": picture_seconds * 1e6,
            "ratio": label_seconds / picture_seconds,
        },
        json,
    )


if __name__ == "__main__":
    typer.run(main)
