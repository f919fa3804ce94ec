"""File, environment and flags become the policy objects of every part.

Three tables, each a flat `path -> value`, are laid over each other: flags over environment over file over the
defaults that the policies declare themselves. The dataclasses of the parts are the schema, so a key exists exactly
where the code that obeys it says so. What nobody declares is refused at start, with the path and what would be right.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from proxy.errors import ConfigError
from proxy.net.policy import DialPolicy, ListenPolicy
from proxy.session.policy import SessionPolicy
from proxy.settings.policy import AdminPolicy, LogPolicy
from proxy.settings.schema import as_shown, build
from proxy.settings.source import Table, from_environment, from_file, from_flags
from proxy.upstream.balance import BalancePolicy
from proxy.upstream.discovery import DiscoveryPolicy
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import PoolPolicy


@dataclass(frozen=True, slots=True)
class BalanceSection:
    """`balance`: who may be chosen, and who of them is. Two parts obey it, the operator sees one section."""

    choice: BalancePolicy = field(default_factory=BalancePolicy, metadata={"inline": True})
    pool: PoolPolicy = field(default_factory=PoolPolicy, metadata={"inline": True})


@dataclass(frozen=True, slots=True)
class Settings:
    """One sidecar's whole configuration; each section belongs to the part that obeys it."""

    listen: ListenPolicy = field(default_factory=ListenPolicy)
    admin: AdminPolicy = field(default_factory=AdminPolicy)
    discovery: DiscoveryPolicy = field(default_factory=DiscoveryPolicy)
    balance: BalanceSection = field(default_factory=BalanceSection)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    session: SessionPolicy = field(default_factory=SessionPolicy)
    dial: DialPolicy = field(default_factory=DialPolicy)
    log: LogPolicy = field(default_factory=LogPolicy)

    def __post_init__(self) -> None:
        if self.listen.port and (self.listen.host, self.listen.port) == (self.admin.host, self.admin.port):
            raise ConfigError("listen.port and admin.port are the same on one host; give them different ports")


def load(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[object, str]] | None = None,
) -> Settings:
    """Read the configuration: flags over environment over file over defaults.

    `flags` maps a dotted key to its value and the flag that gave it. `environment` is the process' own by default.
    Raises `ConfigError` naming every problem, one a line.
    """
    table: Table = from_file(path) if path else {}
    table |= from_environment(os.environ if environment is None else environment, _SECTIONS)
    table |= from_flags(flags or {})
    return build(Settings, table)


def shown(settings: Settings) -> dict[str, object]:
    """The effective configuration with secrets hidden, in the shape of the file."""
    return as_shown(settings)


_SECTIONS = tuple(item.name for item in fields(Settings))
