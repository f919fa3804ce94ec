"""Queues of a session that cannot be declared again at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.clients import Closed, PikaClient
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


@pytest.fixture
def restricted(cluster: Cluster) -> Iterator[str]:
    """A user that may have queues under brokers' own names only."""
    cluster.ctl(2, "add_user", "restricted", "restricted")
    try:
        cluster.ctl(2, "set_permissions", "restricted", r"^amq\.gen-.*", ".*", ".*")
        yield "restricted"
    finally:
        cluster.ctl(2, "delete_user", "restricted")


def test_a_queue_whose_name_only_its_broker_may_give_works_until_that_is_lost(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], restricted: str
) -> None:
    nodes = (part for address in cluster.addresses for part in ("--node", address))
    proxy = start_sidehop("--policy", "first", *nodes)
    client = PikaClient(proxy.port, user=restricted, password=restricted)
    owner, other = client.channel(confirms=True), client.channel(confirms=True)
    name = owner.declare(exclusive=True)
    assert name.startswith("amq.gen-")
    owner.consume(name)
    owner.publish(b"1", name)
    assert owner.wait_received(1)[0].body == b"1"

    cluster.kill9(1)
    proxy.wait_for(lambda: proxy.events("failover_done"), "another node", 60)
    with pytest.raises(Closed, match=f"queue '{name}' was lost with its broker"):
        owner.count(name)
    assert other.is_open
    again = other.declare(exclusive=True)
    other.publish(b"2", again)
    assert other.count(again) == 1
    client.close()
