"""One answer made of those of several workers. What counts or holds something is added up; of what describes a state,
the worst is told, since an alert should hear of it when the first worker does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from operator import add

import msgspec
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from proxy.ops.vitals import Condition, Load
from proxy.upstream.member import EndpointState, EndpointView

_CUMULATIVE = ("counter", "histogram")
_STATES: tuple[EndpointState, ...] = ("up", "suspect", "draining", "ejected", "down")

# Metrics that describe a state; all others are added up.
Join = Callable[[float, float], float]
_WORST: dict[str, Join] = {
    "process_start_time_seconds": min,
    "sidehop_endpoint_response_time_seconds": max,
    "sidehop_endpoint_state": max,
    "sidehop_endpoints_usable": min,
    "sidehop_memory_pressed": max,
    "sidehop_pool_panic": max,
}


class Family(msgspec.Struct):
    """A metric with its samples (name, labels, value), as it goes from process to process."""

    name: str
    text: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]

    @classmethod
    def of(cls, metric: Metric) -> Family:
        """Take over what a collector has read."""
        samples = [(each.name, each.labels, float(each.value)) for each in metric.samples]
        return cls(metric.name, metric.documentation, metric.type, samples)

    @property
    def metric(self) -> Metric:
        """What Prometheus' own code renders."""
        metric = Metric(self.name, self.text, self.kind)
        metric.samples = [Sample(*each) for each in self.samples]
        return metric


def cumulative(families: Iterable[Family]) -> list[Family]:
    """Those that may never fall, and so have to outlive the process that counted."""
    return [family for family in families if family.kind in _CUMULATIVE]


def merged_metrics(answers: Iterable[Iterable[Family]]) -> list[Family]:
    """One family of each name, in the order in which they come."""
    same: dict[str, list[Family]] = {}
    for family in (family for families in answers for family in families):
        same.setdefault(family.name, []).append(family)
    return [_merged_family(families) for families in same.values()]


def _merged_family(families: list[Family]) -> Family:
    first = families[0]
    join: Join = _WORST.get(first.name, add)
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for name, labels, value in (sample for family in families for sample in family.samples):
        key = (name, tuple(labels.items()))
        values[key] = join(values[key], value) if key in values else value
    samples = [(name, dict(labels), value) for (name, labels), value in values.items()]
    return Family(first.name, first.text, first.kind, samples)


def merged_conditions(answers: Sequence[tuple[int, Condition]]) -> Condition:
    """One condition of those of some workers, which come with their numbers. Without any, nothing is usable."""
    views: dict[str, EndpointView] = {}
    for view in (view for _, one in answers for view in one.endpoints):
        views[view.name] = _merged_view(views[view.name], view) if view.name in views else view
    return Condition(
        troubles=[f"worker {number}: {trouble}" for number, one in answers for trouble in one.troubles],
        endpoints=list(views.values()),
        usable=min((one.usable for _, one in answers), default=0),
        panic=any(one.panic for _, one in answers),
    )


def _merged_view(one: EndpointView, other: EndpointView) -> EndpointView:
    worst = max(one, other, key=lambda view: _STATES.index(view.state))
    times = [view.ewma_s for view in (one, other) if view.ewma_s is not None]
    return replace(
        worst,
        sessions=one.sessions + other.sessions,
        ejections=one.ejections + other.ejections,
        probes_ok=one.probes_ok + other.probes_ok,
        probes_failed=one.probes_failed + other.probes_failed,
        ewma_s=max(times, default=None),
    )


def merged_loads(answers: Iterable[dict[str, Load]]) -> dict[str, Load]:
    """What the sessions of all workers hold per endpoint."""
    whole: dict[str, Load] = {}
    for loads in answers:
        for name, load in loads.items():
            known = whole.setdefault(name, Load())
            for item in fields(Load):
                setattr(known, item.name, getattr(known, item.name) + getattr(load, item.name))
    return whole
