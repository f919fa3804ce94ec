"""Endpoints in a YAML or JSON file that is read again when it changes (a ConfigMap, a configuration tool)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import ConfigError
from proxy.upstream.discovery.entry import BadEntry, parse_node
from proxy.upstream.discovery.source import Answer, Fail
from proxy.upstream.endpoint import Endpoint, Rejected, Snapshot

FILE_BYTES_MAX = 8 * 1024 * 1024

_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FilePolicy:
    """`path` is looked at every `poll_s` seconds; only a changed file is read."""

    path: str = ""
    poll_s: float = 2.0

    def __post_init__(self) -> None:
        if self.poll_s <= 0:
            raise ConfigError("discovery.file.poll_s must be above 0")


class FileDiscovery:
    """Answer with the nodes of a file: a list, or a mapping with the list under `nodes`.

    A file that cannot be read as a whole changes nothing; a single node that cannot be understood is rejected.
    """

    def __init__(self, policy: FilePolicy) -> None:
        if not policy.path:
            raise ConfigError("discovery.file.path: name the file")
        self._path = Path(policy.path)
        self._poll_s = policy.poll_s
        self._seen: tuple[_Stamp, Snapshot] | None = None

    async def run(self, answer: Answer, fail: Fail) -> None:
        """Follow the file until cancelled."""
        while True:
            try:
                # A thread, because the path may be on a network file system.
                snapshot = await asyncio.to_thread(self._read_if_changed)
            except (OSError, ValueError, RecursionError) as error:
                fail(f"{self._path}: {error}")
            else:
                answer(snapshot)
            await asyncio.sleep(self._poll_s)

    def _read_if_changed(self) -> Snapshot:
        facts = self._path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if self._seen is not None and self._seen[0] == stamp:
            return self._seen[1]
        if facts.st_size > FILE_BYTES_MAX:
            raise ValueError(f"larger than {FILE_BYTES_MAX} bytes")
        # The stamp is older than the text, so a change in between is seen at the next look.
        snapshot = read_nodes(self._path.read_text(encoding="utf-8"))
        self._seen = (stamp, snapshot)
        return snapshot


def read_nodes(text: str) -> Snapshot:
    """Read the text of such a file; JSON is YAML too. Raises `ValueError`."""
    import yaml  # here, since a sidecar that finds its brokers elsewhere needs none: 50 ms and 1 MiB at its start

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    nodes = document.get("nodes") if isinstance(document, dict) else document
    if nodes is None:
        nodes = []
    if not isinstance(nodes, list):
        raise ValueError("expected a list of nodes, or a mapping with the list under 'nodes'")  # noqa: TRY004 - content
    endpoints: dict[str, Endpoint] = {}
    rejected = []
    for index, node in enumerate(nodes):
        key = f"nodes[{index}]"
        try:
            endpoint = parse_node(node)
        except BadEntry as error:
            rejected.append(Rejected(key, str(error)))
            continue
        if endpoint.name in endpoints:
            rejected.append(Rejected(key, f"{endpoint.name!r} is named twice; the first one counts"))
        else:
            endpoints[endpoint.name] = endpoint
    return Snapshot(tuple(endpoints.values()), tuple(rejected))
