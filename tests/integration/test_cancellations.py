"""The home of a classic queue dies under a consumer at another node, and a queue is deleted under one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

HOME = 2


@pytest.fixture
def proxy(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    """All its sessions are at node 1."""
    return start_sidehop("--node", cluster.addresses[0])


def declared(cluster: Cluster, name: str, **named: bool) -> None:
    """A classic queue whose home is node 2."""
    client = PikaClient(cluster.amqp_port(HOME))
    client.channel().declare(name, **named)
    client.close()
    assert f"mq{HOME}@" in cluster.ctl(1, "list_queues", "name", "pid").split(name, 1)[1].splitlines()[0]


def waiting(proxy: Sidehop) -> str:
    return proxy.sessions()[0]["waiting"]


@pytest.mark.parametrize("lose", [Cluster.kill9, Cluster.stop], ids=["kill9", "stop"])
def test_a_consumer_survives_the_home_of_its_queue(
    proxy: Sidehop, cluster: Cluster, queue_name: str, lose: Callable[[Cluster, int], None]
) -> None:
    declared(cluster, queue_name, durable=True)
    client = PikaClient(proxy.port)
    channel = client.channel(confirms=True)
    channel.qos(1)
    channel.consume(queue_name)
    channel.publish(b"1", queue_name)
    channel.publish(b"2", queue_name)
    channel.wait_received(1)

    lose(cluster, HOME)
    proxy.wait_for(lambda: queue_name in waiting(proxy), "the consumer to wait")
    assert proxy.events("consumer_paused")
    client.serve()
    assert channel.cancelled == []

    cluster.start(HOME)
    proxy.wait_for(lambda: proxy.events("consumer_resumed"), "the consumer to be back", 60)
    channel.wait_received(2)  # what it held comes again
    assert [(each.body, each.redelivered) for each in channel.received] == [(b"1", False), (b"1", True)]
    channel.ack(channel.received[1].tag)
    channel.wait_received(3)
    channel.ack(channel.received[2].tag)
    assert channel.received[2].body == b"2"
    assert channel.cancelled == []
    assert waiting(proxy) == ""
    assert proxy.events("channel_restarted") == []
    client.close()


def test_a_consumer_hears_that_its_queue_was_deleted(proxy: Sidehop, cluster: Cluster, queue_name: str) -> None:
    declared(cluster, queue_name, durable=True)
    client = PikaClient(proxy.port)
    channel = client.channel()
    tag = channel.consume(queue_name)
    other = PikaClient(cluster.amqp_port(3))
    other.channel().delete(queue_name)

    def told() -> bool:
        client.serve()
        return channel.cancelled == [tag]

    proxy.wait_for(told, "the client to be told")
    other.close()
    client.close()


def test_a_transient_queue_of_the_clients_own_is_declared_again(
    proxy: Sidehop, cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """It lives at the node that its client was connected to; so the client fails over together with it."""
    declared(cluster, queue_name, durable=True)
    there = start_sidehop("--policy", "first", "--node", cluster.addresses[1], "--node", cluster.addresses[0])
    client = PikaClient(there.port)
    channel = client.channel(confirms=True)
    channel.consume(queue_name, tag="durable")
    own = channel.declare("", auto_delete=True)
    channel.consume(own, tag="own")

    cluster.kill9(HOME)
    there.wait_for(lambda: queue_name in waiting(there), "the consumer of the durable queue to wait", 30)
    channel.publish(b"own", own)
    channel.wait_received(1)
    assert channel.received[0].consumer == "own"
    cluster.start(HOME)
    there.wait_for(lambda: there.events("consumer_resumed"), "the consumer to be back", 60)
    channel.publish(b"durable", queue_name)
    channel.wait_received(2)
    assert channel.received[1].consumer == "durable"
    assert channel.cancelled == []
    client.close()
