"""What two detectors found, in words and as a table."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from richsem_schemas.io.words import printable_text
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES
from richsem_train.results.compare_detectors import ALL
from richsem_train.results.matching import Tally


def found_line(found: Mapping[str, Tally], a: str, b: str) -> str:
    """What two detectors found in a picture, of `compare_detectors`."""
    total, rare = found[ALL], found.get(FREQUENCY_NAMES["r"], Tally())
    parts = [f"{total.both} by both"]
    for title, alone, of_rare in ((a, total.only_a, rare.only_a), (b, total.only_b, rare.only_b)):
        parts.append(f"{alone} by {title} alone" + (f" ({of_rare} rare)" if of_rare else ""))
    for title, number, other in ((a, total.unknown_to_b, b), (b, total.unknown_to_a, a)):
        parts += [f"{number} by {title} of classes that {other} doesn't know"] if number else []
    return ", ".join(parts)


def found_table(found: Mapping[str, Tally], a: str, b: str) -> Table:
    """What two detectors found in all pictures, a row a frequency of classes."""
    columns = ["by both", f"by {a} alone", f"by {b} alone"]
    rows = {name: [each.both, each.only_a, each.only_b] for name, each in found.items()}
    for title, other, field in ((a, b, "unknown_to_b"), (b, a, "unknown_to_a")):
        if getattr(found[ALL], field):
            columns.append(f"by {title}, unknown to {other}")
            for name, row in rows.items():
                row.append(getattr(found[name], field))
    table = Table(title="objects found in all pictures")
    table.add_column("")
    for column in columns:
        table.add_column(escape(printable_text(column)), justify="right", overflow="fold")
    for name, row in rows.items():
        table.add_row(name, *(f"{number:,}" for number in row))
    return table
