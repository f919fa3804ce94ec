"""Metrics in the format of Prometheus: one collector that reads plain integers when it is asked.

Names end in their unit, counters in `_total`. Labels are endpoints, states and reasons, never anything a client can
choose, and each label has a limit to the number of its values: what is beyond goes to one called `other`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy.net.budget import Budget
from proxy.net.census import FAILOVER_BUCKETS_S, OTHER, Census
from proxy.ops.vitals import DETACHED, Load, Vitals
from proxy.session.counters import Counters
from proxy.upstream.member import EndpointState, EndpointView
from proxy.upstream.pool import Pool

LABEL_VALUES_MAX = 200

_COUNTED = {
    "publishes": ("sidehop_publishes", "Messages that clients published."),
    "confirms": ("sidehop_confirms", "Publishes that a broker confirmed or refused."),
    "returns": ("sidehop_returns", "Messages that a broker returned as unroutable."),
    "deliveries": ("sidehop_deliveries", "Messages handed to clients, answers to basic.get included."),
    "settles": ("sidehop_settles", "Deliveries that clients acknowledged, rejected or requeued."),
    "suppressed": ("sidehop_suppressed", "Copies that were settled for a client and not shown to it."),
    "stale_acks": ("sidehop_stale_acks", "Acknowledgements for deliveries of a broker that is gone; dropped."),
    "replayed_publishes": ("sidehop_replayed_publishes", "Publishes sent again after a failover: possible duplicates."),
    "unrouted": ("sidehop_unrouted", "Publishes that no queue took while a broker was down: withheld and tried again."),
    "bytes_from_client": ("sidehop_from_client_bytes", "Bytes that clients sent."),
    "bytes_from_broker": ("sidehop_from_broker_bytes", "Bytes that brokers sent."),
}
_HELD = {
    "sessions": ("sidehop_sessions", "Clients connected now."),
    "channels": ("sidehop_channels", "Channels open now."),
    "consumers": ("sidehop_consumers", "Consumers subscribed now."),
    "unsettled_publishes": ("sidehop_unsettled_publishes", "Publishes kept until a broker confirms them."),
    "unsettled_bytes": ("sidehop_unsettled_bytes", "Memory that these publishes take."),
    "outstanding_deliveries": ("sidehop_outstanding_deliveries", "Deliveries that clients have not settled yet."),
    "parked_bytes": ("sidehop_parked_bytes", "Input of clients that waits for a broker."),
}


class Telemetry(Collector):
    """The whole sidecar. `render` is what a scrape gets."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._families: list[Metric] = []
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand, so that registering collects nothing."""
        return ()

    async def render(self, accept: str, now: float) -> tuple[bytes, str]:
        """Return a scrape's body and content type; `accept` is the request's header."""
        self._families = [self._build(), *await self._vitals.plane.metrics(now), *self._discovery(now)]
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """Hand over what `render` has read."""
        return self._families

    def _build(self) -> Metric:
        build = self._vitals.build
        return InfoMetricFamily(
            "sidehop_build",
            "Which Sidehop this is; compiled says whether the engine is.",
            {
                "version": build.version,
                "python": build.python,
                "compiled": str(build.compiled).lower(),
                "loop": build.loop,
            },
        )

    def _discovery(self, now: float) -> Iterator[Metric]:
        status = self._vitals.discovery
        revision = GaugeMetricFamily("sidehop_discovery_revision", "Revision of the registry.", labels=["source"])
        revision.add_metric([status.source], status.revision)
        yield revision
        if status.synced_at is not None:
            age_s = max(0.0, now - status.synced_at)
            yield GaugeMetricFamily("sidehop_discovery_age_seconds", "Since the registry last answered.", age_s)
        yield GaugeMetricFamily("sidehop_discovery_stale", "1 while the last good answer has to do.", status.stale)
        rejected = len(self._vitals.rejected)
        yield GaugeMetricFamily("sidehop_discovery_rejected_entries", "Entries not understood.", rejected)
        yield _counter("sidehop_discovery_errors", "Failed attempts to ask the registry.", status.errors)


class Counted:
    """What one process that serves clients has counted."""

    def __init__(self, census: Census, budget: Budget, pool: Pool, lines_dropped: Callable[[], int]) -> None:
        self._census = census
        self._budget = budget
        self._pool = pool
        self._itself = OfProcess(lines_dropped)

    def collect(self, loads: Mapping[str, Load], now: float) -> Iterator[Metric]:
        """Read all numbers as they are now; `loads` is what live sessions hold."""
        yield from self._sessions(loads)
        yield from self._memory()
        yield from self._endpoints(self._pool.views(now), self._pool.usable(now))
        yield from self._failovers()
        yield from self._itself.collect()

    def _sessions(self, loads: Mapping[str, Load]) -> Iterator[Metric]:
        census = self._census
        yield _counter("sidehop_sessions_opened", "Clients that were accepted.", census.sessions_total)
        yield _counters("sidehop_sessions_ended", "Sessions that are over.", "reason", census.sessions_ended)
        yield _counters("sidehop_sessions_refused", "Clients turned away.", "reason", census.sessions_refused)
        text = "What clients lost or were told because no failover can hide it."
        ends = CounterMetricFamily("sidehop_honest_ends", text, labels=["scope", "cause"])
        for labels, count in census.ends.items():
            ends.add_metric(labels, count)
        yield ends
        # Endpoints that nothing happened at count 0: a rate needs a first value.
        sums = {name: Counters() for name in loads if name != DETACHED} | census.per_endpoint()
        sums = _bounded_counters(sums, loads)
        for attribute, (name, text) in _COUNTED.items():
            values = {endpoint or DETACHED: getattr(sums[endpoint], attribute) for endpoint in sums}
            yield _counters(name, text, "endpoint", values)
        for attribute, (name, text) in _HELD.items():
            gauge = GaugeMetricFamily(name, text, labels=["endpoint"])
            held = {endpoint: getattr(load, attribute) for endpoint, load in loads.items()}
            for endpoint, value in _bounded(held).items():
                gauge.add_metric([endpoint], value)
            yield gauge

    def _memory(self) -> Iterator[Metric]:
        budget = self._budget
        text = "Memory that is kept for all clients together."
        yield GaugeMetricFamily("sidehop_retained_bytes", text, value=budget.retained_bytes)
        text = "Its limit, listen.retained_bytes_max."
        yield GaugeMetricFamily("sidehop_retained_limit_bytes", text, value=budget.limit_bytes)
        text = "1 while clients wait for it to become less."
        yield GaugeMetricFamily("sidehop_memory_pressed", text, value=budget.pressed)

    def _endpoints(self, views: list[EndpointView], usable: int) -> Iterator[Metric]:
        text = "Brokers that were reached and take new sessions."
        yield GaugeMetricFamily("sidehop_endpoints_usable", text, value=usable)
        panic = self._pool.panicking()
        yield GaugeMetricFamily("sidehop_pool_panic", "1 while too few brokers are well and health is ignored.", panic)
        state = GaugeMetricFamily(
            "sidehop_endpoint_state", "1 for the state a broker is in, 0 for the others.", labels=["endpoint", "state"]
        )
        response = GaugeMetricFamily(
            "sidehop_endpoint_response_time_seconds", "Peak average of response times.", labels=["endpoint"]
        )
        ejections = CounterMetricFamily(
            "sidehop_endpoint_ejections", "Times a broker was left out after repeated failures.", labels=["endpoint"]
        )
        probes = CounterMetricFamily("sidehop_endpoint_probes", "Probes made.", labels=["endpoint", "result"])
        for view in views[:LABEL_VALUES_MAX]:
            for name in get_args(EndpointState):
                state.add_metric([view.name, name], view.state == name)
            if view.ewma_s is not None:
                response.add_metric([view.name], view.ewma_s)
            ejections.add_metric([view.name], view.ejections)
            probes.add_metric([view.name, "ok"], view.probes_ok)
            probes.add_metric([view.name, "failed"], view.probes_failed)
        yield from (state, response, ejections, probes)

    def _failovers(self) -> Iterator[Metric]:
        census = self._census
        yield _counters("sidehop_failovers", "Sessions that needed another broker.", "reason", census.failovers)
        yield _counter("sidehop_failovers_failed", "Failovers that found no broker in time.", census.failovers_failed)
        running, buckets = 0, []
        for bound, count in zip((*map(str, FAILOVER_BUCKETS_S), "+Inf"), census.failover_s.counts, strict=True):
            running += count
            buckets.append((bound, running))
        yield HistogramMetricFamily(
            "sidehop_failover_duration_seconds",
            "From the loss of a broker until the session works at another.",
            buckets=buckets,
            sum_value=census.failover_s.total_s,
        )
        yield _counter("sidehop_session_moves", "Sessions that left a broker while it was well.", census.moves)


class OfProcess:
    """What any process of a sidecar counts of itself."""

    def __init__(self, lines_dropped: Callable[[], int]) -> None:
        self._lines_dropped = lines_dropped
        self._system = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Read all numbers as they are now."""
        yield _counter("sidehop_log_lines_dropped", "Log lines lost to a slow reader.", self._lines_dropped())
        yield from self._system.collect()


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in _bounded(values).items():
        family.add_metric([value], count)
    return family


def _bounded(values: Mapping[str, float]) -> dict[str, float]:
    """Keep the first values, which never change their order, and add up the rest."""
    if len(values) <= LABEL_VALUES_MAX:
        return dict(values)
    names = list(values)
    kept = {name: values[name] for name in names[:LABEL_VALUES_MAX]}
    kept[OTHER] = kept.get(OTHER, 0) + sum(values[name] for name in names[LABEL_VALUES_MAX:])
    return kept


def _bounded_counters(sums: Mapping[str, Counters], known: Collection[str]) -> dict[str, Counters]:
    """Known endpoints stand for themselves; addresses that came and went add up once there are too many of them."""
    if len(sums) <= LABEL_VALUES_MAX:
        return dict(sums)
    bounded = {OTHER: Counters()}
    for name, counters in sums.items():
        bounded.setdefault(name if name in known else OTHER, Counters()).add(counters)
    return bounded
