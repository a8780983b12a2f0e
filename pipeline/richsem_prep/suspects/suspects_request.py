"""The options of `richsem-prep suspects`; quick to import, since every `--help` does."""

from typing import Annotated

import typer
from pydantic import BaseModel, PositiveInt

from richsem_prep.analyses.analysis_request import LabelForm


class SuspectsRequest(BaseModel, frozen=True, extra="forbid"):
    """How many boxes are told, and by which labels."""

    most: Annotated[
        PositiveInt | None,
        typer.Option(
            min=1, help="List so many. \\[default: as many as the teacher surely takes for another class than labelled]"
        ),
    ] = None
    labels: Annotated[
        LabelForm | None,
        typer.Option(
            help="embedding: exact, from embeddings and text; topk: from the stored classes, quicker. "
            "\\[default: embedding where some are stored]"
        ),
    ] = None
