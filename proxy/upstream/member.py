"""One endpoint as the pool knows it: discovery's word, its health, and what the API shows of both. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from proxy.upstream.balance import PeakEwma
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.health import Health, Outcome, ProbeKind

_RAMP_MIN = 0.1
_WEIGHT_MIN = 0.01

EndpointState = Literal["up", "suspect", "down", "ejected", "draining"]


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One row of `/api/v1/endpoints`. `since_s` is how long the state lasts, `cause` why, in words for people."""

    name: str
    address: str
    tls: bool
    state: EndpointState
    cause: str
    weight: int
    zone: str
    priority: int
    tags: Mapping[str, str]
    sessions: int
    in_discovery: bool
    since_s: float
    ejections: int
    ewma_s: float | None
    probes_ok: int
    probes_failed: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe to make now; hand it back to `Pool.probed` with its result. `turn` tells stale results apart."""

    endpoint: Endpoint
    kind: ProbeKind
    turn: int


@dataclass(slots=True)
class Member:
    """What the pool keeps of one endpoint; only the pool changes it.

    `withdrawn_at_s` is when it last began to drain. `probing` is the probe under way. `told_down`, `told_withdrawn` and
    `reported` are what the outside was told last.
    """

    endpoint: Endpoint
    health: Health
    in_discovery: bool = True
    withdrawn_at_s: float = 0.0
    probing: Probe | None = None
    probes_ok: int = 0
    probes_failed: int = 0
    told_down: bool = False
    told_withdrawn: bool = False
    reported: EndpointState = "up"
    times: dict[Outcome, PeakEwma] = field(default_factory=dict)

    @property
    def withdrawn(self) -> bool:
        """Whether discovery wants no new sessions on it: it drains or is gone."""
        return not self.in_discovery or self.endpoint.intent == "drain"

    @property
    def restless(self) -> bool:
        """Whether its state may change without anybody saying anything: an ejection ends, the last session leaves."""
        return self.health.state == "ejected" or not self.in_discovery

    @property
    def state(self) -> EndpointState:
        """What the API, the log and the metrics call it."""
        # An endpoint that is down is told so even when it drains: nothing is left to drain.
        return "draining" if self.withdrawn and self.health.state != "down" else self.health.state

    @property
    def cause(self) -> str:
        """Why it is in that state, in words for people."""
        if self.state != "draining":
            return self.health.cause
        return "discovery asks to drain it" if self.in_discovery else "removed from discovery"

    @property
    def well(self) -> bool:
        """Whether its health alone would let it take sessions."""
        return self.health.state in ("up", "suspect")

    @property
    def usable(self) -> bool:
        """Whether it takes new sessions and is known to be there. Sessions may try it before that is known."""
        return self.well and self.health.reached and not self.withdrawn

    def weight(self, now: float, slow_start_s: float) -> float:
        """Return its weight as of now, above 0: one that has returned gets it bit by bit."""
        share, returned_at_s = 1.0, self.health.returned_at_s
        if returned_at_s is not None and now - returned_at_s < slow_start_s:
            share = max(_RAMP_MIN, (now - returned_at_s) / slow_start_s)
        return max(self.endpoint.weight * share, _WEIGHT_MIN)

    def ewma_s(self, now: float) -> float | None:
        """Return the sum of the averages of each kind of response time, None before the first measurement."""
        return sum(ewma.read(now) for ewma in self.times.values()) if self.times else None

    def view(self, sessions: int, now: float) -> EndpointView:
        """Describe it for the API."""
        since_s = self.withdrawn_at_s if self.state == "draining" else self.health.since_s
        return EndpointView(
            name=self.endpoint.name,
            address=self.endpoint.address,
            tls=self.endpoint.tls,
            state=self.state,
            cause=self.cause,
            weight=self.endpoint.weight,
            zone=self.endpoint.zone,
            priority=self.endpoint.priority,
            tags=self.endpoint.tags,
            sessions=sessions,
            in_discovery=self.in_discovery,
            since_s=now - since_s,
            ejections=self.health.ejections,
            ewma_s=self.ewma_s(now),
            probes_ok=self.probes_ok,
            probes_failed=self.probes_failed,
        )
