"""What the admin API tells of live sessions and brokers, in good times and in an outage."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.support.clients import AmqpClient, Closed, PikaClient
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

Start = Callable[..., Sidehop]


def per_endpoint(metrics: dict[str, float], name: str, endpoint: str) -> float:
    return metrics[f'{name}{{endpoint="{endpoint}"}}']


def test_a_working_session_is_described_and_counted(cluster: Cluster, start_sidehop: Start, queue_name: str) -> None:
    node = cluster.addresses[0]
    proxy = start_sidehop("--node", node)
    client = PikaClient(proxy.port, connection_name="shop")
    channel, consuming = client.channel(confirms=True), client.channel()
    channel.declare(queue_name, exclusive=True)
    for _ in range(5):
        channel.publish(b"12345", queue_name)
    channel.publish(b"", f"nowhere.{queue_name}", mandatory=True)
    consuming.qos(4)
    consuming.consume(queue_name)
    consuming.wait_received(4)
    consuming.ack(consuming.received[0].tag)
    consuming.wait_received(5)

    (session,) = proxy.wait_for(
        lambda: [each for each in proxy.sessions() if each["outstanding_deliveries"] == 4], "the ack to be counted"
    )
    metrics = proxy.metrics()
    client.close()

    wanted = {
        "user": "guest",
        "vhost": "/",
        "name": "shop",
        "endpoint": node,
        "state": "attached",
        "waiting": "",
        "channels": 2,
        "consumers": 1,
        "unsettled_publishes": 0,
        "unsettled_bytes": 0,
        "parked_bytes": 0,
        "failovers": 0,
        "movable": False,
        "reasons": [f"exclusive queue '{queue_name}' lives on this broker"],
    }
    assert {key: session[key] for key in wanted} == wanted
    assert session["client"].startswith("127.0.0.1:")
    counted = {
        name: per_endpoint(metrics, f"sidehop_{name}_total", node)
        for name in ("publishes", "confirms", "returns", "deliveries", "settles", "stale_acks", "replayed_publishes")
    }
    assert counted == {
        "publishes": 6,
        "confirms": 6,
        "returns": 1,
        "deliveries": 5,
        "settles": 1,
        "stale_acks": 0,
        "replayed_publishes": 0,
    }
    held = {name: per_endpoint(metrics, f"sidehop_{name}", node) for name in ("sessions", "channels", "consumers")}
    assert held == {"sessions": 1, "channels": 2, "consumers": 1}
    assert per_endpoint(metrics, "sidehop_from_client_bytes_total", node) > 25
    assert per_endpoint(metrics, "sidehop_from_broker_bytes_total", node) > 25
    proxy.wait_sessions(0)
    assert proxy.metrics()['sidehop_sessions_ended_total{reason="client_closed"}'] == 1


def test_endpoints_show_what_is_known_of_each(cluster: Cluster, start_sidehop: Start) -> None:
    dead = f"127.0.0.1:{free_port()}"
    proxy = start_sidehop("--node", cluster.addresses[0], "--node", dead)
    client = PikaClient(proxy.port)
    proxy.wait_endpoint(dead, "down")

    told = proxy.get("/api/v1/endpoints")
    client.close()

    well, ill = sorted(told["endpoints"], key=lambda endpoint: endpoint["state"], reverse=True)
    assert (well["name"], well["state"], well["sessions"]) == (cluster.addresses[0], "up", 1)
    assert (ill["name"], ill["state"], ill["sessions"]) == (dead, "down", 0)
    assert ill["cause"]
    assert told["usable"] == 1
    assert told["rejected"] == []
    metrics = proxy.metrics()
    assert metrics["sidehop_endpoints_usable"] == 1
    assert metrics[f'sidehop_endpoint_state{{endpoint="{dead}",state="down"}}'] == 1
    assert metrics[f'sidehop_endpoint_state{{endpoint="{dead}",state="up"}}'] == 0


async def test_an_outage_is_told_and_so_is_its_end(cluster: Cluster, start_sidehop: Start) -> None:
    async with Relay(cluster.amqp_port(1), free_port()) as relay:
        node = f"127.0.0.1:{relay.port}"
        environment = {"SIDEHOP_HEALTH__RISE": "1", "SIDEHOP_HEALTH__DOWN_INTERVAL_MAX_S": "1"}
        proxy = await asyncio.to_thread(start_sidehop, "--node", node, env=environment)
        client = await asyncio.to_thread(PikaClient, proxy.port)
        relay.refuse()
        relay.cut()
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.status("/readyz") == 503, "readyz to say no")

        (session,) = await asyncio.to_thread(proxy.sessions)
        assert (session["state"], session["endpoint"]) == ("failing_over", "")
        assert session["waiting"].startswith("for a broker: ")
        assert proxy.status("/livez") == 200
        metrics = await asyncio.to_thread(proxy.metrics)
        assert metrics["sidehop_endpoints_usable"] == 0
        assert per_endpoint(metrics, "sidehop_sessions", node) == 0
        assert per_endpoint(metrics, "sidehop_sessions", "(detached)") == 1

        await relay.accept()
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.status("/readyz") == 200, "readyz to say yes", 30)
        await asyncio.to_thread(proxy.wait_for, lambda: proxy.sessions()[0]["state"] == "attached", "a broker", 30)
        assert (await asyncio.to_thread(client.channel)).is_open
        metrics = await asyncio.to_thread(proxy.metrics)
        assert sum(value for name, value in metrics.items() if name.startswith("sidehop_failovers_total")) == 1
        assert metrics["sidehop_failover_duration_seconds_count"] == 1
        assert [line["endpoint"] for line in proxy.events("failover_done")] == [node]
        await asyncio.to_thread(client.close)


@pytest.fixture
def account(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """A user of the brokers whose password is like no other text."""
    user, password = f"user-{uuid.uuid4().hex[:8]}", f"secret-{uuid.uuid4().hex}"
    cluster.ctl(1, "add_user", user, password)
    cluster.ctl(1, "set_permissions", user, ".*", ".*", ".*")
    yield user, password
    cluster.ctl(1, "delete_user", user)


def test_no_secret_is_told_anywhere(cluster: Cluster, start_sidehop: Start, account: tuple[str, str]) -> None:
    user, password = account
    environment = {
        "SIDEHOP_HEALTH__USER": user,
        "SIDEHOP_HEALTH__PASSWORD": password,
        "SIDEHOP_LOG__LEVEL": "debug",
    }
    proxy = start_sidehop("--node", cluster.addresses[0], env=environment)
    clients = [
        PikaClient(proxy.port, user=user, password=password),
        AmqpClient(proxy.port, user=user, password=password, mechanism="AMQPLAIN"),
    ]
    for mechanism in ("PLAIN", "AMQPLAIN"):
        with pytest.raises(Closed, match="ACCESS_REFUSED"):
            AmqpClient(proxy.port, user=user, password=f"{password}-wrong", mechanism=mechanism)
    cluster.close_connections(1)
    proxy.wait_for(lambda: len(proxy.events("failover_done")) == len(clients), "the sessions to recover")

    told = [proxy.text(path) for path in ("/", "/metrics", "/api/v1/endpoints", "/api/v1/sessions")]
    for client in clients:
        client.close()
    proxy.stop()

    assert user in told[3]
    told.append(proxy.log_text)
    assert "failover_done" in told[4]
    assert not [text for text in told if password in text]
