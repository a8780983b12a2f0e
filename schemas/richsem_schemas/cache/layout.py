"""Where each file of a cache lies, and which names are allowed."""

import re
from dataclasses import dataclass

from richsem_schemas.io.places import Place

FORMAT_VERSION = 1
BLOCK_SAMPLES = 64
"""Samples whose pictures may meet in one mosaic; a reader needs one block at a time."""

FEATURES_FILE = "features.npy"
"""Raw text means, float32 [C, D]; beside the `text.json` that describes them."""

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def check_dataset_name(name: str) -> str:
    """Return `name` if it may begin the names of shards.

    Raises:
        ValueError: it could be mistaken for a path or an extension.
    """
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't name a dataset; use up to 64 letters, digits, '-' and '_'")
    return name


def is_set_name(name: str) -> bool:
    """Whether `name` may name a label set, which is a folder: it can't be mistaken for a path."""
    return _SET_NAME.fullmatch(name) is not None and ".." not in name


def check_set_name(name: str) -> str:
    """Return `name` if it may name a label set.

    Raises:
        ValueError: it may not.
    """
    if not is_set_name(name):
        raise ValueError(f"{name!r} can't name a label set; use up to 100 letters, digits, '.', '_', '+' and '-'")
    return name


def sample_key(shard: int, sample: int) -> str:
    """The `__key__` of a sample by its position in the shard: no dots, sorted as the samples are, short."""
    return f"{shard:06d}-{sample:05d}"


@dataclass(frozen=True)
class CacheLayout:
    """The files of a cache.

    Attributes:
        name: the dataset's name, with which every shard begins.
    """

    out: Place
    name: str

    def __post_init__(self) -> None:
        check_dataset_name(self.name)

    def shard_name(self, shard: int) -> str:
        """Name of a shard without its extension."""
        return f"{self.name}-{shard:06d}"

    @property
    def manifest(self) -> Place:
        """Counts and hashes of the whole cache; written last."""
        return self.out / "manifest.json"

    @property
    def plan(self) -> Place:
        """The plan; written first."""
        return self.out / "plan" / "plan.json"

    @property
    def pictures_elsewhere(self) -> Place:
        """Where the pictures lie, in a folder of labels alone: the manifest of the cache that holds them."""
        return self.out / "plan" / "pictures.json"

    @property
    def listing(self) -> Place:
        """Every picture of the source, in the source's order."""
        return self.out / "plan" / "listing.arrow"

    @property
    def listing_quarantine(self) -> Place:
        """Files of the source that the listing left out."""
        return self.out / "quarantine" / "listing.jsonl"

    def pictures_tar(self, shard: int) -> Place:
        """The pictures of a shard."""
        return self.out / "pictures" / f"{self.shard_name(shard)}.tar"

    def pictures_index(self, shard: int) -> Place:
        """Where each picture lies in its tar."""
        return self.out / "index" / "pictures" / f"{self.shard_name(shard)}.parquet"

    def pictures_receipt(self, shard: int) -> Place:
        """Counts and hashes of a finished shard of pictures; its done-mark."""
        return self.out / "receipts" / "pictures" / f"{self.shard_name(shard)}.json"

    def quarantine(self, shard: int) -> Place:
        """The samples of a shard that were left out, and why."""
        return self.out / "quarantine" / f"{self.shard_name(shard)}.jsonl"

    def label_set(self, name: str) -> "LabelSetLayout":
        """The files of one label set."""
        return LabelSetLayout(self, name)

    def label_sets(self) -> list[str]:
        """Names of the label sets that have been begun, sorted."""
        folders = self.out / "labels"
        if not folders.is_dir():
            return []
        names = (folder.name for folder in folders.iterdir() if (folder / "spec.json").is_file())
        return sorted(filter(is_set_name, names))


@dataclass(frozen=True)
class LabelSetLayout:
    """The files of one label set of a cache."""

    cache: CacheLayout
    name: str

    def __post_init__(self) -> None:
        check_set_name(self.name)

    @property
    def folder(self) -> Place:
        """The set's own folder."""
        return self.cache.out / "labels" / self.name

    @property
    def spec(self) -> Place:
        """Teacher, views and text that the set is made with; written first."""
        return self.folder / "spec.json"

    @property
    def manifest(self) -> Place:
        """Counts and hashes of the whole set; written last."""
        return self.folder / "manifest.json"

    @property
    def text(self) -> Place:
        """Class names and templates of the text bank."""
        return self.folder / "text" / "text.json"

    @property
    def text_features(self) -> Place:
        """Raw text means, float32 [C, D]."""
        return self.text.parent / FEATURES_FILE

    def tar(self, shard: int) -> Place:
        """The labelled views of a shard."""
        return self.folder / f"{self.cache.shard_name(shard)}.tar"

    def index(self, shard: int) -> Place:
        """Where each view lies in its tar."""
        return self.cache.out / "index" / "labels" / self.name / f"{self.cache.shard_name(shard)}.parquet"

    def receipt(self, shard: int) -> Place:
        """Counts and hashes of a finished shard of labels; its done-mark."""
        return self.cache.out / "receipts" / "labels" / self.name / f"{self.cache.shard_name(shard)}.json"

    @property
    def audits(self) -> Place:
        """Folder of what `richsem-prep audit` found, a file an audit, the last one last by name."""
        return self.cache.out / "audits" / self.name
