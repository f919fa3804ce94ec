"""The entries below the prefix as far as they are known, and how they read as endpoints. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.upstream.discovery.entry import BadEntry, parse_entry
from proxy.upstream.discovery.registry import Item, Listing, RegistryError
from proxy.upstream.endpoint import Endpoint, Rejected, Snapshot


@dataclass(frozen=True, slots=True)
class _Entry:
    mod_revision: int
    endpoint: Endpoint | None
    reason: str = ""


class View:
    """What the registry holds, kept by whole lists and by single changes.

    A key whose new value cannot be understood keeps the endpoint that it last stood for: a slip of an operator must
    not take a healthy broker away. It is listed as rejected all the same. Deleting the key does take it away.
    """

    def __init__(self, prefix: str, entries_max: int) -> None:
        self._prefix = prefix
        self._entries_max = entries_max
        self._entries: dict[str, _Entry] = {}
        self._revision = 0

    def replace(self, listing: Listing) -> None:
        """Take a whole list for the truth. Raises `RegistryError` if it is too long to be believed."""
        if not listing.complete:
            self._refuse()
        self._entries = {item.key: self._read(item) for item in listing.items}
        self._revision = listing.revision

    def apply(self, items: Iterable[Item], revision: int) -> None:
        """Take single changes; what is already known is left alone. Raises `RegistryError` as `replace`."""
        for item in items:
            known = self._entries.get(item.key)
            if known is not None and known.mod_revision >= item.mod_revision:
                continue
            if item.value is None:
                self._entries.pop(item.key, None)
            else:
                self._entries[item.key] = self._read(item)
        if len(self._entries) > self._entries_max:
            self._refuse()
        self._revision = max(self._revision, revision)

    def matches(self, listing: Listing) -> bool:
        """Whether a list says nothing that is not known."""
        known = {key: entry.mod_revision for key, entry in self._entries.items()}
        return listing.complete and known == {item.key: item.mod_revision for item in listing.items}

    def snapshot(self) -> Snapshot:
        """All that is known, by name."""
        entries = sorted(self._entries.items())
        return Snapshot(
            tuple(entry.endpoint for _, entry in entries if entry.endpoint is not None),
            tuple(Rejected(key, entry.reason) for key, entry in entries if entry.reason),
            self._revision,
        )

    def _read(self, item: Item) -> _Entry:
        known = self._entries.get(item.key)
        if known is not None and known.mod_revision == item.mod_revision:
            return known
        name = item.key.removeprefix(self._prefix)
        if not name:
            return _Entry(item.mod_revision, None, "the key has no name after the prefix")
        try:
            return _Entry(item.mod_revision, parse_entry(item.value or b"", name))
        except BadEntry as error:
            if known is None or known.endpoint is None:
                return _Entry(item.mod_revision, None, str(error))
            return _Entry(item.mod_revision, known.endpoint, f"{error} (the value before it stays in use)")

    def _refuse(self) -> None:
        raise RegistryError(f"more than {self._entries_max} keys begin with {self._prefix!r}: is etcd.prefix right?")
