"""What is in a picture, nobody knows where: each layer's largest box learns it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.devices import sent
from richsem_train.numerics import at_least_float32


def image_label_losses(areas_SBQ: Tensor, logits_SBQC: Tensor, image_labels: Sequence[Tensor | None]) -> Tensor:
    """Binary cross-entropy of the largest box of each layer against the labels of its picture.

    Args:
        areas_SBQ: width times height of Q candidates in each of S layers, in one unit a picture; of the largest the
            first counts. Negative where there is no candidate; without any, the layer learns nothing of the picture.
        logits_SBQC: theirs; only the largest boxes' get a gradient.
        image_labels: of each of B pictures, int64 [M], distinct rows of the vocabulary above 0; None or an empty one
            where nothing is known of the whole picture, which then teaches nothing.

    Returns:
        Sums over pictures, at least float32, [S]; to be divided by `labelled_pictures`.

    Source:
        Zhou et al. 2022, Detic (arXiv 2201.02605), max-size. One cross-entropy a label against its class alone, summed
        over all classes, their mean a picture: the same as one against the mean of the labels' one-hot vectors, since
        the cross-entropy is linear in what it is compared with. All classes but row 0 ("none") take part, those without
        training pictures too: there is no federated draw. Differs: Detic's column of background adds a constant.
    """
    wanted_BC = label_shares(image_labels, like_C=logits_SBQC[0, 0, 0])
    largest_SB = areas_SBQ.argmax(-1)
    teaches_SB = (areas_SBQ.amax(-1) >= 0) & (wanted_BC.sum(-1) > 0)
    places_SB1C = largest_SB[..., None, None].expand(-1, -1, 1, logits_SBQC.shape[-1])
    logits_SBC = at_least_float32(logits_SBQC.gather(2, places_SB1C).squeeze(2))
    entropy_SBC = functional.binary_cross_entropy_with_logits(
        logits_SBC, wanted_BC.expand_as(logits_SBC), reduction="none"
    )
    return entropy_SBC[..., 1:].sum(-1).where(teaches_SB, 0).sum(1)


def labelled_pictures(image_labels: Sequence[Tensor | None]) -> int:
    """How many pictures have labels as a whole."""
    return sum(labels is not None and len(labels) > 0 for labels in image_labels)


def label_shares(image_labels: Sequence[Tensor | None], *, like_C: Tensor) -> Tensor:
    """The mean of the one-hot vectors of each picture's labels, at least float32 [B, C]; 0 where nothing is known."""
    shares_BC = at_least_float32(like_C.new_zeros(len(image_labels), len(like_C)))
    known = [(picture, labels) for picture, labels in enumerate(image_labels) if labels is not None]
    if not known:
        return shares_BC
    rows = [(picture, 1 / len(labels)) for picture, labels in known for _ in range(len(labels))]
    pictures_N = torch.tensor([picture for picture, _ in rows], dtype=torch.long)
    shares_N = torch.tensor([share for _, share in rows], dtype=shares_BC.dtype)
    places = (sent(pictures_N, like_C.device), torch.cat([labels for _, labels in known]))
    return shares_BC.index_put(places, sent(shares_N, like_C.device))
