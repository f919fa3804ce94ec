"""A broker goes away under applications at work, in every way that brokers go; the applications see nothing.

One proxy serves all tests here, with the policy `first`, so that all its sessions are on the node that is hurt.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest

from tests.support.account import account, total
from tests.support.applications import PREFETCH, Application, at_work
from tests.support.clients import PikaClient
from tests.support.cluster import NODES, Cluster
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

STEPS = 15


@pytest.fixture(scope="module")
def running(booted_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidehop]:
    booted_cluster.make_whole()
    nodes = (part for address in booted_cluster.addresses for part in ("--node", address))
    environment = {
        # A hung node is noticed before the cluster itself takes it for dead (8 s), which would partition it.
        "SIDEHOP_SESSION__HEARTBEAT_S": "2",
        "SIDEHOP_SESSION__HANDSHAKE_TIMEOUT_S": "4",
        # So that a node which is back counts at once.
        "SIDEHOP_HEALTH__USER": "guest",
        "SIDEHOP_HEALTH__PASSWORD": "guest",
        "SIDEHOP_HEALTH__RISE": "1",
        "SIDEHOP_BALANCE__SLOW_START_S": "0",
    }
    folder = tmp_path_factory.mktemp("sidehop")
    proxy = Sidehop(folder, free_port(), free_port(), "--policy", "first", *nodes, env=environment)
    try:
        yield proxy.start()
        proxy.stop()
    finally:
        proxy.kill()


@pytest.fixture
def proxy(running: Sidehop, cluster: Cluster) -> Sidehop:
    """The proxy, no client, and all nodes well in its eyes."""
    running.wait_sessions(0)
    for address in cluster.addresses:
        running.wait_endpoint(address, "up")
    return running


@pytest.fixture
def applications(proxy: Sidehop, cluster: Cluster, queue_name: str) -> Iterator[list[Application]]:
    """One of each library, all at work on the same node."""
    started = at_work(proxy.port, queue_name, STEPS)
    assert len({session["endpoint"] for session in proxy.sessions()}) == 1
    yield started
    for application in started:
        application.stopping.set()


def node_in_use(proxy: Sidehop, cluster: Cluster) -> int:
    return cluster.number_at(proxy.sessions()[0]["endpoint"])


def wait_left(proxy: Sidehop, cluster: Cluster, n: int) -> None:
    """Until no session is at node n any more, wherever else it may be."""
    left = cluster.addresses[n - 1]
    proxy.wait_for(lambda: all(session["endpoint"] != left for session in proxy.sessions()), f"all to leave {left}", 60)


def wait_attached(proxy: Sidehop) -> None:
    def attached() -> bool:
        return all(session["state"] == "attached" for session in proxy.sessions())

    proxy.wait_for(attached, "all sessions to have a node", 60)


def consumers(cluster: Cluster, n: int, applications: list[Application]) -> list[list[str]]:
    """What the broker knows of the consumers: queue, tag, acks, prefetch. The dead stay a while, inactive."""
    ours = {name for application in applications for name in (application.confirmed_queue, application.private_queue)}
    lines = cluster.ctl(n, "list_consumers", "queue_name", "consumer_tag", "ack_required", "prefetch_count", "active")
    known = [columns for columns in map(str.split, lines.splitlines()) if columns and columns[0] in ours]
    return sorted(columns for columns in known if columns[-1] == "true")


FAULTS: dict[str, Callable[[Cluster, int], None]] = {
    "operator_close": lambda cluster, n: cluster.close_connections(n),
    "stop_app": lambda cluster, n: cluster.stop_app(n),
    "SIGSTOP": lambda cluster, n: cluster.pause(n),
    "kill -9": lambda cluster, n: cluster.kill9(n),
    "SIGTERM": lambda cluster, n: cluster.stop(n),
    "partition": lambda cluster, n: cluster.isolate(n),
}
# Where a node has to be helped back before it answers again.
CURES: dict[str, Callable[[Cluster, int], None]] = {
    "SIGSTOP": lambda cluster, n: cluster.resume(n),
    "partition": lambda cluster, n: cluster.rejoin(n),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_applications_do_not_notice_that_their_node_goes(
    proxy: Sidehop, cluster: Cluster, applications: list[Application], fault: str
) -> None:
    n = node_in_use(proxy, cluster)
    other = n % len(NODES) + 1
    ids = {session["id"] for session in proxy.sessions()}
    private_queues = [application.private_queue for application in applications]
    consumers_before = consumers(cluster, other, applications)
    replayed_before, stale_before = total(proxy, "replayed_publishes"), total(proxy, "stale_acks")
    assert len(consumers_before) == 2 * len(applications)

    FAULTS[fault](cluster, n)
    if fault in CURES:
        wait_left(proxy, cluster, n)
        CURES[fault](cluster, n)
    proxy.wait_for(lambda: all(session["failovers"] for session in proxy.sessions()), "a failover of each", 60)
    wait_attached(proxy)
    for application in applications:
        application.wait_progress(STEPS)

    sessions = proxy.sessions()
    assert {session["id"] for session in sessions} == ids
    assert [session["channels"] for session in sessions] == [5] * len(applications)
    assert [application.private_queue for application in applications] == private_queues
    proxy.wait_for(lambda: consumers(cluster, other, applications) == consumers_before, "the same consumers", 60)
    # What was held when the node went was acknowledged afterwards: harmless, since nobody closed a channel over it.
    assert total(proxy, "stale_acks") > stale_before
    assert [columns[3] for columns in consumers_before].count(str(PREFETCH)) == len(applications)
    account(proxy, cluster, applications, replayed_before)


@pytest.mark.parametrize("second", ["at once", "during the recovery"])
def test_applications_do_not_notice_that_two_nodes_go(
    proxy: Sidehop, cluster: Cluster, applications: list[Application], second: str
) -> None:
    ids = {session["id"] for session in proxy.sessions()}
    replayed_before = total(proxy, "replayed_publishes")
    n = node_in_use(proxy, cluster)
    # The policy `first` says where the sessions go next.
    follower = 2 if n == 1 else 1

    with ThreadPoolExecutor() as pool:
        stopping = [pool.submit(cluster.stop_app, n)]
        if second == "at once":
            stopping.append(pool.submit(cluster.stop_app, follower))
        else:
            wait_left(proxy, cluster, n)
            cluster.pause(follower)
            wait_left(proxy, cluster, follower)
            cluster.resume(follower)
        for stopped in stopping:
            stopped.result()
    wait_left(proxy, cluster, n)
    cluster.make_whole()
    wait_attached(proxy)
    for application in applications:
        application.wait_progress(STEPS)

    assert {session["id"] for session in proxy.sessions()} == ids
    account(proxy, cluster, applications, replayed_before)


async def test_applications_do_not_notice_that_their_connections_are_cut_again_and_again(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """The brokers live on, so that each cut finds the old exclusive queues still there, locked."""
    cuts = 8
    async with Relay(cluster.amqp_port(1), free_port()) as first, Relay(cluster.amqp_port(2), free_port()) as second:
        nodes = [part for relay in (first, second) for part in ("--node", f"127.0.0.1:{relay.port}")]
        proxy = await asyncio.to_thread(start_sidehop, *nodes)
        replayed_before = total(proxy, "replayed_publishes")
        applications = await asyncio.to_thread(at_work, proxy.port, queue_name, STEPS)
        for cut in range(1, cuts + 1):
            for application in applications:
                await asyncio.to_thread(application.wait_progress, STEPS)
            first.cut()
            second.cut()
            await asyncio.to_thread(
                proxy.wait_for,
                lambda cut=cut: all(session["failovers"] >= cut for session in proxy.sessions()),
                f"failover {cut} of every session",
                60,
            )
        for application in applications:
            await asyncio.to_thread(application.wait_progress, STEPS)
        assert len(proxy.sessions()) == len(applications)
        await asyncio.to_thread(account, proxy, cluster, applications, replayed_before)


async def test_large_bodies_that_are_cut_halfway_arrive_whole(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    size, count = 4 * 1024 * 1024, 4
    sent = [os.urandom(size) for _ in range(count)]
    async with Relay(cluster.amqp_port(1), free_port()) as first, Relay(cluster.amqp_port(2), free_port()) as second:
        nodes = [part for relay in (first, second) for part in ("--node", f"127.0.0.1:{relay.port}")]
        environment = {"SIDEHOP_SESSION__DELIVERY_HOLD_BYTES_MAX": str(2 * size)}
        proxy = await asyncio.to_thread(start_sidehop, *nodes, env=environment)
        client = await asyncio.to_thread(PikaClient, proxy.port)
        channel = await asyncio.to_thread(client.channel, confirms=True)
        await asyncio.to_thread(channel.declare, queue_name, durable=True)

        async def cut_at(counter: str, bytes_passed: int) -> None:
            await asyncio.to_thread(
                proxy.wait_for, lambda: total(proxy, counter) > bytes_passed, f"{bytes_passed} bytes to pass"
            )
            first.cut()
            second.cut()

        for number, body in enumerate(sent):
            cutting = asyncio.create_task(cut_at("from_client_bytes", number * size + size // 2))
            await asyncio.to_thread(channel.publish, body, queue_name)
            await cutting

        cutting = asyncio.create_task(cut_at("from_broker_bytes", size + size // 2))
        await asyncio.to_thread(channel.consume, queue_name)
        wanted = {hashlib.sha256(body).digest() for body in sent}

        def receive() -> None:
            while {hashlib.sha256(message.body).digest() for message in channel.received} != wanted:
                client.serve()
            channel.ack(channel.received[-1].tag, multiple=True)
            channel.delete(queue_name)
            client.close()

        await asyncio.to_thread(receive)
        await cutting
        assert {len(message.body) for message in channel.received} == {size}
        assert await asyncio.to_thread(proxy.events, "failover_given_up") == []


async def test_answers_that_queues_give_late_are_known_as_theirs(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """A queue answers `basic.consume` itself, so that a broker may answer what was asked behind it before."""
    queues = [f"{queue_name}.{number}" for number in range(5)]

    def declared_elsewhere() -> PikaClient:
        elsewhere = PikaClient(cluster.amqp_port(2))
        channel = elsewhere.channel()
        for queue in queues:
            channel.declare(queue, durable=True)
        return elsewhere

    elsewhere = await asyncio.to_thread(declared_elsewhere)
    async with Relay(cluster.amqp_port(1), free_port()) as relay:
        proxy = await asyncio.to_thread(start_sidehop, "--node", f"127.0.0.1:{relay.port}")

        def consumers_then_a_window() -> pika.BlockingConnection:
            connection = pika.BlockingConnection(pika.ConnectionParameters(port=proxy.port, heartbeat=0))
            channel = connection.channel()
            for queue in queues:
                channel.basic_consume(queue, lambda *_: None)
            channel.basic_qos(prefetch_count=10)
            return connection

        connection = await asyncio.to_thread(consumers_then_a_window)
        for cuts in range(1, 6):
            relay.cut()
            await asyncio.to_thread(
                proxy.wait_for, lambda n=cuts: len(proxy.events("failover_done")) == n, f"failover {cuts} to be over"
            )
        assert len(proxy.events("failover_started")) == 5
        await asyncio.to_thread(connection.close)
        for queue in queues:
            await asyncio.to_thread(elsewhere.channel().delete, queue)
        await asyncio.to_thread(elsewhere.close)
