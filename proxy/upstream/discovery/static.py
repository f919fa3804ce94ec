"""Endpoints that stand in the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxy.errors import ConfigError
from proxy.upstream.discovery.entry import BadEntry, parse_node
from proxy.upstream.discovery.source import Answer, Fail
from proxy.upstream.endpoint import Endpoint, Snapshot


@dataclass(frozen=True, slots=True)
class StaticPolicy:
    """`nodes`: each `host:port`, a URL, or a mapping as in the registry's JSON form with an optional `name`."""

    nodes: tuple[str | Mapping[str, object], ...] = ()

    def __post_init__(self) -> None:
        _read(self.nodes)


class StaticDiscovery:
    """Answer once with what the configuration says."""

    def __init__(self, policy: StaticPolicy) -> None:
        if not policy.nodes:
            raise ConfigError("discovery.static.nodes: name at least one broker, for example 127.0.0.1:5672")
        self._endpoints = _read(policy.nodes)

    async def run(self, answer: Answer, fail: Fail) -> None:
        """Answer, then wait for the end."""
        del fail
        answer(Snapshot(self._endpoints))
        await asyncio.Event().wait()


def _read(nodes: Iterable[str | Mapping[str, object]]) -> tuple[Endpoint, ...]:
    found: dict[str, Endpoint] = {}
    for index, node in enumerate(nodes):
        try:
            endpoint = parse_node(node)
        except BadEntry as error:
            raise ConfigError(f"discovery.static.nodes[{index}]: {error}") from error
        if endpoint.name in found:
            raise ConfigError(f"discovery.static.nodes[{index}]: {endpoint.name!r} is named twice")
        found[endpoint.name] = endpoint
    return tuple(found.values())
