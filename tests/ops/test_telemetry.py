"""Metrics: they parse, they add up, counters never fall, and no client can make up labels."""

import asyncio
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from proxy.net.census import NEW_NAMES_MAX
from proxy.ops.telemetry import LABEL_VALUES_MAX, Telemetry
from proxy.reports import Report
from proxy.session.counters import Counters
from proxy.upstream.endpoint import Endpoint, Rejected, Snapshot
from tests.ops.sidecar import Session, Sidecar

ROOT = Path(__file__).resolve().parent.parent.parent


async def scrape(telemetry, now=10.0):
    """One scrape as `{(name, labels): value}`."""
    body, content_type = await telemetry.render("", now)
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def at(samples, name, **labels):
    return samples[(name, tuple(sorted(labels.items())))]


@pytest.fixture
def sidecar():
    return Sidecar("mq1", "mq2")


async def test_what_sessions_do_is_counted_per_endpoint_also_when_they_are_over(sidecar):
    telemetry = Telemetry(sidecar.vitals)
    first, second = sidecar.add(Session("1")), sidecar.add(Session("2"))
    first.counters.publishes, second.counters.publishes = 3, 4
    first.counters.bytes_from_client = 1000
    assert at(await scrape(telemetry), "sidehop_publishes_total", endpoint="mq1") == 7
    sidecar.end(first)
    samples = await scrape(telemetry)
    assert at(samples, "sidehop_publishes_total", endpoint="mq1") == 7
    assert at(samples, "sidehop_publishes_total", endpoint="mq2") == 0
    assert at(samples, "sidehop_from_client_bytes_total", endpoint="mq1") == 1000
    assert at(samples, "sidehop_sessions_opened_total") == 2
    assert at(samples, "sidehop_sessions_ended_total", reason="client") == 1


async def test_what_is_kept_for_all_is_told_with_its_limit(sidecar):
    sidecar.add(Session("1", retained_bytes=800_000))
    sidecar.budget.look(0.0)
    samples = await scrape(Telemetry(sidecar.vitals))
    shown = [at(samples, f"sidehop_{name}") for name in ("retained_bytes", "retained_limit_bytes", "memory_pressed")]
    assert shown == [800_000, 1_000_000, 1]


async def test_what_live_sessions_hold_is_added_up_per_endpoint(sidecar):
    for number in range(450):  # more than are described without a pause
        sidecar.add(Session(str(number), "mq2", unsettled_publishes=2, parked_bytes=10))
    sidecar.add(Session("waiting", "", channels=5))
    samples = await scrape(Telemetry(sidecar.vitals))
    assert at(samples, "sidehop_sessions", endpoint="mq2") == 450
    assert at(samples, "sidehop_unsettled_publishes", endpoint="mq2") == 900
    assert at(samples, "sidehop_parked_bytes", endpoint="mq2") == 4500
    assert at(samples, "sidehop_channels", endpoint="(detached)") == 5
    assert at(samples, "sidehop_sessions", endpoint="mq1") == 0


async def test_other_work_goes_on_while_ten_thousand_sessions_are_described(sidecar):
    for number in range(10_000):
        sidecar.add(Session(str(number)))
    turns = 0

    async def other_work():
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    working = asyncio.create_task(other_work())
    await Telemetry(sidecar.vitals).render("", 0.0)
    working.cancel()
    assert turns >= 40


async def test_an_endpoint_is_in_exactly_one_state(sidecar):
    sidecar.pool.observe("mq1", "connect_failed", 1.0)
    samples = await scrape(Telemetry(sidecar.vitals))
    for endpoint, state in (("mq1", "suspect"), ("mq2", "up")):
        states = {
            dict(labels)["state"]: value
            for (name, labels), value in samples.items()
            if name == "sidehop_endpoint_state" and dict(labels)["endpoint"] == endpoint
        }
        assert states == {each: float(each == state) for each in ("up", "suspect", "down", "ejected", "draining")}


async def test_failovers_are_a_histogram_with_reasons_and_moves_are_counted(sidecar):
    census = sidecar.census
    census.failovers = {"eof": 2, "reset": 1}
    census.failovers_failed = 1
    census.moves = 7
    for took_s in (0.01, 0.02, 61.0):
        census.failover_s.observe(took_s)
    samples = await scrape(Telemetry(sidecar.vitals))
    assert at(samples, "sidehop_failovers_total", reason="eof") == 2
    assert at(samples, "sidehop_failovers_failed_total") == 1
    assert at(samples, "sidehop_session_moves_total") == 7
    assert at(samples, "sidehop_failover_duration_seconds_bucket", le="0.01") == 1
    assert at(samples, "sidehop_failover_duration_seconds_bucket", le="60.0") == 2
    assert at(samples, "sidehop_failover_duration_seconds_bucket", le="+Inf") == 3
    assert at(samples, "sidehop_failover_duration_seconds_count") == 3
    assert at(samples, "sidehop_failover_duration_seconds_sum") == pytest.approx(61.03)


async def test_honest_ends_are_told_from_zero_on_by_scope_and_cause(sidecar):
    samples = await scrape(Telemetry(sidecar.vitals))
    assert at(samples, "sidehop_honest_ends_total", scope="publish", cause="unroutable") == 0
    sidecar.census.count(Report("publishes_unroutable", {"cause": "unroutable", "count": 3}), "")
    sidecar.census.count(Report("channel_given_up", {"cause": "not_found"}), "")
    sidecar.end(sidecar.add(Session("1")), reason="lost_inside_body")
    sidecar.end(sidecar.add(Session("2")), reason="client_closed")
    samples = await scrape(Telemetry(sidecar.vitals))
    counted = {labels: value for (name, labels), value in samples.items() if name == "sidehop_honest_ends_total"}
    assert at(samples, "sidehop_honest_ends_total", scope="publish", cause="unroutable") == 3
    assert at(samples, "sidehop_honest_ends_total", scope="channel", cause="not_found") == 1
    assert at(samples, "sidehop_honest_ends_total", scope="connection", cause="lost_inside_body") == 1
    assert sum(counted.values()) == 5


async def test_discovery_and_process_are_told(sidecar):
    status = sidecar.vitals.discovery
    telemetry = Telemetry(sidecar.vitals)
    assert ("sidehop_discovery_age_seconds", ()) not in await scrape(telemetry), "there was no answer yet"
    status.revision, status.synced_at, status.stale, status.errors = 42, 3.0, True, 5
    sidecar.vitals.rejected = (Rejected("/mq/nodes/x", "bad"),)
    sidecar.dropped = 9
    samples = await scrape(telemetry, now=10.0)
    assert at(samples, "sidehop_discovery_revision", source="etcd") == 42
    assert at(samples, "sidehop_discovery_age_seconds") == 7
    assert at(samples, "sidehop_discovery_stale") == 1
    assert at(samples, "sidehop_discovery_errors_total") == 5
    assert at(samples, "sidehop_discovery_rejected_entries") == 1
    assert at(samples, "sidehop_log_lines_dropped_total") == 9
    build = {"version": "1.2.3", "python": "3.11.7", "compiled": "true", "loop": "uvloop"}
    assert at(samples, "sidehop_build_info", **build) == 1
    assert at(samples, "process_resident_memory_bytes") > 1e6
    assert at(samples, "process_start_time_seconds") > 1e9


async def test_openmetrics_is_spoken_to_those_who_ask(sidecar):
    body, content_type = await Telemetry(sidecar.vitals).render("application/openmetrics-text; version=1.0.0", 0.0)
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["open", "work", "move", "end"]), st.integers(0, 5)), max_size=30))
def test_counters_never_fall(steps):
    async def play():
        sidecar = Sidecar("mq1", "mq2")
        telemetry = Telemetry(sidecar.vitals)
        before = {}
        for number, (what, which) in enumerate(steps):
            live = list(sidecar.census.sessions.values())
            if what == "open" or not live:
                sidecar.add(Session(str(number), ("mq1", "mq2", "")[which % 3]))
            elif what == "work":
                live[which % len(live)].counters.publishes += which
            elif what == "move":
                session = live[which % len(live)]
                sidecar.census.finish(session.endpoint, session.counters)
                session.endpoint, session.counters = "mq2", type(session.counters)()
            else:
                sidecar.end(live[which % len(live)])
            after = await scrape(telemetry)
            fell = {
                key: (value, after.get(key))
                for key, value in before.items()
                if key[0].startswith("sidehop_") and key[0].endswith("_total") and not after.get(key, -1) >= value
            }
            assert fell == {}
            before = after

    asyncio.run(play())


async def test_names_of_brokers_that_come_and_go_without_end_are_added_up_and_no_counter_falls():
    sidecar = Sidecar("mq1")
    telemetry = Telemetry(sidecar.vitals)
    live = sidecar.add(Session("live", "10.0.0.2:5672"))  # it stays at a broker that nobody knows any more
    before, names, most, done, rounds = {}, 0, 0, 0, 8 * NEW_NAMES_MAX
    for number in range(rounds):
        # Every other address has been used before.
        address = f"10.0.0.{number if number % 2 else number % (NEW_NAMES_MAX // 2)}:5672"
        sidecar.pool.apply(Snapshot((Endpoint("mq1", "mq1", 5672), Endpoint(address, "mq", 5672))), 0.0)
        for name in ("mq1", address):
            session = sidecar.add(Session("short", name))
            session.counters.publishes = number
            sidecar.end(session)
        live.counters.publishes += 1
        done += 2 * number + 1
        had, names = names, len(sidecar.census.per_endpoint())
        most = max(most, names)
        if number % 16 == 15 or names < had:
            samples = await scrape(telemetry)
            after = {key: value for key, value in samples.items() if key[0] == "sidehop_publishes_total"}
            assert {key: (before[key], after[key]) for key in before.keys() & after if after[key] < before[key]} == {}
            assert sum(after.values()) == done, "nothing is lost"
            before = after
    assert most <= NEW_NAMES_MAX + 5
    assert at(samples, "sidehop_publishes_total", endpoint="mq1") == sum(range(rounds))
    assert at(samples, "sidehop_publishes_total", endpoint="10.0.0.2:5672") >= rounds
    assert at(samples, "sidehop_publishes_total", endpoint="other") > 0


async def test_labels_are_bounded_and_nothing_is_lost(sidecar):
    for number in range(3 * LABEL_VALUES_MAX):
        session = sidecar.add(Session(str(number), f"10.0.0.{number}:5672"))
        session.counters.publishes = 1
        sidecar.end(session, reason=f"reason {number}")
    live = sidecar.add(Session("live", "mq2"))
    live.counters.publishes = 1
    samples = await scrape(Telemetry(sidecar.vitals))
    for name in ("sidehop_publishes_total", "sidehop_sessions_ended_total"):
        values = {labels: value for (each, labels), value in samples.items() if each == name}
        assert len(values) <= LABEL_VALUES_MAX + 1
        assert sum(values.values()) == 3 * LABEL_VALUES_MAX + (name == "sidehop_publishes_total")
    assert at(samples, "sidehop_publishes_total", endpoint="mq2") == 1


async def test_hundreds_of_endpoints_do_not_make_hundreds_of_series():
    sidecar = Sidecar()
    endpoints = tuple(Endpoint(f"mq{number}", "mq", 1 + number) for number in range(2 * LABEL_VALUES_MAX))
    sidecar.pool.apply(Snapshot(endpoints), 0.0)
    samples = await scrape(Telemetry(sidecar.vitals))
    for name in ("sidehop_sessions", "sidehop_publishes_total", "sidehop_endpoint_ejections_total"):
        assert sum(each == name for each, _ in samples) <= LABEL_VALUES_MAX + 1


async def test_the_table_of_metrics_is_complete_and_invents_none(sidecar):
    sidecar.vitals.discovery.synced_at = 0.0
    body, _ = await Telemetry(sidecar.vitals).render("", 1.0)
    told = re.findall(r"^\| `(sidehop_\w+)`", (ROOT / "docs/OPERATING.md").read_text(), re.MULTILINE)
    exposed = re.findall(r"^# TYPE (sidehop_\w+)", body.decode(), re.MULTILINE)
    assert sorted(told) == sorted(exposed)


async def test_names_follow_the_rules(sidecar):
    body, _ = await Telemetry(sidecar.vitals).render("", 1.0)
    for family in text_string_to_metric_families(body.decode()):
        if family.name.startswith("sidehop_"):
            assert family.documentation.endswith(".")
            assert all(sample.name.endswith("_total") for sample in family.samples if family.type == "counter")


def test_every_counter_is_added_up():
    one, other = Counters(), Counters()
    for number, name in enumerate(Counters.__slots__, start=1):
        setattr(one, name, number)
        setattr(other, name, 100 * number)
    one.add(other)
    assert [getattr(one, name) for name in Counters.__slots__] == [
        101 * n for n in range(1, len(Counters.__slots__) + 1)
    ]
