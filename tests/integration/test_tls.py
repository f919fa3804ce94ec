"""TLS on both legs, with a real broker behind and a stock client in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pika
import pytest

from tests.support.certificates import Authority, Pair
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

Start = Callable[..., Sidehop]
LOGIN = pika.PlainCredentials("guest", "guest")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    folder = tmp_path / "ours"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    folder = tmp_path / "theirs"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def run(tmp_path: Path, start_sidehop: Start) -> Start:
    """Start a proxy with this configuration."""

    def start(nodes: list[str], **sections: dict[str, object]) -> Sidehop:
        file = tmp_path / "sidehop.yaml"
        document = {"discovery": {"source": "static", "static": {"nodes": nodes}}, **sections}
        file.write_text(json.dumps(document))  # JSON is YAML
        return start_sidehop("--config", str(file), wait_ready=False)

    return start


def server_side(pair: Pair, client_ca: Path | None = None) -> ssl.SSLContext:
    """As a broker with `listeners.ssl` has it; with `client_ca` also `fail_if_no_peer_cert`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(pair.cert, pair.key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_side(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    return context


def connect(proxy: Sidehop, tls: ssl.SSLContext | None = None) -> pika.BlockingConnection:
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            "127.0.0.1",
            proxy.port,
            credentials=LOGIN,
            ssl_options=pika.SSLOptions(tls, "127.0.0.1") if tls else None,
            socket_timeout=20,
            blocked_connection_timeout=60,
        )
    )


def round_trip(connection: pika.BlockingConnection, queue: str) -> None:
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True)
    body = bytes(range(256)) * 2000  # several TLS records and several frames
    channel.basic_publish("", queue, body)
    _, _, got = channel.basic_get(queue, auto_ack=True)
    assert got == body
    channel.queue_delete(queue)


# The client's leg.


def test_a_client_speaks_tls_and_others_are_turned_away_with_a_word(
    cluster: Cluster, run: Start, ours: Authority, theirs: Authority, queue_name: str
) -> None:
    server, client, stranger = ours.issue("sidehop"), ours.issue("app"), theirs.issue("stranger")
    listen = {"tls_cert": str(server.cert), "tls_key": str(server.key), "tls_client_ca": str(ours.ca)}
    proxy = run(cluster.addresses, listen=listen)
    with contextlib.closing(connect(proxy, client_side(ours, client))) as connection:
        round_trip(connection, queue_name)

        for wrong in (client_side(ours), client_side(ours, stranger)):
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                connect(proxy, wrong)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as plain:
            plain.sendall(b"AMQP\x00\x00\x09\x01")
            assert b"AMQP" not in ended(plain)

        refused = 'sidehop_sessions_refused_total{reason="tls"}'
        proxy.wait_for(lambda: proxy.metrics().get(refused) == 3, "three refusals")
        [told] = proxy.events("session_refused")
        assert "certificate" in told["reason"]
        round_trip(connection, queue_name)


def ended(link: socket.socket) -> bytes:
    """What a peer says until it closes, which it must."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := link.recv(4096):
            got += chunk
    return got


def test_a_client_without_tls_at_the_tls_port_is_named_in_the_log(
    cluster: Cluster, run: Start, ours: Authority
) -> None:
    pair = ours.issue("sidehop")
    proxy = run(cluster.addresses, listen={"tls_cert": str(pair.cert), "tls_key": str(pair.key)})
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        connect(proxy)
    [told] = proxy.wait_for(lambda: proxy.events("session_refused"), "the refusal")
    assert told["reason"] == "it does not speak TLS; a port with listen.tls_cert is for amqps clients only"


def test_a_tls_client_at_the_plain_port_is_named_in_the_log(sidehop: Sidehop, ours: Authority) -> None:
    with pytest.raises((pika.exceptions.AMQPConnectionError, ssl.SSLError)):
        connect(sidehop, client_side(ours))
    [told] = sidehop.wait_for(lambda: sidehop.events("session_refused"), "the refusal")
    assert told["reason"] == "it spoke TLS; this port expects AMQP 0-9-1"
    assert told["level"] == "warning"


# The broker's leg.


async def test_failover_between_two_tls_brokers_while_publishing(
    cluster: Cluster, run: Start, ours: Authority, queue_name: str
) -> None:
    server, client = ours.issue("broker", client_auth=False), ours.issue("sidehop")
    tls = server_side(server, ours.ca)
    async with (
        Relay(cluster.amqp_port(1), free_port(), tls) as one,
        Relay(cluster.amqp_port(2), free_port(), tls) as two,
    ):
        dial = {"tls_ca": str(ours.ca), "tls_cert": str(client.cert), "tls_key": str(client.key)}
        nodes = [f"amqps://127.0.0.1:{relay.port}" for relay in (one, two)]
        proxy = await asyncio.to_thread(run, nodes, dial=dial, balance={"policy": "first"})
        connection = await asyncio.to_thread(connect, proxy)

        def publish(count: int):
            channel.basic_publish("", queue_name, str(count).encode(), pika.BasicProperties(delivery_mode=2))

        channel = await asyncio.to_thread(connection.channel)
        await asyncio.to_thread(channel.confirm_delivery)
        await asyncio.to_thread(channel.queue_declare, queue_name, durable=True, arguments={"x-queue-type": "quorum"})
        for count in range(60):
            if count in (20, 40):
                here, there = (one, two) if count == 20 else (two, one)
                here.refuse()
                here.cut()
                if count == 40:
                    await there.accept()
            await asyncio.to_thread(publish, count)

        log = await asyncio.to_thread(lambda: proxy.events("failover_done"))
        assert len(log) == 2

        def drained() -> list[int]:
            messages = iter(lambda: channel.basic_get(queue_name, auto_ack=True), (None, None, None))
            got = [int(body) for _, _, body in messages]
            channel.queue_delete(queue_name)
            connection.close()
            return got

        assert sorted(set(await asyncio.to_thread(drained))) == list(range(60))
        await asyncio.to_thread(proxy.stop)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("authority", "certificate verify failed"),
        ("no client certificate", "connection"),  # asyncio's server closes without an alert
        ("plain", "wrong version number"),
    ],
)
async def test_a_broker_whose_tls_does_not_fit_is_left_for_another_with_a_reason(
    cluster: Cluster, run: Start, ours: Authority, theirs: Authority, queue_name: str, wrong: str, reason: str
) -> None:
    good = server_side(ours.issue("good"))
    bad = {
        "authority": lambda: server_side(theirs.issue("bad")),
        "no client certificate": lambda: server_side(ours.issue("bad"), ours.ca),
        "plain": lambda: None,
    }[wrong]()
    async with (
        Relay(cluster.amqp_port(1), free_port(), bad) as first,
        Relay(cluster.amqp_port(2), free_port(), good) as second,
    ):
        nodes = [f"amqps://127.0.0.1:{relay.port}" for relay in (first, second)]
        health = {"interval_s": 600, "fall": 100}  # what sessions meet is asked here, not what probes find first
        proxy = await asyncio.to_thread(
            run, nodes, dial={"tls_ca": str(ours.ca)}, balance={"policy": "first"}, health=health
        )

        def visit() -> None:
            with contextlib.closing(connect(proxy)) as connection:
                assert proxy.sessions()[0]["endpoint"] == f"127.0.0.1:{second.port}"
                round_trip(connection, queue_name)

        await asyncio.to_thread(visit)
        told = proxy.events("failover_attempt_failed")[0]
        assert reason in told["reason"].lower().replace("_", " ")
        assert f"127.0.0.1:{first.port}" in told["reason"] + told["endpoint"]
        await asyncio.to_thread(proxy.stop)


async def test_the_certificate_is_verified_against_the_name_that_was_resolved(
    cluster: Cluster, run: Start, ours: Authority, queue_name: str
) -> None:
    pair = ours.issue("by-address")  # names 127.0.0.1, not localhost
    names = []
    tls = server_side(pair)
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with Relay(cluster.amqp_port(1), free_port(), tls) as relay:
        dns = {"source": "dns", "dns": {"name": "localhost", "port": relay.port, "tls": True}}
        proxy = await asyncio.to_thread(
            run, [], discovery=dns, dial={"tls_ca": str(ours.ca)}, session={"failover_timeout_s": 1}
        )

        def refused() -> str:
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                connect(proxy)
            return proxy.wait_for(lambda: proxy.events("failover_given_up"), "what the client was told")[0]["reason"]

        reason = await asyncio.to_thread(refused)
        assert "certificate is not valid for 'localhost'" in reason
        assert set(names) == {"localhost"}
        await asyncio.to_thread(proxy.stop)
