"""Pictures of a detection dataset as samples, for training and for evaluation."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.geometry import resized_hw
from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, decode_picture
from richsem_train.data.collate import Sample
from richsem_train.data.damage import OnDamage, whole_picture
from richsem_train.data.transforms import Augmentation, Boxes, augment, resize, xyxy_px_to_cxcywh_norm
from richsem_train.targets import Target

AUGMENTATION_STREAM = 102
"""Sets the augmentation of detection pictures apart from other random numbers of the same seed."""


class DetectionDataset(Dataset[Sample]):
    """Augmented training pictures, by (epoch, position in the epoch, picture).

    What a sample shows is a function of the seed and these three, whoever asks for it and whenever.

    Args:
        data: the annotations.
        augmentation: what is done to the pictures.
        seed: of the run.
        on_damage: what to do about missing or broken pictures.
        is_hard: the semantic branch learns the labels.
    """

    def __init__(
        self,
        data: DetectionData,
        augmentation: Augmentation,
        *,
        seed: int,
        on_damage: OnDamage = "stop",
        is_hard: bool = False,
    ) -> None:
        self.data = data
        self.augmentation = augmentation
        self.seed = seed
        self.on_damage = on_damage
        self.is_hard = is_hard

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.data)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """Augment one picture.

        Raises:
            PictureError: it is missing or broken, and so are those that may take its place.
        """
        epoch, position, picture = key
        index, image, damage = whole_picture(
            picture, partial(read_picture, self.data), len(self.data), on_damage=self.on_damage
        )
        rng = np.random.default_rng([self.seed, AUGMENTATION_STREAM, epoch, position])
        boxes_xyxy_px, labels = objects_xyxy(self.data, index, _hw(image))
        augmented = augment(image, boxes_xyxy_px, self.augmentation, rng)
        kept = labels[augmented.kept]
        sample = _sample(self.data, index, augmented.image, augmented.boxes_xyxy_px, kept, _hw(image))
        return sample._replace(target=replace(sample.target, is_hard=self.is_hard), damage=damage)


class EvaluationDataset(Dataset[Sample]):
    """All pictures in the order of the annotations, resized only; whole and undamaged ones are a must.

    Args:
        data: the annotations.
        short_side: of the picture that the model sees, pixels.
        longest_side: its long side has at most this many pixels.
    """

    def __init__(self, data: DetectionData, *, short_side: int = 800, longest_side: int = 1333):
        self.data = data
        self.short_side = short_side
        self.longest_side = longest_side

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        """Resize one picture.

        Raises:
            PictureError: it is missing or broken.
        """
        if not 0 <= index < len(self.data):
            raise IndexError(index)
        image = read_picture(self.data, index)
        boxes_xyxy_px, labels = objects_xyxy(self.data, index, _hw(image))
        out_hw = resized_hw(_hw(image), self.short_side, self.longest_side)
        return _sample(self.data, index, *resize(image, boxes_xyxy_px, out_hw), labels, _hw(image))


def read_picture(data: DetectionData, index: int) -> Image.Image:
    """Read and decode one picture.

    Raises:
        PictureError: it is missing, unreadable or broken, or has another size than its boxes were drawn for.
    """
    path = data.path(index)
    assert isinstance(path, Path), "a config names a local folder"
    try:
        image = decode_picture(_read_bytes(path))
    except OSError as error:
        raise PictureError(
            f"{path}: can't be read ({error.strerror or error}); restore it, or take it out of the annotations"
        ) from error
    except PictureError as error:
        raise PictureError(f"{path}: {error}; replace it, or take it out of the annotations") from error
    height, width = data.hws_px[index].tolist()
    if _hw(image) != (height, width) and not data.are_relative:
        raise PictureError(
            f"{path}: is {image.height} high and {image.width} wide, its annotations say {height} and {width}; "
            "boxes hold for pictures of the annotated size, upright as EXIF has it"
        )
    return image


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise PictureError(f"is larger than {MAX_PICTURE_BYTES:,} bytes, the most a picture may have")
    return data


def objects_xyxy(data: DetectionData, index: int, hw: tuple[int, int]) -> tuple[Boxes, NDArray[np.int64]]:
    """Boxes of a picture in pixels of it as decoded, which a cache may have shrunk, [G, 4], and their labels, [G].

    Args:
        data: the annotations.
        index: of the picture.
        hw: its height and width as decoded.
    """
    boxes_xyxy, labels = data.boxes_xyxy(index), data.objects(index)[1]
    height, width = data.hws_px[index].tolist()
    if (height, width) != hw:
        boxes_xyxy = (boxes_xyxy * np.array([hw[1] / width, hw[0] / height] * 2)).astype(np.float32)
    return boxes_xyxy, labels


def _sample(
    data: DetectionData,
    index: int,
    image: Image.Image,
    boxes_xyxy_px: Boxes,
    labels: NDArray[np.int64],
    original_hw: tuple[int, int],
) -> Sample:
    pixels_HW3 = torch.from_numpy(np.array(image))
    target = Target(
        boxes_cxcywh_norm=torch.from_numpy(xyxy_px_to_cxcywh_norm(boxes_xyxy_px, _hw(image))),
        labels=torch.from_numpy(labels.copy()),
        image_id=int(data.image_ids[index]),
        image_hw=_hw(image),
        original_hw=original_hw,
    )
    return Sample(pixels_HW3.permute(2, 0, 1).contiguous(), target, data.files[index])


def _hw(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width
