"""Nodes with other limits than those that the client agreed to: a smaller `frame_max`, fewer channels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from pamqp import body, commands, frame, header

from tests.support.account import total
from tests.support.clients import PikaClient
from tests.support.cluster import NODES, Cluster
from tests.support.raw import START_OK, RawClient
from tests.support.sidehop import Sidehop

FIRST = 1
LATER = [n for n in NODES if n != FIRST]


@contextlib.contextmanager
def limited(cluster: Cluster, limit: str, value: int) -> Iterator[None]:
    """All nodes but the first offer this to connections from now on."""
    try:
        before = [cluster.eval(n, f"{{ok, V}} = application:get_env(rabbit, {limit}), V.").strip() for n in LATER]
        for n in LATER:
            cluster.eval(n, f"application:set_env(rabbit, {limit}, {value}).")
        yield
    finally:
        for n, old in zip(LATER, before, strict=True):
            cluster.eval(n, f"application:set_env(rabbit, {limit}, {old}).")


@pytest.fixture
def proxy(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    """Its sessions begin at the first node."""
    nodes = (part for address in cluster.addresses for part in ("--node", address))
    return start_sidehop("--policy", "first", *nodes)


def offered(cluster: Cluster, n: int) -> commands.Connection.Tune:
    with RawClient(cluster.amqp_port(n)) as client:
        client.socket.sendall(header.ProtocolHeader().marshal())
        client.expect(commands.Connection.Start)
        client.send(0, START_OK)
        return client.expect(commands.Connection.Tune)


def test_large_messages_survive_a_node_and_go_on_to_one_with_smaller_frames(
    proxy: Sidehop, cluster: Cluster, queue_name: str
) -> None:
    client = PikaClient(proxy.port)
    channel = client.channel(confirms=True)
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    bodies = [os.urandom(100_000) for _ in range(6)]
    for each in bodies[:3]:
        channel.publish(each, queue_name)
    with limited(cluster, "frame_max", 8192):
        assert offered(cluster, LATER[0]).frame_max == 8192
        assert proxy.sessions()[0]["endpoint"] == cluster.addresses[FIRST - 1]
        cluster.kill9(FIRST)
        for each in bodies[3:]:
            channel.publish(each, queue_name)
        assert proxy.sessions()[0]["endpoint"] in [cluster.addresses[n - 1] for n in LATER]
        channel.consume(queue_name)
        assert {each.body for each in channel.wait_received(6)} == set(bodies)
        for each in channel.received:
            channel.ack(each.tag)
        client.close()


def test_unconfirmed_messages_are_published_again_in_smaller_frames(
    proxy: Sidehop, cluster: Cluster, queue_name: str
) -> None:
    size, count = 100_000, 20
    one = frame.marshal(commands.Basic.Publish(routing_key=queue_name), 1)
    one += frame.marshal(header.ContentHeader(body_size=size), 1) + frame.marshal(body.ContentBody(bytes(size)), 1)
    with limited(cluster, "frame_max", 8192), RawClient(proxy.port).greet() as client:
        client.send(1, commands.Queue.Declare(queue=queue_name, durable=True, arguments={"x-queue-type": "quorum"}))
        client.expect(commands.Queue.DeclareOk)
        client.send(1, commands.Confirm.Select())
        client.expect(commands.Confirm.SelectOk)
        cluster.pause(FIRST)
        client.socket.sendall(one * count)
        cluster.kill9(FIRST)
        confirmed = 0
        while confirmed < count:
            confirmed = client.expect(commands.Basic.Ack).delivery_tag
        client.send(1, commands.Queue.Declare(queue=queue_name, passive=True))
        assert client.read_until(commands.Queue.DeclareOk).message_count == count
    assert total(proxy, "replayed_publishes") > 0


def test_a_client_with_small_frames_gets_no_larger_ones(proxy: Sidehop, queue_name: str) -> None:
    content = os.urandom(100_000)
    with RawClient(proxy.port).greet(frame_max=4096) as client:
        client.send(1, commands.Queue.Declare(queue=queue_name, exclusive=True))
        client.expect(commands.Queue.DeclareOk)
        client.send(1, commands.Basic.Publish(routing_key=queue_name), header.ContentHeader(body_size=len(content)))
        pieces = [content[at : at + 4088] for at in range(0, len(content), 4088)]
        client.send(1, *map(body.ContentBody, pieces))
        client.send(1, commands.Basic.Consume(queue=queue_name, no_ack=True))
        client.read_until(commands.Basic.Deliver)
        client.expect(header.ContentHeader)
        came = [client.expect(body.ContentBody).value for _ in pieces]
    assert came == pieces


def capabilities(port: int) -> dict[str, bool]:
    with RawClient(port) as client:
        client.socket.sendall(header.ProtocolHeader().marshal())
        return client.expect(commands.Connection.Start).server_properties["capabilities"]


def test_clients_are_offered_what_every_node_can_do(proxy: Sidehop, cluster: Cluster) -> None:
    before = capabilities(proxy.port)
    PikaClient(proxy.port).close()
    assert before == capabilities(proxy.port) == capabilities(cluster.amqp_port(FIRST))


def test_channels_beyond_what_the_next_node_takes_are_refused_alone(
    proxy: Sidehop, cluster: Cluster, queue_name: str
) -> None:
    """RabbitMQ counts channels, so that their numbers do not matter."""
    with limited(cluster, "channel_max", 5), RawClient(proxy.port).greet() as client:
        client.send(2000, commands.Channel.Open())
        client.expect(commands.Channel.OpenOk)
        cluster.kill9(FIRST)
        client.send(2000, commands.Queue.Declare(queue=queue_name, auto_delete=True))
        client.expect(commands.Queue.DeclareOk)
        client.send(3, commands.Channel.Open())
        client.expect(commands.Channel.OpenOk)
        client.send(4, commands.Channel.Open())
        close = client.expect(commands.Channel.Close)
        assert (close.reply_code, b"takes 3 channels" in close.reply_text.encode()) == (506, True)
        client.send(4, commands.Channel.CloseOk())
        client.send(3, commands.Queue.Declare(queue=queue_name, passive=True))
        client.expect(commands.Queue.DeclareOk)
