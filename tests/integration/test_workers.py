"""Several workers behind one address: they serve as one, and the death of one is the death of its sessions only."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.clients import Closed, PikaChannel, PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

CLIENTS = 16
EACH = 10


@pytest.fixture
def proxy(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    nodes = (part for address in cluster.addresses for part in ("--node", address))
    return start_sidehop(*nodes, env={"SIDEHOP_LISTEN__WORKERS": "2"})


@pytest.fixture
def channels(proxy: Sidehop, queue_name: str) -> Iterator[list[PikaChannel]]:
    """Channels of as many clients, which both workers have some of. The clients are called by their place here."""
    clients: list[PikaClient] = []
    while len(clients) < CLIENTS or len(by_worker(proxy)) < 2:
        clients.append(PikaClient(proxy.port, connection_name=str(len(clients))))
    made = [client.channel(confirms=True) for client in clients]
    made[0].declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    yield made
    for client in clients:
        if client.is_open:
            client.close()


def by_worker(proxy: Sidehop) -> Counter[str]:
    """How many sessions each worker has."""
    return Counter(each["id"].partition("-")[0] for each in proxy.sessions())


def pid_of(proxy: Sidehop, worker: str) -> int:
    return next(line["pid"] for line in proxy.events("worker_started") if line["worker"] == int(worker))


def total(proxy: Sidehop, name: str) -> float:
    return sum(value for sample, value in proxy.metrics().items() if sample.partition("{")[0] == name)


def test_they_answer_as_one(proxy: Sidehop, channels: list[PikaChannel], queue_name: str) -> None:
    for channel in channels:
        for number in range(EACH):
            channel.publish(str(number).encode(), queue_name)
    sessions = proxy.sessions()
    assert {each["name"] for each in sessions} == {str(place) for place in range(len(channels))}
    assert {each["state"] for each in sessions} == {"attached"}
    pages = [proxy.get(f"/api/v1/sessions?limit=5&offset={offset}") for offset in range(0, len(channels), 5)]
    assert [each["id"] for page in pages for each in page["sessions"]] == [each["id"] for each in sessions]
    assert pages[-1]["next_offset"] is None
    assert sum(each["sessions"] for each in proxy.endpoints()) == len(channels)
    assert total(proxy, "sidehop_sessions") == len(channels)
    assert total(proxy, "sidehop_sessions_opened_total") == len(channels)
    assert total(proxy, "sidehop_publishes_total") == len(channels) * EACH
    assert total(proxy, "sidehop_confirms_total") == len(channels) * EACH
    assert total(proxy, "sidehop_workers") == 2
    assert channels[0].count(queue_name) == len(channels) * EACH


def test_one_that_is_killed_is_replaced_and_the_sessions_of_the_other_go_on(
    proxy: Sidehop, channels: list[PikaChannel], queue_name: str
) -> None:
    for channel in channels:
        channel.publish(b"before", queue_name)
    assert total(proxy, "sidehop_publishes_total") == len(channels)
    victim, survivor = sorted(by_worker(proxy))
    there = {each["name"] for each in proxy.sessions() if each["id"].startswith(f"{survivor}-")}
    os.kill(pid_of(proxy, victim), signal.SIGKILL)
    proxy.wait_for(lambda: len(proxy.events("worker_started")) == 3, "another worker")
    for place, channel in enumerate(channels):
        if str(place) in there:
            channel.publish(b"after", queue_name)
        else:
            with pytest.raises(Closed):
                channel.publish(b"after", queue_name)
    (died,) = proxy.events("worker_died")
    assert (died["worker"], died["reason"]) == (int(victim), "killed by SIGKILL")
    assert by_worker(proxy) == {survivor: len(there)}
    assert total(proxy, "sidehop_worker_deaths_total") == 1
    assert total(proxy, "sidehop_workers") == 2
    assert total(proxy, "sidehop_publishes_total") == len(channels) + len(there)
    assert total(proxy, "sidehop_failovers_total") == 0
    assert proxy.status("/readyz") == 200
    later = []
    while set(by_worker(proxy)) != {survivor, "3"}:
        later.append(PikaClient(proxy.port))
    for client in later:
        client.close()


def test_the_death_of_a_broker_is_noticed_by_no_client_of_any_worker(
    proxy: Sidehop, cluster: Cluster, channels: list[PikaChannel], queue_name: str
) -> None:
    sessions = proxy.sessions()
    most = Counter(each["endpoint"] for each in sessions).most_common(1)[0][0]
    lost = [each for each in sessions if each["endpoint"] == most]
    cluster.kill9(cluster.number_at(most))
    for channel in channels:
        channel.publish(b"on", queue_name)
    assert total(proxy, "sidehop_failovers_total") == len(lost)
    assert total(proxy, "sidehop_failover_duration_seconds_count") == len(lost)
    assert channels[0].count(queue_name) >= len(channels)


def test_a_signal_lets_the_clients_of_all_finish(proxy: Sidehop, channels: list[PikaChannel], queue_name: str) -> None:
    pids = [pid_of(proxy, worker) for worker in by_worker(proxy)]
    os.kill(proxy.pid, signal.SIGTERM)
    proxy.wait_for(lambda: proxy.events("stopping"), "it to stop")
    assert proxy.events("stopping")[0]["sessions"] == len(channels)
    late = [PikaClient(proxy.port) for _ in range(4)]
    for channel in channels:
        channel.publish(b"last words", queue_name)
    for client in [*(channel.client for channel in channels), *late]:
        client.close()
    assert proxy.stop() == 0
    assert proxy.events("stopped")[0]["sessions_cut"] == 0
    assert proxy.events("worker_died") == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_more_memory_for_workers_than_there_is_is_refused(start_sidehop: Callable[..., Sidehop]) -> None:
    limits = {"SIDEHOP_LISTEN__WORKERS": "4", "SIDEHOP_LISTEN__RETAINED_BYTES_MAX": "50000000"}
    with pytest.raises(AssertionError, match=r"for each of the 4 listen\.workers"):
        start_sidehop("--node", "127.0.0.1:1", env=limits)
