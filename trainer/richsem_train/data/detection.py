"""Pictures of a detection dataset as samples, for training and for evaluation."""

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.geometry import Crop, resized_hw, uncut
from richsem_schemas.cache.recipes import AnnotatedPicture, box_view
from richsem_schemas.cache.view import View
from richsem_schemas.errors import PictureError
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES, decode_picture
from richsem_train.choices import OnDamage
from richsem_train.data.collate import Sample
from richsem_train.data.damage import MAX_DAMAGED_IN_A_ROW, first_whole
from richsem_train.data.soft_labels import target_of
from richsem_train.data.transforms import Augmentation, Rendering, apply_crop, draw_augmented, render
from richsem_train.targets import Target

AUGMENTATION_STREAM = 102
"""Sets the augmentation of detection pictures apart from other random numbers of the same seed."""

DetectionKey = tuple[int, int, int]
"""Epoch, position in it, picture."""


class TrainingPictures(Dataset[Sample], ABC):
    """Training pictures, by (epoch, position in the epoch, picture); the next one takes the place of a damaged one.

    What a sample shows is a function of these three and the seed, whoever asks for it and whenever. Category ids of the
    annotations are rows of the vocabulary.
    """

    def __init__(self, data: DetectionData, *, on_damage: OnDamage) -> None:
        self.data = data
        self.on_damage = on_damage

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.data)

    def __getitem__(self, key: DetectionKey) -> Sample:
        """Read and show one picture.

        Raises:
            PictureError, DamagedViewError: it can't be read, and nor can those that may take its place.
        """
        candidates = ((key[2] + step) % len(self.data) for step in range(MAX_DAMAGED_IN_A_ROW))
        index, (picture, target), damage = first_whole(candidates, partial(self._show, key), on_damage=self.on_damage)
        return Sample(picture, target, self.data.files[index], damage)

    @abstractmethod
    def _show(self, key: DetectionKey, index: int) -> tuple[Rendering, Target]:
        """Picture and truth of the picture at an index, as they are drawn for a key."""


class DetectionDataset(TrainingPictures):
    """Augmented training pictures; with `is_hard` the semantic branch learns their labels."""

    def __init__(
        self,
        data: DetectionData,
        augmentation: Augmentation,
        *,
        seed: int,
        on_damage: OnDamage = "stop",
        is_hard: bool = False,
    ) -> None:
        super().__init__(data, on_damage=on_damage)
        self.augmentation = augmentation
        self.seed = seed
        self.is_hard = is_hard

    def _show(self, key: DetectionKey, index: int) -> tuple[Rendering, Target]:
        image = read_annotated_picture(self.data, index)
        crop, window = draw_window(self.data, index, _hw(image), self.augmentation, key=key, seed=self.seed)
        target = target_of(window, image_id=int(self.data.image_ids[index]), original_hw=_hw(image))
        # DETR resizes twice where it cuts; jitter once, as windows are made.
        picture = apply_crop(image, crop) if self.augmentation.kind == "detr" else render(window, {0: image})
        return picture, replace(target, is_hard=self.is_hard)


class EvaluationDataset(Dataset[Sample]):
    """All pictures in the order of the annotations, resized only; whole and undamaged ones are a must."""

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
        image = read_annotated_picture(self.data, index)
        hw = _hw(image)
        crop = uncut(hw, resized_hw(hw, self.short_side, self.longest_side))
        whole = box_view("whole", 0, annotated_picture(self.data, index, hw), crop, crop.out_hw)
        target = target_of(whole, image_id=int(self.data.image_ids[index]), original_hw=hw)
        return Sample(apply_crop(image, crop), target, self.data.files[index])


def draw_window(
    data: DetectionData,
    index: int,
    hw: tuple[int, int],
    augmentation: Augmentation,
    *,
    key: DetectionKey,
    seed: int,
) -> tuple[Crop, View]:
    """Draw how a picture is augmented, by the epoch and position of its key, and where that shows its boxes.

    Returns:
        What is done to the picture; the same as a window of a cache, whose one tile shows sample 0.
    """
    rng = np.random.default_rng([seed, AUGMENTATION_STREAM, *key[:2]])
    crop, canvas_hw = draw_augmented(hw, augmentation, rng)
    return crop, box_view("window", 0, annotated_picture(data, index, hw), crop, canvas_hw)


def annotated_picture(data: DetectionData, index: int, hw: tuple[int, int]) -> AnnotatedPicture:
    """The boxes of a picture, in pixels of it as decoded, which a cache may have shrunk."""
    boxes_xyxy, labels = data.boxes_xyxy(index), data.objects(index)[1]
    height, width = data.hws_px[index].tolist()
    if (height, width) != hw:
        boxes_xyxy = (boxes_xyxy * np.array([hw[1] / width, hw[0] / height] * 2)).astype(np.float32)
    return AnnotatedPicture(0, hw, 0, boxes_xyxy, labels)


def read_annotated_picture(data: DetectionData, index: int) -> Image.Image:
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


def _hw(image: Image.Image) -> tuple[int, int]:
    return image.height, image.width
