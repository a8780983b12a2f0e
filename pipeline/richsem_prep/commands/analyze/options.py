"""Options that several analyses take, and what they make of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from richsem_schemas.io.places import local_path

if TYPE_CHECKING:
    from richsem_prep.analyses.annotations import Annotations
    from richsem_schemas.cache.manifest import Plan

AnnotationsFile = Annotated[
    str | None,
    typer.Option(
        "--annotations",
        metavar="FILE",
        help="The cache's annotations, in LVIS's or COCO's format; a path or URL. \\[default: none; LVIS's frequencies "
        "are known without]",
    ),
]
FigureFile = Annotated[
    Path | None, typer.Option("--figure", metavar="PATH", help="Draw it into this .png or .svg.", parser=local_path)
]


def require_figure(figure: Path | None, files: list[Path]) -> None:
    """Check, before any work, that a figure can be written, and over none of some files.

    Raises:
        RichSemError: it can't.
    """
    from richsem_schemas.figures.figure import require_figure_name
    from richsem_schemas.io.output_files import require_no_inputs, require_replaceable

    if figure is not None:
        require_figure_name(figure)
        require_replaceable(figure)
        require_no_inputs([figure], files, remedy="name another --figure")


@contextmanager
def annotations_of(path: str | None, plan: "Plan", *, is_scored: bool) -> Iterator["Annotations | None"]:
    """The annotations of a cache, where a path or a URL is given.

    What LVIS's metric needs is read, and required, where boxes are scored and the cache is of data in LVIS's format.

    Raises:
        RichSemError: they can't be read, or aren't what they should be.
    """
    from richsem_prep.analyses.annotations import has_lvis_format, read_annotations
    from richsem_prep.sources.remote_annotations import local_annotations
    from richsem_schemas.io.places import open_place

    if path is None:
        yield None
        return
    with local_annotations(open_place(path)) as local:
        found = read_annotations(local, with_negatives=is_scored and has_lvis_format(plan), source=path)
    yield found
