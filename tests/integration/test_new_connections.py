"""What clients are told while there is no broker, and that those who wait get one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.clients import CLIENTS, Closed, PikaClient
from tests.support.cluster import Cluster
from tests.support.etcd import Etcd
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

Start = Callable[..., Sidehop]


def nowhere() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("library", CLIENTS)
def test_a_new_client_is_told_when_no_broker_is_found_in_time(start_sidehop: Start, library: str) -> None:
    proxy = start_sidehop("--node", nowhere(), wait_ready=False, env={"SIDEHOP_SESSION__FAILOVER_TIMEOUT_S": "0.5"})
    with pytest.raises(Closed) as refused:
        CLIENTS[library](proxy.port)
    if library != "aio-pika":  # it names a cause of its own
        assert "CONNECTION_FORCED - no broker reachable for 0.5s (last: " in refused.value.text
    closed = proxy.wait_for(lambda: proxy.events("session_closed"), "the session to be closed, and its line written")
    assert [line["reason"] for line in closed] == ["no_broker"]
    assert proxy.metrics()["sidehop_failovers_failed_total"] == 1


def connect_all_and_wait(proxy: Sidehop, pool: ThreadPoolExecutor) -> list:
    connecting = [pool.submit(library, proxy.port) for library in CLIENTS.values()]
    waiting = proxy.wait_sessions(len(connecting))
    assert {session["endpoint"] for session in waiting} == {""}
    proxy.wait_for(lambda: all("for a broker" in session["waiting"] for session in proxy.sessions()), "all to wait")
    assert proxy.status("/livez") == 200
    assert proxy.status("/readyz") == 503
    return connecting


def require_working(connecting: list, queue: str) -> None:
    for attempt in connecting:
        client = attempt.result(60)
        channel = client.channel(confirms=True)
        channel.declare(queue, exclusive=True)
        channel.publish(b"first", queue)
        assert channel.get(queue).body == b"first"
        client.close()


def test_new_clients_wait_for_a_node_that_a_file_names_later(
    cluster: Cluster, start_sidehop: Start, tmp_path: Path, queue_name: str
) -> None:
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps([nowhere()]))
    config = tmp_path / "sidehop.yaml"
    config.write_text(f"discovery: {{source: file, file: {{path: {nodes}, poll_s: 0.1}}}}\n")
    proxy = start_sidehop("--config", str(config), wait_ready=False)
    with ThreadPoolExecutor() as pool:
        connecting = connect_all_and_wait(proxy, pool)
        nodes.write_text(json.dumps([cluster.addresses[0]]))
        require_working(connecting, queue_name)
    assert proxy.status("/readyz") == 200


def test_new_clients_wait_for_the_first_node_in_etcd(
    cluster: Cluster, etcd: Etcd, start_sidehop: Start, queue_name: str
) -> None:
    proxy = start_sidehop("--etcd", etcd.url, wait_ready=False)
    with ThreadPoolExecutor() as pool:
        connecting = connect_all_and_wait(proxy, pool)
        etcd.ctl("put", "/mq/nodes/mq1", f"http://{cluster.addresses[0]}")
        require_working(connecting, queue_name)
    assert [endpoint["name"] for endpoint in proxy.endpoints()] == ["mq1"]


async def test_clients_hear_320_and_the_reason_when_no_broker_takes_their_sessions(
    cluster: Cluster, start_sidehop: Start
) -> None:
    async with Relay(cluster.amqp_port(1), free_port()) as relay:
        environment = {"SIDEHOP_SESSION__FAILOVER_TIMEOUT_S": "0.5"}
        node = f"127.0.0.1:{relay.port}"
        proxy = await asyncio.to_thread(start_sidehop, "--node", node, env=environment)
        clients = await asyncio.to_thread(lambda: [library(proxy.port) for library in CLIENTS.values()])
        channels = await asyncio.to_thread(lambda: [client.channel() for client in clients])
        relay.refuse()
        relay.cut()
        await asyncio.to_thread(proxy.wait_sessions, 0)
        for channel in channels:
            with pytest.raises(Closed) as told:
                await asyncio.to_thread(channel.declare, "", exclusive=True)
            if told.value.code:  # a library that was not asked in between says only that it is closed
                assert (told.value.code, "no broker reachable for 0.5s" in told.value.text) == (320, True)
        assert len(proxy.events("failover_given_up")) == len(clients)
        assert proxy.metrics()["sidehop_failovers_failed_total"] == len(clients)
        assert proxy.status("/livez") == 200


def until_told(client: PikaClient) -> Closed:
    """Serve the client until it is told that its connection is over."""
    while True:
        try:
            client.serve()
        except Closed as told:
            return told


def test_an_operator_s_close_is_recovered_from_but_not_twice_in_a_minute(
    cluster: Cluster, start_sidehop: Start
) -> None:
    proxy = start_sidehop("--node", cluster.addresses[0])
    client = PikaClient(proxy.port)
    cluster.close_connections(1)
    proxy.wait_for(lambda: proxy.sessions()[0]["failovers"] == 1, "the session to recover")
    assert client.channel().declare("", exclusive=True)
    cluster.close_connections(1)
    told = until_told(client)
    assert (told.code, told.text) == (320, "CONNECTION_FORCED - closed by the operator")


def test_an_operator_s_close_reaches_the_client_where_the_policy_says_pass(
    cluster: Cluster, start_sidehop: Start
) -> None:
    proxy = start_sidehop("--node", cluster.addresses[0], env={"SIDEHOP_SESSION__FORCED_CLOSE": "pass"})
    client = PikaClient(proxy.port)
    cluster.close_connections(1)
    told = until_told(client)
    assert (told.code, told.text) == (320, "CONNECTION_FORCED - closed by the operator")
    proxy.wait_sessions(0)
    assert proxy.events("failover_started") == []
