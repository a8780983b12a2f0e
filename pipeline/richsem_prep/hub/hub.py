"""A dataset repository on the Hugging Face hub, as `push` and `pull` need it; what goes wrong there is one error.

Files go and come by the hub's own client, which splits, retries and goes on after a cut. Ours is what it doesn't
promise: only names that are asked for are fetched, and what comes and goes has the size and the hash that a manifest
names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import logging

from richsem_schemas.cache.layout import is_set_name
from richsem_schemas.cache.record import SealedRecord
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, hash_file, move_into_place
from richsem_schemas.io.output_files import FULL, full_disk_named
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.sealed_json import MAX_JSON_BYTES
from richsem_schemas.io.words import one_line

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_Record = TypeVar("_Record", bound=SealedRecord)


class HubError(RichSemError):
    """The hub, or the way there, failed."""


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

    @property
    def size(self) -> int:
        """Its bytes."""
        if self.expected is not None:
            return self.expected.bytes
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def lay(self, folder: Path) -> None:
        """Put it below a folder that the client uploads: a link to a local file, a copy of anything else.

        Raises:
            IrregularFileError: it is no regular file; the client would wait for a pipe.
            CorruptCacheError: it is not what it is known to be.
        """
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
            return
        if isinstance(self.content, RemotePath):
            with path.open("wb") as copy:
                self.content.copy_to(copy.write)
        else:
            path.symlink_to(self.content.absolute())
        found = hash_file(path if isinstance(self.content, RemotePath) else self.content)
        if self.expected is not None and found != self.expected:
            raise CorruptCacheError(
                f"{self.content!s}: its bytes don't match the manifest; see `richsem-prep verify`, push again"
            )


class HubRepo:
    """One dataset repository."""

    def __init__(self, name: str, endpoint: str | None = None) -> None:
        if not _REPO.fullmatch(name) or ".." in name or "--" in name:
            raise HubError(f"{name!r} names no repository; write ORGANISATION/NAME, such as my-group/inet-lvis-labels")
        # Its warnings of each connection that it tries again would cross our lines.
        logging.set_verbosity_error()
        self.name = name
        self.api = HfApi(endpoint=endpoint)

    def create(self, *, private: bool) -> None:
        """Make the repository, unless it is there."""
        with _client_errors(self.name):
            self.api.create_repo(self.name, repo_type="dataset", private=private, exist_ok=True)

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """The main branch as it is now.

        Raises:
            HubError: there is no such repository, or it can't be reached.
        """
        with _client_errors(self.name):
            revision = str(self.api.dataset_info(self.name).sha)
            tree = self.api.list_repo_tree(self.name, recursive=True, revision=revision, repo_type="dataset")
            files = {item.path: item for item in tree if isinstance(item, RepoFile)}
        with TemporaryDirectory(prefix="richsem-hub-") as folder:
            yield Snapshot(self, revision, files, Path(folder))

    def upload(self, uploads: Sequence[Upload], message: str) -> None:
        """Upload files, each checked before the first goes; those that are there already cost nothing.

        Raises:
            CorruptCacheError: a file is not what it is known to be; nothing of all of them is uploaded.
            HubError: the network failed.
        """
        with TemporaryDirectory(prefix="richsem-push-") as folder:
            for upload in uploads:
                upload.lay(Path(folder))
            with _client_errors(self.name):
                self.api.upload_folder(
                    repo_id=self.name, folder_path=folder, repo_type="dataset", commit_message=message
                )


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        files: what the repository says of its files, by names that may be anything.
        folder: small files are fetched here.
    """

    repo: HubRepo
    revision: str
    files: Mapping[str, RepoFile]
    folder: Path

    def label_sets(self) -> list[str]:
        """Names of the finished label sets, sorted; other names are passed over."""
        manifests = [re.fullmatch("labels/([^/]*)/manifest.json", name) for name in self.files]
        return sorted(match[1] for match in manifests if match is not None and is_set_name(match[1]))

    def record(self, model: type[_Record], name: str) -> _Record:
        """A sealed JSON file, validated.

        Raises:
            CorruptCacheError: it isn't what was written.
            HubError: as `fetch`.
        """
        path = self.fetch(name, self.folder, limit=MAX_JSON_BYTES)
        try:
            return model.read(path)
        except CorruptCacheError as error:
            raise CorruptCacheError(str(error).replace(str(path), f"{self.repo.name}/{name}")) from None

    def fetch(self, name: str, folder: Path, *, limit: int) -> Path:
        """Fetch a file into a folder.

        Raises:
            HubError: the network failed, or the repository has no such file, or one of more than `limit` bytes.
            FullDiskError: there is no space for it.
        """
        known = self.files.get(name)
        if known is None:
            raise HubError(f"{self.repo.name} lacks {name}: nobody has pushed a label set there, or not to its end")
        if known.size > limit:
            raise HubError(f"{self.repo.name}: {name} has {known.size:,} bytes; at most {limit:,} are fetched")
        with full_disk_named(folder / name), _client_errors(self.repo.name):
            return Path(
                self.repo.api.hf_hub_download(
                    self.repo.name, name, repo_type="dataset", revision=self.revision, local_dir=folder
                )
            )

    def take(self, name: str, to: Place, expected: FileHash, folder: Path) -> None:
        """Fetch a file to a place where it appears whole and with the hash that is expected, or not at all.

        Args:
            name: in the repository.
            to: the place.
            expected: size and hash; of another size it isn't fetched at all.
            folder: where it is until it is whole; on the disk of `to`, unless that is a URL.

        Raises:
            HubError: as `fetch`, or it is another file.
            FullDiskError: there is no space for it.
        """
        listed = self.files.get(name)
        if listed is not None and listed.size != expected.bytes:
            raise self._wrong(name, f"{listed.size:,} bytes instead of {expected.bytes:,}")
        path = self.fetch(name, folder, limit=expected.bytes)
        if hash_file(path) != expected:
            path.unlink()
            raise self._wrong(name, "other bytes")
        move_into_place(path, to)

    def _wrong(self, name: str, found: str) -> HubError:
        return HubError(
            f"{self.repo.name}: {name} is not what its manifest names ({found}); run the same command again, or ask "
            "whoever pushed it to push again"
        )


@contextmanager
def _client_errors(repo: str) -> Iterator[None]:
    """Turn whatever the client raises into one error that says what to do."""
    try:
        yield
    except (RichSemError, MemoryError):
        raise
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{repo}: the hub has no such dataset repository, or hides it from you; check the name, and "
            "`hf auth login` if it is private"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        # The client's exceptions are those of several libraries, and differ between its versions.
        raise HubError(
            f"{repo}: the hub could not be used ({type(error).__name__}: {one_line(error)}); check the network and "
            "`hf auth whoami`, then run the same command again: it goes on from what is there"
        ) from error
