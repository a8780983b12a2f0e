"""CC3M (Conceptual Captions) in either of the forms in which people have it."""

from collections.abc import Iterator

from richsem_prep.sources.conceptual_captions import DOWNLOADS, find_tsv, list_conceptual_captions
from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_prep.sources.img2dataset import TARS, list_img2dataset
from richsem_schemas.io.places import Place, require_local

_LAYOUT = f"{TARS}; or {DOWNLOADS}"


def list_cc3m(root: Place, *, with_captions: bool) -> Iterator[SourceEntry | Rejected]:
    """List CC3M's pictures: those of the TSV if it lies beside their folder, else those in img2dataset's tars.

    With captions, a picture without one is rejected.

    Raises:
        SourceError: at once where ROOT is missing, empty or neither; while listing and at its end as the two say.
    """
    if (tsv := find_tsv(root)) is not None:
        local = require_local(root, "CC3M's TSV and its pictures")
        return list_conceptual_captions(local, local / tsv.name, with_captions=with_captions)
    return list_img2dataset(root, layout=_LAYOUT, with_captions=with_captions)
