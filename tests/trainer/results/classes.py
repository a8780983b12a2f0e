"""Vocabularies of a few rows."""

from collections.abc import Mapping

from richsem_train.results.prediction import ClassTable


def class_table(names: Mapping[int, str], frequencies: Mapping[int, str] | None = None) -> ClassTable:
    """Of these rows; the others up to them have no name."""
    rows = range(max(names) + 1)
    return ClassTable(
        tuple(names.get(row, "") for row in rows), tuple((frequencies or {}).get(row, "") for row in rows)
    )
