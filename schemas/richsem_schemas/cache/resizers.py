"""Which resizers the shards of a label set were made with."""

from richsem_schemas.cache.manifest import LabelManifest

_SHOWN_KERNELS, _SHOWN_CHARACTERS = 4, 40


def resizers_note(manifest: LabelManifest) -> str | None:
    """What to tell of a label set whose shards were resized by more than one kernel; None of any other."""
    kernels = sorted({each.versions["resizer"] for each in manifest.environments if "resizer" in each.versions})
    if len(kernels) < 2:
        return None
    shown = ", ".join(repr(kernel[:_SHOWN_CHARACTERS]) for kernel in kernels[:_SHOWN_KERNELS])
    return (
        f"shards of label set {manifest.name!r} were resized by {shown}{', …' * (len(kernels) > _SHOWN_KERNELS)}: "
        "pixels differ by about a grey level between them; with one resizer on all workers they would be alike"
    )
