"""Options of the analyses of a label set; quick to import, since every `--help` does."""

from typing import Annotated, Any, Literal

import typer
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PositiveInt

LabelForm = Literal["embedding", "topk"]
"""Whole distributions, computed from embeddings and text, or the stored classes."""


def _numbers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = value.split(",")
    if not all(part.isdecimal() and len(part) <= 9 for part in parts):
        raise ValueError("needs whole numbers with commas between them, such as 1,5,10")
    return tuple(map(int, parts))


def _ascending(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(numbers)))


TopK = Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=16), AfterValidator(_ascending)]


class AnalysisRequest(BaseModel, frozen=True, extra="forbid"):
    """How the soft labels of boxes are judged."""

    labels: Annotated[
        LabelForm | None,
        typer.Option(
            help="embedding: exact, from embeddings and text; topk: from the stored classes, quicker. "
            "\\[default: embedding where some are stored]"
        ),
    ] = None
    top_k: Annotated[
        Annotated[TopK, BeforeValidator(_numbers)],
        typer.Option(
            metavar="K,K,…", help="A box is right if its class is among so many most probable ones. \\[default: 1,5,10]"
        ),
    ] = (1, 5, 10)
