"""The losses of the demo's teacher: contrastive, on captions of its world, and on the words of names."""

from collections.abc import Callable, Sequence

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from richsem_prep.demo import world
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

TEMPLATES = ("{}", "{}.", *(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES))

FIRST_LOGIT_SCALE = 20.0
"""Of a fresh model; also that of what the words are read off."""


def trained_names() -> list[str]:
    """The 120 names that training shows; the other 24 measure whether words compose."""
    split = world.assignment()
    return sorted({*(each.name for each in split.detection), *split.teacher_only})


def caption(rng: np.random.Generator, name: str) -> str:
    """A prompt for a class name, or for one word of it.

    Names are underscored more often than spaced, since text banks take them as they are.
    """
    if name == NONE_NAME:
        return name
    written = name if rng.random() < 0.75 else name.replace("_", " ")
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(written)


WORDS = (NONE_NAME, *world.TEXTURES, *world.COLOURS, *world.SHAPES)
"""The classes of the linear layer: nothing there, or one of each kind of word."""


def captions_loss(
    model: nn.Module,
    words: nn.Linear,
    image_features_ND: Tensor,
    shown: Sequence[str],
    tokenizer: Callable[[list[str]], Tensor],
    rng: np.random.Generator,
    *,
    words_weight: float,
) -> Tensor:
    """The contrastive loss against one caption of every trained name, and a loss on the words of the names.

    The second reads the words off the embeddings of pictures and captions by one linear layer for both, which is
    thrown away afterwards. It teaches a short training that names compose, and what each word looks like.

    Args:
        model: its text tower and logit scale.
        words: from an embedding to a logit for each of `WORDS`.
        image_features_ND: raw embeddings of the pictures.
        shown: N names, "none" among them.
        tokenizer: of the model.
        rng: draws the prompts.
        words_weight: of the second loss.
    """
    names = [NONE_NAME, *trained_names()]
    text_features_CD = model.encode_text(tokenizer([caption(rng, name) for name in names]))  # type: ignore[operator]
    labels = torch.tensor([names.index(name) for name in shown])
    scale = model.logit_scale.exp()  # type: ignore[operator]
    loss = contrastive_loss(image_features_ND, text_features_CD, labels, scale)
    of_words = words_loss(words, image_features_ND, shown) + words_loss(words, text_features_CD, names)
    return loss + words_weight * of_words


def words_loss(words: nn.Linear, features_ND: Tensor, names: Sequence[str]) -> Tensor:
    """Binary cross-entropy of the words of each name, read off its embedding; summed over words, a mean over names."""
    told_ND = torch.zeros(len(names), len(WORDS))
    for row, name in enumerate(names):
        for word in (name,) if name == NONE_NAME else world.split_name(name):
            told_ND[row, WORDS.index(word)] = 1
    scaled = functional.normalize(features_ND, dim=-1) * FIRST_LOGIT_SCALE
    logits = words(scaled)
    return functional.binary_cross_entropy_with_logits(logits, told_ND, reduction="sum") / len(names)


def contrastive_loss(
    image_features_ND: Tensor, text_features_CD: Tensor, labels_N: Tensor, logit_scale: Tensor
) -> Tensor:
    """CLIP's symmetric loss over images and captions, where images of one name share its caption.

    Args:
        image_features_ND: raw embeddings.
        text_features_CD: raw embeddings of one caption for each name; a name may have no image.
        labels_N: the name of each image.
        logit_scale: exponentiated.
    """
    images, texts = functional.normalize(image_features_ND, dim=-1), functional.normalize(text_features_CD, dim=-1)
    logits_NC = logit_scale * images @ texts.T
    same_CN = functional.one_hot(labels_N, len(texts)).T.float()
    shown_C = same_CN.sum(dim=1) > 0
    targets_SN = functional.normalize(same_CN[shown_C], p=1, dim=1)
    to_texts = functional.cross_entropy(logits_NC, labels_N)
    to_images = functional.cross_entropy(logits_NC.T[shown_C], targets_SN)
    return (to_texts + to_images) / 2
