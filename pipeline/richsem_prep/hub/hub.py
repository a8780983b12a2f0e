"""A dataset repository on the Hugging Face hub, as `push` and `pull` need it; what goes wrong there is one error."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from richsem_schemas.cache.layout import check_set_name
from richsem_schemas.cache.manifest import (
    CacheManifest,
    LabelManifest,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    TextManifest,
)
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, hashed_file, open_regular
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.sealed_json import MAX_JSON_BYTES

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_CHUNK = 2**20

_Record = TypeVar("_Record", Plan, CacheManifest, PicturesReceipt, LabelManifest, LabelsReceipt, TextManifest)


class HubError(RichSemError):
    """The hub, or the way there, failed."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size in bytes, and the SHA-256 of its content where the hub knows it."""

    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Upload:
    """A file to be uploaded.

    Attributes:
        name: in the repository.
        content: a file, or bytes.
        expected: what its content is known to be; None where anything will do.
    """

    name: str
    content: Place | bytes
    expected: FileHash | None = None


class HubRepo:
    """One dataset repository.

    Attributes:
        name: ORGANISATION/NAME.
    """

    def __init__(self, name: str, endpoint: str | None = None) -> None:
        if not _REPO.fullmatch(name) or ".." in name or "--" in name:
            raise HubError(f"{name!r} names no repository; write ORGANISATION/NAME, such as my-group/inet-lvis-labels")
        self.name = name
        self._api = HfApi(endpoint=endpoint)
        self._files = HfFileSystem(endpoint=endpoint, use_listings_cache=False, skip_instance_cache=True)

    def create(self, *, private: bool) -> None:
        """Make the repository, unless it is there."""
        with self._speaking():
            self._api.create_repo(self.name, repo_type="dataset", private=private, exist_ok=True)

    def revision(self) -> str:
        """The commit that the main branch is at.

        Raises:
            HubError: there is no such repository, or it can't be reached.
        """
        with self._speaking():
            return str(self._api.dataset_info(self.name).sha)

    def files(self, revision: str) -> dict[str, RemoteFile]:
        """All files by name; names are whatever the repository says."""
        with self._speaking():
            tree = self._api.list_repo_tree(self.name, recursive=True, revision=revision, repo_type="dataset")
            found = [item for item in tree if isinstance(item, RepoFile)]
        return {item.path: RemoteFile(item.size, item.lfs.sha256 if item.lfs else None) for item in found}

    def chunks(self, name: str, revision: str, *, limit: int) -> Iterator[bytes]:
        """The content of a file, piece by piece, never more than one piece beyond `limit` bytes.

        Raises:
            HubError: the network failed, or the repository doesn't have the file.
        """
        path = f"datasets/{self.name}@{revision}/{name}"
        with self._speaking(name), closing(self._files.open(path, "rb", block_size=0)) as file:
            done = 0
            while done <= limit and (data := file.read(_CHUNK)):
                done += len(data)
                yield data

    def fetch(self, name: str, revision: str, to: Place, expected: FileHash) -> None:
        """Write a file of the repository to a place, whole and with the hash that is expected, or not at all.

        Raises:
            HubError: the network failed, or it is another file.
        """
        with hashed_file(to) as file:
            for data in self.chunks(name, revision, limit=expected.bytes):
                file.write(data)
            if (found := file.hash()) != expected:
                raise HubError(
                    f"{self.name}: {name} is not what its manifest names ({found.bytes:,} bytes of "
                    f"{expected.bytes:,}, SHA-256 {found.sha256[:12]}… instead of {expected.sha256[:12]}…); run the "
                    "same command again, or ask whoever pushed it to push again"
                )

    def read(self, name: str, revision: str) -> bytes:
        """A small file.

        Raises:
            HubError: the network failed, the repository doesn't have it, or it is larger than any JSON of ours.
        """
        data = b"".join(self.chunks(name, revision, limit=MAX_JSON_BYTES))
        if len(data) > MAX_JSON_BYTES:
            raise HubError(f"{self.name}: {name} has more than {MAX_JSON_BYTES:,} bytes")
        return data

    def record(self, model: type[_Record], name: str, revision: str) -> _Record:
        """A sealed JSON file, validated.

        Raises:
            CorruptCacheError: it isn't what was written.
            HubError: the network failed, or the repository doesn't have it.
        """
        data = self.read(name, revision)
        with TemporaryDirectory(prefix="richsem-") as folder:
            copy = Path(folder) / "record.json"
            copy.write_bytes(data)
            try:
                return model.read(copy)
            except CorruptCacheError as error:
                raise CorruptCacheError(str(error).replace(str(copy), f"{self.name}/{name}")) from None

    def commit(self, uploads: Sequence[Upload], message: str) -> None:
        """Upload files and make them visible, all or none; those that are there already cost nothing.

        Raises:
            CorruptCacheError: a file is not what it is known to be; nothing of this commit is visible then.
            HubError: the network failed.
        """
        operations = [CommitOperationAdd(upload.name, _content(upload)) for upload in uploads]
        with self._speaking():
            self._api.preupload_lfs_files(self.name, operations, repo_type="dataset", free_memory=False)
        for upload, operation in zip(uploads, operations, strict=True):
            if upload.expected is not None and operation.upload_info.sha256.hex() != upload.expected.sha256:
                raise CorruptCacheError(
                    f"{upload.content!s}: its bytes don't match the manifest; see `richsem-prep verify`, push again"
                )
        with self._speaking():
            self._api.create_commit(self.name, operations, commit_message=message, repo_type="dataset")

    @contextmanager
    def _speaking(self, file: str = "what was asked for") -> Iterator[None]:
        """Turn whatever the client raises into one error that says what to do."""
        try:
            yield
        except (RichSemError, MemoryError):
            raise
        except RepositoryNotFoundError as error:
            raise HubError(
                f"{self.name}: the hub has no such dataset repository, or hides it from you; check the name, and "
                "`hf auth login` if it is private"
            ) from error
        except (FileNotFoundError, EntryNotFoundError) as error:
            raise HubError(
                f"{self.name} lacks {file}: nobody has pushed a label set there, or not to its end"
            ) from error
        except Exception as error:
            # The client's exceptions are those of several libraries, and differ between its versions.
            text = " ".join(str(error).split())[:300]
            raise HubError(
                f"{self.name}: the hub could not be used ({type(error).__name__}: {text}); check the network and "
                "`hf auth whoami`, then run the same command again: it goes on from what is there"
            ) from error


def label_manifests(files: Iterable[str]) -> list[str]:
    """Names of the manifests of label sets among a repository's files, sorted; other names are passed over."""
    return sorted(name for name in files if _is_label_manifest(name))


def _is_label_manifest(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    try:
        return file == "manifest.json" and folder == f"labels/{check_set_name(folder.removeprefix('labels/'))}"
    except ValueError:
        return False


def _content(upload: Upload) -> str | bytes:
    """What the client takes: the path of a local file, else bytes."""
    if isinstance(upload.content, RemotePath):
        return upload.content.read_bytes()
    if isinstance(upload.content, bytes):
        return upload.content
    # The client would wait for a pipe.
    open_regular(upload.content).close()
    return str(upload.content)
