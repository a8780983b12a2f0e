"""The sealed JSON files of a cache: read and checked, written whole, compared field by field."""

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from richsem_schemas.cache.layout import FORMAT_VERSION
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError
from richsem_schemas.io.places import Place
from richsem_schemas.io.sealed_json import read_sealed_json, write_sealed_json


class SealedRecord(BaseModel):
    """A sealed JSON file of the cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Place) -> Self:
        """Read and validate.

        Raises:
            FileNotFoundError: there is no such file.
            CorruptCacheError: it isn't what was written, or not of this version.
        """
        value = read_sealed_json(path)
        version = value.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CorruptCacheError(
                f"{path}: its format version is {version!r}, this program reads {FORMAT_VERSION}; "
                "use the version of richsem that wrote it, or make the cache anew"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise CorruptCacheError(f"{path}: {where + ': ' if where else ''}{reason}") from None

    def write(self, path: Place) -> None:
        """Write, whole or not at all."""
        write_sealed_json(path, self.model_dump(mode="json"))


_Model = TypeVar("_Model", bound=BaseModel)


def require_same(
    path: Place, found: _Model, wanted: _Model, *, ignore: frozenset[str] = frozenset(), remedy: str
) -> None:
    """Check that what stands at `path` is what a run asks for.

    Raises:
        ManifestMismatchError: names each field that differs, with both values.
    """
    differences = [
        f"{field} is {here!r} there, {asked!r} here"
        for field, here, asked in differing_fields(found, wanted)
        if not {field, field.partition(".")[0]} & ignore
    ]
    if differences:
        raise ManifestMismatchError(f"{path} holds something else: {'; '.join(differences)}. {remedy}")


def differing_fields(found: _Model, wanted: _Model) -> Iterator[tuple[str, Any, Any]]:
    """Dotted names of the fields in which two records differ, and both values, long ones cut."""
    return _differences("", *(model.model_dump(mode="json") for model in (found, wanted)))


def _differences(prefix: str, found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(f"{prefix}.{key}" if prefix else key, found.get(key), wanted.get(key))
    elif found != wanted:
        yield prefix, *_brief(found, wanted)


_SHOWN = 40


def _brief(here: Any, there: Any) -> tuple[Any, Any]:
    """Both values, long ones cut to where they begin to differ."""
    texts = str(here), str(there)
    if max(map(len, texts)) <= _SHOWN:
        return here, there
    same = next((at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = max(same - _SHOWN // 4, 0)
    cut = [("…" if start else "") + text[start : start + _SHOWN] + "…" * (len(text) > start + _SHOWN) for text in texts]
    return cut[0], cut[1]
