"""What became of the weights of a file."""

from collections.abc import Mapping
from dataclasses import dataclass

from richsem_train.models.backbone_weights import first_few


@dataclass(frozen=True)
class LoadReport:
    """The weights of a checkpoint: taken, skipped, missing.

    Attributes:
        loaded: names of the weights that the detector took.
        skipped: names in the file, by the reason why they were left out.
        missing: names of the detector that the file has not; they keep what they started with.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]

    def summary(self) -> str:
        """For the log, a line."""
        parts = [f"{len(self.loaded)} weights loaded"]
        parts += [f"{len(names)} skipped ({reason})" for reason, names in self.skipped.items()]
        if self.missing:
            parts.append(f"{len(self.missing)} missing, left as initialised: {first_few(self.missing)}")
        return "; ".join(parts)
