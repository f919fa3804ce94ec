"""What one client does, or suffers, is no other client's business."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Iterator

import aio_pika
import pytest
from pamqp import body, commands, frame, header

from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.raw import RawClient
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

Start = Callable[..., Sidehop]


def raw(kind: int, channel: int, payload: bytes, *, size: int | None = None, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload) if size is None else size) + payload + end


def method(class_id: int, method_id: int, rest: bytes = b"") -> bytes:
    return struct.pack(">HH", class_id, method_id) + rest


PUBLISH = frame.marshal(commands.Basic.Publish(routing_key="nowhere"), 1)

# Reply code and bytes.
OFFENCES = {
    "another protocol": (501, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20),
    "an oversized frame": (501, raw(1, 1, b"", size=2**31)),
    "a frame that is a little too large": (501, raw(3, 1, bytes(131072 + 1))),
    "a frame without its end": (501, raw(1, 1, method(20, 10, b"\0"), end=b"\x00")),
    "a method cut short": (501, raw(1, 1, method(50, 10, b"\0\0\xff"))),
    "a method on a channel that is not open": (504, frame.marshal(commands.Basic.Get(queue="q"), 7)),
    "a channel opened twice": (504, frame.marshal(commands.Channel.Open(), 1)),
    "a method on channel 0": (504, frame.marshal(commands.Basic.Get(queue="q"), 0)),
    "a connection method on channel 1": (503, frame.marshal(commands.Connection.Open("/"), 1)),
    "content without a publish": (505, frame.marshal(body.ContentBody(b"x"), 1)),
    "a method inside content": (505, PUBLISH + frame.marshal(commands.Basic.Get(queue="q"), 1)),
}
# RabbitMQ 3.10 accepts the first, waits for ever after the second, and resets the connection at the rest.
STRICTER = {
    "a channel beyond the maximum": (504, frame.marshal(commands.Channel.Open(), 65000)),
    "a body longer than announced": (
        505,
        PUBLISH + frame.marshal(header.ContentHeader(body_size=1), 1) + raw(3, 1, b"xx"),
    ),
    "an unknown class": (503, raw(1, 1, method(999, 1))),
    "an unknown method": (503, raw(1, 1, method(60, 999))),
}


def closing(port: int, offence: bytes) -> int:
    """The reply code of the close that an offence earns."""
    with RawClient(port, patience_s=10).greet() as client:
        client.socket.sendall(offence)
        return client.read_until(commands.Connection.Close).reply_code


@pytest.fixture
def bystander(shared_sidehop: Sidehop) -> Iterator[PikaClient]:
    """An innocent client of the same proxy, which must work to the end."""
    client = PikaClient(shared_sidehop.port)
    channel = client.channel(confirms=True)
    queue = channel.declare("", exclusive=True)
    yield client
    channel.publish(b"unharmed", queue)
    assert channel.get(queue).body == b"unharmed"
    client.close()
    shared_sidehop.require_clean_log()


@pytest.mark.parametrize("offence", OFFENCES | STRICTER)
def test_an_offender_ends_alone(shared_sidehop: Sidehop, bystander: PikaClient, offence: str) -> None:
    code, data = (OFFENCES | STRICTER)[offence]
    assert closing(shared_sidehop.port, data) == code
    shared_sidehop.wait_sessions(1)
    assert shared_sidehop.sessions()[0]["failovers"] == 0
    assert shared_sidehop.metrics()["sidehop_endpoints_usable"] == 3


@pytest.mark.parametrize("offence", OFFENCES)
def test_the_codes_for_offences_are_the_broker_s_own(booted_cluster: Cluster, offence: str) -> None:
    code, data = OFFENCES[offence]
    assert closing(booted_cluster.amqp_port(1), data) == code


@pytest.mark.parametrize("way", ["direct", "sidehop"])
def test_a_payload_of_frame_max_is_forgiven_as_by_the_broker(
    booted_cluster: Cluster, shared_sidehop: Sidehop, way: str
) -> None:
    """Some old clients forget to count a frame's own 8 bytes."""
    size = 131072
    with RawClient(booted_cluster.amqp_port(1) if way == "direct" else shared_sidehop.port).greet() as client:
        client.socket.sendall(PUBLISH + frame.marshal(header.ContentHeader(body_size=size), 1) + raw(3, 1, bytes(size)))
        client.send(1, commands.Channel.Close(200, "done", 0, 0))
        client.expect(commands.Channel.CloseOk)


@pytest.mark.parametrize(
    "greeting", [b"GET / HTTP/1.1\r\n\r\n", b"AMQP\x01\x01\x00\x0a", b"\x16\x03\x01\x02\x00\x01\x00"]
)
def test_a_stranger_is_told_what_is_spoken_here(
    shared_sidehop: Sidehop, bystander: PikaClient, greeting: bytes
) -> None:
    with RawClient(shared_sidehop.port) as stranger:
        stranger.socket.sendall(greeting)
        assert stranger.read_rest() == b"AMQP\x00\x00\x09\x01"
    shared_sidehop.wait_sessions(1)


def test_those_who_fall_silent_halfway_are_hung_up_on(start_sidehop: Start, booted_cluster: Cluster) -> None:
    proxy = start_sidehop("--node", booted_cluster.addresses[0], env={"SIDEHOP_SESSION__HANDSHAKE_TIMEOUT_S": "1"})
    begun = [b"", b"AMQ", b"AMQP\x00\x00\x09\x01", b"AMQP\x00\x00\x09\x01" + raw(1, 0, bytes(50), end=b"")[:20]]
    silent = [RawClient(proxy.port) for _ in begun]
    for client, greeting in zip(silent, begun, strict=True):
        client.socket.sendall(greeting)
    working = RawClient(proxy.port).greet(heartbeat_s=1)
    working.socket.sendall(PUBLISH[:9])
    for client in (*silent, working):
        client.read_rest()
        client.socket.close()
    proxy.wait_sessions(0)
    reasons = sorted(line["reason"] for line in proxy.events("session_closed"))
    assert reasons == ["client_silent"] + ["handshake_timeout"] * len(begun)


def test_a_consumer_that_does_not_read_stalls_nobody_and_costs_little(
    shared_sidehop: Sidehop, bystander: PikaClient, queue_name: str
) -> None:
    messages, size = 1000, 64 * 1024
    with RawClient(shared_sidehop.port).greet() as lazy:
        lazy.send(1, commands.Queue.Declare(queue=queue_name, exclusive=False, auto_delete=True))
        lazy.expect(commands.Queue.DeclareOk)
        lazy.send(1, commands.Basic.Consume(queue=queue_name, consumer_tag="lazy", no_ack=True))
        lazy.expect(commands.Basic.ConsumeOk)
        before = shared_sidehop.metrics()["process_resident_memory_bytes"]
        channel = bystander.channel(confirms=True)
        for number in range(messages):
            channel.publish(number.to_bytes(4, "big") + bytes(size - 4), queue_name)
        grown = shared_sidehop.metrics()["process_resident_memory_bytes"] - before
        assert grown < messages * size / 2
        assert len(shared_sidehop.sessions()) == 2
        for number in range(messages):
            lazy.read_until(commands.Basic.Deliver)
            announced = lazy.expect(header.ContentHeader).body_size
            got = b""
            while len(got) < announced:
                got += lazy.expect(body.ContentBody).value
            assert (got[:4], len(got)) == (number.to_bytes(4, "big"), size)


async def test_a_publisher_faster_than_its_broker_is_slowed_down_and_loses_nothing(
    booted_cluster: Cluster, start_sidehop: Start, queue_name: str
) -> None:
    limit, messages, size = 1024 * 1024, 500, 16 * 1024
    environment = {
        "SIDEHOP_SESSION__UNSETTLED_BYTES_MAX": str(limit),
        "SIDEHOP_SESSION__PARKED_BYTES_MAX": str(limit),
        "SIDEHOP_SESSION__HEARTBEAT_S": "60",
    }
    async with Relay(booted_cluster.amqp_port(1), free_port()) as relay:
        proxy = await asyncio.to_thread(start_sidehop, "--node", f"127.0.0.1:{relay.port}", env=environment)
        client = await asyncio.to_thread(PikaClient, proxy.port)
        channel = await asyncio.to_thread(client.channel)
        await asyncio.to_thread(channel.declare, queue_name, durable=True)
        relay.silence()

        def flood() -> None:
            for number in range(messages):
                channel.publish(number.to_bytes(4, "big") + bytes(size - 4), queue_name)

        flooding = threading.Thread(target=flood)
        flooding.start()
        await asyncio.to_thread(
            proxy.wait_for, lambda: proxy.sessions()[0]["unsettled_bytes"] >= limit, "the limit to be reached"
        )
        held = proxy.sessions()[0]
        assert held["unsettled_bytes"] + held["parked_bytes"] < 2 * limit
        relay.speak()
        await asyncio.to_thread(flooding.join)
        await asyncio.to_thread(client.close)

    reader = await asyncio.to_thread(PikaClient, booted_cluster.amqp_port(1))
    channel = reader.channel()
    channel.consume(queue_name, no_ack=True)
    received = await asyncio.to_thread(channel.wait_received, messages)
    assert [int.from_bytes(message.body[:4], "big") for message in received] == list(range(messages))
    channel.delete(queue_name)
    reader.close()


async def test_two_hundred_clients_survive_the_death_of_their_node_together(
    cluster: Cluster, start_sidehop: Start
) -> None:
    count = 200
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    environment = {"SIDEHOP_DIAL__ATTACHMENTS_MAX": "16"}
    proxy = await asyncio.to_thread(start_sidehop, "--policy", "first", *nodes, env=environment)

    async def connect(port: int) -> aio_pika.abc.AbstractConnection:
        return await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/")

    connections = [await connect(proxy.port) for _ in range(count)]
    channels = [await connection.channel() for connection in connections]
    queues = [await channel.declare_queue("", exclusive=True) for channel in channels]
    assert {session["endpoint"] for session in proxy.get("/api/v1/sessions?limit=1000")["sessions"]} == {
        cluster.addresses[0]
    }

    await asyncio.to_thread(cluster.stop_app, 1)

    async def use(channel: aio_pika.abc.AbstractChannel, queue: aio_pika.abc.AbstractQueue) -> None:
        await channel.default_exchange.publish(aio_pika.Message(queue.name.encode()), queue.name)
        message = await queue.get(timeout=30)
        assert message.body == queue.name.encode()
        await message.ack()

    async with asyncio.timeout(120):
        await asyncio.gather(*map(use, channels, queues))
    sessions = proxy.get("/api/v1/sessions?limit=1000")["sessions"]
    assert len(sessions) == count
    assert {session["failovers"] for session in sessions} == {1}
    assert sum(value for name, value in proxy.metrics().items() if name.startswith("sidehop_failovers_total")) == count
    for connection in connections:
        assert not connection.is_closed
        await connection.close()
    await asyncio.to_thread(proxy.wait_sessions, 0)
