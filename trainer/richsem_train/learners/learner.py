"""A detector and its losses as one module, whichever detector it is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from richsem_train.choices import Precision
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.models.detector import DetectionModel
from richsem_train.models.inputs import Normalise
from richsem_train.models.text_features import TextFeatures
from richsem_train.targets import Batch, Target


class Learner(nn.Module, ABC):
    """A detector and its losses, so that distributed training sees every use of a parameter.

    Attributes:
        detector: what is trained.
        normalise: makes what its backbone takes.
        weights: how much each loss counts, by name; those of all losses, in the order in which they come.
        soft_loss: of the semantic branch; None without one.
        precision: of the network.
        counted: how many numbers `counts` gives.
    """

    counted: ClassVar[int]

    detector: DetectionModel
    normalise: Normalise
    weights: Mapping[str, float]
    soft_loss: SoftLoss | None
    precision: Precision

    @property
    def teacher_text(self) -> TextFeatures | None:
        """The vocabulary as the teacher sees it, which the semantic branch is compared with; None without a branch.

        The classifier may have another, of another CLIP: that is the detector's own.
        """
        soft_loss = self.soft_loss
        if soft_loss is None or soft_loss.text_features is None:
            return None
        return TextFeatures.of(soft_loss.text_features, soft_loss.scale)

    @abstractmethod
    def counts(self, targets: Sequence[Target]) -> Tensor:
        """What sums of losses are divided by, as counted in some pictures: float32 or float64 [N], where they are.

        Counts of pictures add up to those of all of them, however they are grouped.
        """

    @abstractmethod
    def forward(
        self, batch: Batch, totals: Sequence[float], generators: Sequence[torch.Generator]
    ) -> dict[str, Tensor]:
        """The unweighted losses of a batch on the detector's device: scalars, as `weights` names and orders them.

        Args:
            batch: its "pseudo" labels are made.
            totals: the `counts` of the whole step over the number of ranks, each at least the draws of a rank; the same
                for all parts of a step.
            generators: one for each draw, which are equal numbers of consecutive pictures. All that is drawn comes from
                them.

        Raises:
            NonFiniteError: the detector's outputs hold NaN or infinity.
        """
