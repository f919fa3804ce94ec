"""The last good endpoints on disk, so that a cold start works while the registry is away."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from proxy.upstream.endpoint import Endpoint, Snapshot

FORMAT_VERSION = 2
FILE_BYTES_MAX = 64 * 1024 * 1024


class CacheError(Exception):
    """The file cannot be used; the text says why, for people."""


class _Saved(msgspec.Struct):
    version: int
    origins: tuple[str, ...] = ()
    revision: int = 0
    endpoints: tuple[Endpoint, ...] = ()


class SnapshotFile:
    """One JSON file, mode 0600, replaced as a whole. Both calls block and belong in a thread.

    `origins` say which source and which place in it the endpoints come from: after a change of the configuration the
    brokers of another place must not be used. A source that is reached in several ways has several; one in common
    makes it the same place. Neither they nor endpoints hold secrets, so neither does the file.
    """

    def __init__(self, path: str, origins: Iterable[str]) -> None:
        self.path = Path(path)
        self._origins = tuple(sorted(origins))

    def load(self) -> Snapshot | None:
        """Read it, None if there is none yet. Raises `CacheError`."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX)
            saved = msgspec.json.decode(raw, type=_Saved)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(str(error)) from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CacheError(f"{self.path} is damaged: {error}") from error
        if saved.version != FORMAT_VERSION:
            raise CacheError(f"{self.path} has format {saved.version}, not {FORMAT_VERSION}")
        if not set(saved.origins) & set(self._origins):
            raise CacheError(f"{self.path} was saved from {_listed(saved.origins)}, not from {_listed(self._origins)}")
        return Snapshot(saved.endpoints, (), saved.revision)

    def save(self, snapshot: Snapshot) -> None:
        """Replace it at once: a crash leaves the old file or the new one. Raises `CacheError`."""
        saved = _Saved(FORMAT_VERSION, self._origins, snapshot.revision, snapshot.endpoints)
        try:
            # mkstemp makes the file with mode 0600, and replacing keeps that.
            handle, temporary = tempfile.mkstemp(prefix=self.path.name + ".", dir=self.path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(msgspec.json.encode(saved))
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(self.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            raise CacheError(str(error)) from error


def _listed(origins: Iterable[str]) -> str:
    return " or ".join(origins) or "nowhere"
