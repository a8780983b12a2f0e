"""The options of `richsem-prep teachers`; quick to import, since every `--help` does."""

from typing import Annotated, Literal

import typer
from pydantic import BaseModel, Field, PositiveInt

from richsem_schemas.cache.field_types import NamePolicy

WiderNames = Literal["lvis", "coco", "objects365", "openimages", "imagenet-21k", "none"]


class TeachersRequest(BaseModel, frozen=True, extra="forbid"):
    """On which boxes teachers are compared, and how they see them."""

    boxes: Annotated[
        PositiveInt,
        typer.Option(min=1, help="Boxes to show to each teacher, as many of one class as of another; each has one."),
    ] = 400
    seed: Annotated[
        Annotated[int, Field(ge=0, le=2**32 - 1)],
        typer.Option(min=0, max=2**32 - 1, help="Another one draws other boxes."),
    ] = 0
    names: Annotated[NamePolicy, typer.Option(help="Class names in prompts, as `shard` takes them.")] = "raw"
    wider: Annotated[
        WiderNames,
        typer.Option(
            help="Names to set beside your own where the recommended teacher's soft labels are nearly one-hot, to see "
            "what they do; none spares the time that their text takes."
        ),
    ] = "lvis"
    region_encoder: Annotated[
        Literal["roi-align", "crop"] | None,
        typer.Option(help="As `shard` takes it. \\[default: roi-align where the teacher can, else crop]"),
    ] = None
    teacher_size: Annotated[
        Annotated[int, Field(ge=32, le=4096)] | None,
        typer.Option(help="Longer side of a picture as teachers see it, pixels. \\[default: as evaluation shows it]"),
    ] = None
