"""Queues of a session that cannot be declared again at once."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop


def test_only_the_channel_of_a_queue_that_somebody_else_holds_waits(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    proxy = start_sidehop("--node", cluster.addresses[0])
    client = PikaClient(proxy.port)
    owner, other = client.channel(), client.channel(confirms=True)
    owner.declare(queue_name, exclusive=True)
    owner.consume(queue_name)
    shared = other.declare(queue_name + ".shared", durable=True, arguments={"x-queue-type": "quorum"})

    cluster.stop_app(1)
    thief = PikaClient(cluster.amqp_port(2))
    thief.channel().declare(queue_name, exclusive=True)
    cluster.start_app(1)
    proxy.wait_for(lambda: f"[{owner.number}] wait for" in proxy.sessions()[0]["waiting"], "the owner to wait", 60)

    other.publish(b"meanwhile", shared)
    assert other.count(shared) == 1
    assert proxy.sessions()[0]["waiting"]

    thief.close()
    proxy.wait_for(lambda: proxy.sessions()[0]["waiting"] == "", "all to be back")
    other.publish(b"at last", queue_name)
    assert owner.wait_received(1)[0].body == b"at last"
    client.close()
