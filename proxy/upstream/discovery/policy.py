"""From the configuration to a discovery that runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.reports import Report, ReportSink
from proxy.upstream.discovery.cache import SnapshotFile
from proxy.upstream.discovery.dns import DnsDiscovery, DnsPolicy
from proxy.upstream.discovery.etcd import EtcdDiscovery
from proxy.upstream.discovery.file import FileDiscovery, FilePolicy
from proxy.upstream.discovery.keeper import Keeper
from proxy.upstream.discovery.registry import EtcdPolicy, member
from proxy.upstream.discovery.source import Source
from proxy.upstream.discovery.static import StaticDiscovery, StaticPolicy
from proxy.upstream.endpoint import Discovery

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "sidehop.discoveries"


@dataclass(frozen=True, slots=True)
class DiscoveryPolicy:
    """Which source is asked, and what is kept of its answers.

    `source` names a built-in (static, file, dns, etcd) or an entry point of the group `sidehop.discoveries`, which
    gets `options` as it is. The last good endpoints are kept in `snapshot_path` (empty: not kept) and used if the
    registry has not answered `cold_start_s` seconds after the start.
    """

    source: str = "static"
    static: StaticPolicy = field(default_factory=StaticPolicy)
    file: FilePolicy = field(default_factory=FilePolicy)
    dns: DnsPolicy = field(default_factory=DnsPolicy)
    etcd: EtcdPolicy = field(default_factory=EtcdPolicy)
    # Third parties may have secrets among their options.
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    snapshot_path: str = ""
    cold_start_s: float = 2.0

    def __post_init__(self) -> None:
        if self.cold_start_s < 0:
            raise ConfigError("discovery.cold_start_s must be 0 or more")


_BUILT_IN: dict[str, Callable[[DiscoveryPolicy, random.Random], Source]] = {
    "static": lambda policy, rng: StaticDiscovery(policy.static),
    "file": lambda policy, rng: FileDiscovery(policy.file),
    "dns": lambda policy, rng: DnsDiscovery(policy.dns, rng),
    "etcd": lambda policy, rng: EtcdDiscovery(policy.etcd, rng),
}
# Their answers are on this host already.
_ON_THIS_HOST = ("static", "file")


def load_discovery(policy: DiscoveryPolicy, report: ReportSink, rng: random.Random) -> Discovery:
    """Make the discovery that the policy asks for, and report it if a restart will need the registry.

    Raises `ConfigError`.
    """
    source = _source(policy, rng)
    if not policy.snapshot_path and policy.source not in _ON_THIS_HOST:
        report(Report("snapshot_off", {"source": policy.source, "reason": "discovery.snapshot_path is not set"}))
    file = SnapshotFile(policy.snapshot_path, _origins(policy)) if policy.snapshot_path else None
    return Keeper(policy.source, source, report, file=file, cold_start_s=policy.cold_start_s)


def _source(policy: DiscoveryPolicy, rng: random.Random) -> Source:
    make = _BUILT_IN.get(policy.source)
    if make is not None:
        return make(policy, rng)
    from importlib.metadata import entry_points  # here, since it takes 2 MiB and the built-in ones don't need it

    offered: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    point = offered.get(policy.source)
    if point is None:
        names = ", ".join(sorted(_BUILT_IN.keys() | offered.keys()))
        raise ConfigError(f"discovery.source: {policy.source!r} is unknown; there are: {names}")
    try:
        load: Callable[[Mapping[str, object], random.Random], Source] = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"discovery.source: {policy.source!r} ({point.value}) cannot be loaded: {error}") from error
    return load(policy.options, rng)


def _origins(policy: DiscoveryPolicy) -> set[str]:
    """Which source and which place in it; endpoints saved from elsewhere are not used. Free of credentials."""
    if policy.source == "etcd":
        # By member, since members come and go one by one. Without the scheme: TLS makes no other cluster of it.
        members = map(member, policy.etcd.endpoints)
        return {f"etcd:{policy.etcd.prefix} at {each.url.partition('://')[2]}" for each in members}
    place = {"file": policy.file.path, "dns": policy.dns.name}.get(policy.source, "")
    return {f"{policy.source}:{place}"}
