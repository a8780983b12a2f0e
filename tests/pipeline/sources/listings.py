"""What tests of listers share: small trees of files, and listings taken apart."""

import os

from richsem_prep.sources.entry import Rejected, SourceEntry


def write(root, *names):
    """Files whose content is their own name; names may be bytes."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(os.fsencode(name))


def split(items):
    """Pictures, and the name and reason of whatever else was listed."""
    items = list(items)
    entries = [item for item in items if isinstance(item, SourceEntry)]
    return entries, [(item.name, item.reason) for item in items if isinstance(item, Rejected)]
