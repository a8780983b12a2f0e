"""Values that records of a cache and options of commands share, with their bounds; quick to import, without NumPy."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from richsem_schemas.cache.layout import check_set_name

MAX_SAMPLES_PER_SHARD = 100_000
"""As many as a key's five digits can count."""

Embeddings = Literal["float16", "int8", "none"]
Precision = Literal["fp32", "fp16", "bf16"]
NamePolicy = Literal["raw", "clean"]
"""How class names stand in prompts: as the dataset writes them, or without underscores and brackets."""

SetName = Annotated[str, AfterValidator(check_set_name)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
NoiseScale = Annotated[float, Field(ge=1e-3, le=1)]
"""Above 1 the corners of a box could change places."""

_Factor = Annotated[float, Field(ge=1e-3, le=1e3)]


class ScaleJitter(BaseModel, frozen=True, extra="forbid"):
    """How views are drawn: a picture is fitted into a square, times a factor, then cut by it.

    Windows lie on a canvas as large as the square, whose rest is grey; crops have nothing beside them.

    Attributes:
        side: of the square, pixels.

    Source:
        Ghiasi et al. 2021 (arXiv 2012.07177), large-scale jittering; Detic's baseline takes 640 and 0.1 to 2.
    """

    side: Annotated[int, Field(ge=1, le=2**13)]
    factors: tuple[_Factor, _Factor]

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.factors[0] > self.factors[1]:
            raise ValueError(f"the smallest factor, {self.factors[0]:g}, is above the largest, {self.factors[1]:g}")
        return self
