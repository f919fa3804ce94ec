"""The nouns of discovery: an endpoint, and one full answer of a discovery source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

EndpointIntent = Literal["up", "drain"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One broker node as discovery describes it.

    `name` is its identity in the log, the API and the metrics (the last part of the registry key, or `host:port`).
    Two answers with the same name and another address are a change of that endpoint. `server_name` is what its
    certificate must name if that is not `host` (an address found by DNS); only with `tls`.
    """

    name: str
    host: str
    port: int
    tls: bool = False
    weight: int = 100
    zone: str = ""
    priority: int = 0
    intent: EndpointIntent = "up"
    tags: Mapping[str, str] = field(default_factory=dict)
    server_name: str = ""

    @property
    def address(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A registry entry that could not be understood; it hurts no other entry. `reason` is for people."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One full answer of a discovery source. The pool diffs it against what it knows; sources never send diffs."""

    endpoints: tuple[Endpoint, ...]
    rejected: tuple[Rejected, ...] = ()
    revision: int = 0


@dataclass(slots=True)
class DiscoveryStatus:
    """What the log, the metrics and the API say about a source. Plain values that the source keeps up to date.

    `synced_at` is monotonic seconds of the last answer from the registry, None before the first. `stale` is True
    while the endpoints in use come from the last good answer or from disk because the registry is away or empty.
    `last_error` says why; it is empty again once the registry names endpoints.
    """

    source: str
    revision: int = 0
    synced_at: float | None = None
    stale: bool = False
    errors: int = 0
    last_error: str = ""


class Discovery(Protocol):
    """What `proxy.upstream.discovery.load_discovery` returns. Third parties write a `discovery.Source`, which is less.

    `run` publishes a whole `Snapshot` whenever the answer changed, survives every outage of its registry by itself
    and ends only by cancellation. It may raise `ConfigError` before its first answer when no retry can help.
    """

    status: DiscoveryStatus

    async def run(self, publish: Callable[[Snapshot], None]) -> None:
        """Watch the registry until cancelled."""
        ...
