"""One self-contained page of suspects: crops, labels, what the teacher would say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from richsem_prep.explore.page import templates_of
from richsem_prep.suspects.crops import ShownSuspect
from richsem_prep.suspects.find_suspects import LabelledClass, Suspects
from richsem_schemas.io.files import write_atomically
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES

MOST_SHOWN = 300
"""Suspects on a page, of some 10 kB each."""

_CLASSES_LISTED = 40


def write_suspects_page(path: Path, found: Suspects, shown: Sequence[ShownSuspect]) -> None:
    """Write the page, whole or not at all; `shown` are the first suspects of each group.

    Raises:
        FullDiskError: there is no space for it.
    """
    # Names may hold what UTF-8 has no bytes for.
    write_atomically(path, suspects_html(found, shown).encode("utf-8", "replace"))


def suspects_html(found: Suspects, shown: Sequence[ShownSuspect]) -> str:
    """The page, without a script, a style sheet or a picture from elsewhere."""
    listed = [each for each in found.classes if each.suspects or each.suggested]
    pages = templates_of(__package__, "richsem_prep.explore")
    return pages.get_template("suspects.html.j2").render(
        found=found,
        facts=_facts(found),
        shown=len(shown),
        sections=_sections(found, shown),
        classes=sorted(listed, key=_share, reverse=True)[:_CLASSES_LISTED],
        more_classes=max(len(listed) - _CLASSES_LISTED, 0),
    )


def _share(each: LabelledClass) -> float:
    return each.suspects / each.boxes


def _facts(found: Suspects) -> dict[str, str]:
    share = found.contradicted / found.boxes
    return {
        "Teacher": found.teacher,
        "Boxes judged": f"{found.boxes:,}, in {found.views}s",
        "Counted as of another class": f"{found.contradicted:,} ({share:.1%})",
        "Listed": f"{len(found.suspects):,}",
    }


def _sections(found: Suspects, shown: Sequence[ShownSuspect]) -> list[dict[str, Any]]:
    """Each group that has suspects, with its cards."""
    sections = []
    for group in FREQUENCY_NAMES.values():
        cards = [each for each in shown if each.suspect.group == group]
        if cards:
            count = sum(each.group == group for each in found.suspects)
            sections.append({"group": group, "count": count, "cards": cards})
    return sections


def first_of_each_group(found: Suspects, most: int = MOST_SHOWN) -> list[int]:
    """Numbers of the suspects that a page shows: of each group the first, rare ones as many as there are room for."""
    room, numbers = most, []
    groups = [
        [number for number, each in enumerate(found.suspects) if each.group == group]
        for group in FREQUENCY_NAMES.values()
    ]
    for place, group in enumerate(groups):
        # What comes later has its share, however many rare ones there are.
        later = sum(min(len(other), most // len(groups)) for other in groups[place + 1 :])
        taken = group[: max(room - later, 0)]
        numbers += taken
        room -= len(taken)
    return numbers
