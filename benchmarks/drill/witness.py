"""How long a replicated queue by itself confirms nothing: what no proxy can be faster than."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pika
from pika.exceptions import AMQPError

from benchmarks import stand
from benchmarks.drill.faults import home_of

# How often each witness publishes, and how soon it tries to come back. Its own figures are that coarse.
PAUSE_S = 0.005
# It must not wait for a broker that hangs for longer than the drill does.
ANSWER_MAX_S = 30.0
KEPT_MESSAGES = 1000


@contextmanager
def witnesses(brokers: stand.Cluster, queue: str) -> Iterator[list[list[float]]]:
    """Publish to a quorum queue like `queue`, led by the same node, past every proxy, by way of each node.

    Gives the moments (monotonic seconds) at which each node has confirmed; they go on growing until the end.
    """
    twin = f"{queue}.witness"
    _declare(brokers, twin, home_of(brokers, queue))
    moments: list[list[float]] = [[] for _ in brokers.nodes]
    over = threading.Event()
    threads = [
        threading.Thread(target=_publish, args=(endpoint, twin, seen, over), name=f"witness-{endpoint}", daemon=True)
        for endpoint, seen in zip(brokers.endpoints, moments, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + ANSWER_MAX_S
        while not all(moments):
            if time.monotonic() > deadline:
                raise stand.StandError(f"a node of a whole cluster confirmed nothing in {ANSWER_MAX_S:.0f} s")
            time.sleep(PAUSE_S)
        yield moments
    finally:
        over.set()
        for thread in threads:
            thread.join(ANSWER_MAX_S)


def _connect(endpoint: str) -> pika.BlockingConnection:
    host, _, port = endpoint.rpartition(":")
    return pika.BlockingConnection(
        pika.ConnectionParameters(host, int(port), heartbeat=0, blocked_connection_timeout=ANSWER_MAX_S)
    )


def _declare(brokers: stand.Cluster, twin: str, home: int) -> None:
    with _connect(brokers.endpoints[home - 1]) as connection:
        channel = connection.channel()
        channel.queue_delete(twin)
        arguments = {"x-queue-type": "quorum", "x-queue-leader-locator": "client-local", "x-max-length": KEPT_MESSAGES}
        channel.queue_declare(twin, durable=True, arguments=arguments)


def _publish(endpoint: str, twin: str, moments: list[float], over: threading.Event) -> None:
    while not over.wait(PAUSE_S):
        try:
            with _connect(endpoint) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                while not over.wait(PAUSE_S):
                    channel.basic_publish("", twin, b"", mandatory=True)
                    moments.append(time.monotonic())
        except (AMQPError, OSError):
            continue  # its node is down, or the queue has refused: that is what it is to witness
