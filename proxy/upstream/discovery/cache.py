"""The last good endpoints on disk, so that a cold start works while the registry is away."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

from proxy.upstream.endpoint import Endpoint, Snapshot

FORMAT_VERSION = 1
FILE_BYTES_MAX = 64 * 1024 * 1024


class CacheError(Exception):
    """The file cannot be used; the text says why, for people."""


class _Saved(msgspec.Struct):
    version: int
    origin: str
    revision: int
    endpoints: tuple[Endpoint, ...]


class SnapshotFile:
    """One JSON file, mode 0600, replaced as a whole. Both calls block and belong in a thread.

    `origin` says which source and which place in it the endpoints come from: after a change of the configuration the
    brokers of another place must not be used. Endpoints hold no secrets, so neither does the file.
    """

    def __init__(self, path: str, origin: str) -> None:
        self.path = Path(path)
        self._origin = origin

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
        if saved.origin != self._origin:
            raise CacheError(f"{self.path} was saved from {saved.origin!r}, not from {self._origin!r}")
        return Snapshot(saved.endpoints, (), saved.revision)

    def save(self, snapshot: Snapshot) -> None:
        """Replace it at once: a crash leaves the old file or the new one. Raises `CacheError`."""
        saved = _Saved(FORMAT_VERSION, self._origin, snapshot.revision, snapshot.endpoints)
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
