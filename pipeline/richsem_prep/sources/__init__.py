"""Where pictures come from: each source lists what a dataset holds and reads one picture's bytes."""

from richsem_prep.sources.cc3m import list_cc3m
from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry, read_entry
from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_prep.sources.imagenet import absent_classes, list_imagenet
from richsem_prep.sources.webdataset import list_webdataset

__all__ = [
    "PictureBoxes",
    "Rejected",
    "SourceEntry",
    "absent_classes",
    "folder_classes",
    "list_cc3m",
    "list_folder",
    "list_imagenet",
    "list_webdataset",
    "read_entry",
]
