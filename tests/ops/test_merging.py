"""Several workers answer as one: what is added up, and of what the worst is told."""

import re
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from proxy.ops.merging import (
    _WORST,
    Family,
    cumulative,
    merged_conditions,
    merged_loads,
    merged_metrics,
)
from proxy.ops.vitals import Condition, Load
from proxy.upstream.endpoint import Endpoint, Snapshot
from tests.ops.sidecar import Session, Sidecar

ROOT = Path(__file__).resolve().parent.parent.parent


async def told(sidecar, now=1.0):
    """What a worker like this one sends, after its way through the intercom."""
    families = [Family.of(metric) for metric in await sidecar.plane.metrics(now)]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(families), type=list[Family])


def values(families, name):
    return {
        tuple(labels.values()): value
        for family in families
        for sample, labels, value in family.samples
        if sample == name
    }


async def test_what_workers_count_and_hold_is_added_up():
    one, other = Sidecar("mq1", "mq2"), Sidecar("mq1", "mq2")
    for number, sidecar in enumerate((one, other, other)):
        session = sidecar.add(Session(str(number), channels=2, unsettled_bytes=100))
        session.counters.publishes = 10
    one.end(one.census.sessions["0"], "client")
    other.end(other.census.sessions["1"], "idle")
    whole = merged_metrics([await told(one), await told(other)])
    assert values(whole, "sidehop_publishes_total") == {("mq1",): 30, ("mq2",): 0}
    assert values(whole, "sidehop_sessions_opened_total") == {(): 3}
    assert values(whole, "sidehop_sessions_ended_total") == {("client",): 1, ("idle",): 1}
    assert values(whole, "sidehop_sessions") == {("mq1",): 1, ("mq2",): 0}
    assert values(whole, "sidehop_retained_limit_bytes") == {(): 2_000_000}
    assert values(whole, "process_resident_memory_bytes")[()] > 1e6


async def test_the_buckets_of_durations_are_added_up():
    one, other = Sidecar("mq1"), Sidecar("mq1")
    one.census.failover_s.observe(0.02)
    other.census.failover_s.observe(0.3)
    whole = merged_metrics([await told(one), await told(other)])
    buckets = values(whole, "sidehop_failover_duration_seconds_bucket")
    assert [buckets[(bound,)] for bound in ("0.01", "0.025", "0.25", "0.5", "+Inf")] == [0, 1, 1, 2, 2]
    assert values(whole, "sidehop_failover_duration_seconds_sum") == {(): pytest.approx(0.32)}
    assert values(whole, "sidehop_failover_duration_seconds_count") == {(): 2}


async def test_of_states_the_worst_is_told():
    well, unwell = Sidecar("mq1", "mq2"), Sidecar("mq1", "mq2")
    for sidecar in (well, unwell):
        for name in ("mq1", "mq2"):
            sidecar.pool.observe(name, "connected", 0.0, 0.001)
    for _ in range(3):
        unwell.pool.observe("mq2", "connected", 0.5, 0.5)
        unwell.pool.observe("mq2", "connect_failed", 1.0)
    unwell.add(Session("1", retained_bytes=800_000))
    unwell.budget.look(0.0)
    whole = merged_metrics([await told(well), await told(unwell)])
    states = values(whole, "sidehop_endpoint_state")
    assert {pair for pair, value in states.items() if value} == {("mq1", "up"), ("mq2", "up"), ("mq2", "down")}
    assert values(whole, "sidehop_endpoints_usable") == {(): 1}
    assert values(whole, "sidehop_memory_pressed") == {(): 1}
    assert values(whole, "sidehop_endpoint_response_time_seconds")[("mq2",)] > 0.1
    assert values(whole, "process_start_time_seconds") == values(await told(well), "process_start_time_seconds")


async def test_every_metric_that_is_not_added_up_is_one_that_exists():
    sidecar = Sidecar("mq1")
    assert {family.name for family in await told(sidecar)} >= set(_WORST)
    table = re.findall(r"^\| `(sidehop_\w+)` \| gauge", (ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE)
    assert {name for name in _WORST if name.startswith("sidehop_")} <= set(table)


def test_only_what_may_never_fall_outlives_its_worker():
    counter, gauge = CounterMetricFamily("c", "C.", value=1), GaugeMetricFamily("g", "G.", value=1)
    histogram = HistogramMetricFamily("h", "H.", buckets=[("+Inf", 1)], sum_value=1)
    families = [Family.of(metric) for metric in (counter, gauge, histogram)]
    assert [family.name for family in cumulative(families)] == ["c", "h"]


async def test_a_family_is_rendered_as_it_was_read():
    (metric,) = [each for each in await Sidecar("mq1").plane.metrics(1.0) if each.name == "sidehop_publishes"]
    assert Family.of(metric).metric == metric


async def test_brokers_are_told_as_the_worker_sees_them_that_sees_the_worst():
    one, other = Sidecar("mq1", "mq2"), Sidecar("mq1", "mq2")
    for sidecar in (one, other):
        sidecar.pool.observe("mq1", "connected", 0.0, 0.001)
        sidecar.pool.attached("mq1")
    other.pool.attached("mq1")
    other.pool.observe("mq1", "connect_failed", 1.0)
    whole = merged_conditions([(1, await one.plane.condition(2.0)), (4, await other.plane.condition(2.0))])
    first, second = whole.endpoints
    assert (first.name, first.state, first.sessions) == ("mq1", "suspect", 3)
    assert first.cause == "a connection attempt failed"
    assert (second.name, second.state, second.sessions) == ("mq2", "up", 0)
    assert whole.usable == 1
    assert whole.troubles == []


async def test_the_trouble_of_one_worker_is_told_with_its_number():
    one, other = Sidecar("mq1"), Sidecar("mq1")
    other.listener.listening = False
    whole = merged_conditions([(1, await one.plane.condition(0.0)), (7, await other.plane.condition(0.0))])
    assert whole.troubles == ["worker 7: the listener is not up"]


async def test_a_worker_that_knows_one_broker_less_hides_none():
    one, other = Sidecar("mq1"), Sidecar("mq1")
    other.pool.apply(Snapshot((Endpoint("mq1", "mq1", 5672), Endpoint("mq2", "mq2", 5672))), 0.0)
    whole = merged_conditions([(1, await one.plane.condition(0.0)), (2, await other.plane.condition(0.0))])
    assert [view.name for view in whole.endpoints] == ["mq1", "mq2"]


def test_without_workers_nothing_is_usable():
    assert merged_conditions([]) == Condition()


async def test_a_condition_survives_the_intercom():
    condition = await Sidecar("mq1").plane.condition(1.0)
    condition = replace(condition, troubles=["one"])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(condition), type=Condition) == condition


def test_every_field_of_a_load_is_added_up():
    numbers = range(1, 1 + len(fields(Load)))
    one = Load(*numbers)
    whole = merged_loads([{"mq1": one, "mq2": one}, {"mq1": one}])
    assert whole["mq2"] == one
    assert [getattr(whole["mq1"], item.name) for item in fields(Load)] == [2 * n for n in numbers]
