"""What is left when applications have stopped, counted on the brokers themselves."""

from __future__ import annotations

import time
from collections import Counter

from tests.support.applications import Application
from tests.support.clients import PikaClient
from tests.support.cluster import NODES, Cluster
from tests.support.sidehop import Sidehop


def total(proxy: Sidehop, counter: str) -> float:
    """Over all endpoints."""
    return sum(value for name, value in proxy.metrics().items() if name.startswith(f"sidehop_{counter}_total"))


def account(proxy: Sidehop, cluster: Cluster, applications: list[Application], replayed_before: float) -> None:
    """Every message that an application handed over is there, and nothing is there twice without a reason."""
    survivor = next(n for n in NODES if cluster.is_up(n))
    for application in applications:
        application.finish()
    duplicates = 0
    for application in applications:
        application.require_kept_promises()
        wanted = set(range(1, application.plain + 1))
        plain = bodies(cluster, survivor, application.plain_queue, wanted)
        assert set(plain) == wanted
        assert not bodies(cluster, survivor, application.confirmed_queue, set())
        duplicates += application.unflagged_duplicates + plain.total() - len(plain)
    assert duplicates <= total(proxy, "replayed_publishes") - replayed_before
    proxy.wait_sessions(0)


def bodies(cluster: Cluster, n: int, queue: str, wanted: set[int]) -> Counter[int]:
    """Everything in a queue, straight from a node, once all that is wanted has come. The queue is deleted."""
    client = PikaClient(cluster.amqp_port(n))
    channel = client.channel()
    channel.qos(500)
    channel.consume(queue)
    got: Counter[int] = Counter()
    until = time.monotonic() + 60
    while not wanted <= set(got) or channel.count(queue):
        assert time.monotonic() < until, f"{queue} lacks {sorted(wanted - set(got))}"
        client.serve()
        if channel.received:
            channel.ack(channel.received[-1].tag, multiple=True)
            got.update(int(message.body) for message in channel.received)
            channel.received.clear()
    channel.delete(queue)
    client.close()
    return got
