"""Nodes die under a client that settles late; it sees each message once, and holds no more than it asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pika
import pytest

from tests.support.account import total
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

PREFETCH = 20
SLOWNESS_S = 0.02
COUNT = 400
# Faster than the client works, so that a broker dies with publishes that it has not confirmed.
PUBLISHED = 600
BURST = 50


class SlowClient:
    """Works on one message after the other, and settles each when it is done with it."""

    def __init__(self, url: str, queue: str) -> None:
        self.seen: Counter[str] = Counter()
        self.held_most = 0
        self.settled = 0
        self.progress = threading.Condition()
        self._held = 0
        self._url = url
        self._queue = queue
        self.failure: Exception | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def wait_settled(self, count: int) -> None:
        with self.progress:
            done = self.progress.wait_for(lambda: self.settled >= count or self.failure is not None, 300)
        assert self.failure is None, self.failure
        assert done, (self.settled, count)

    def close(self) -> None:
        self.over.set()
        self.thread.join(30)
        assert self.failure is None

    def _run(self) -> None:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(self._url))
            channel = connection.channel()
            channel.basic_qos(prefetch_count=PREFETCH)
            channel.basic_consume(self._queue, self._deliver)
            while not self.over.is_set():
                connection.process_data_events(0.1)
            connection.close()
        except Exception as error:
            with self.progress:
                self.failure = error
                self.progress.notify_all()

    def _deliver(self, channel, method, properties, body) -> None:
        self._held += 1
        self.held_most = max(self.held_most, self._held)
        self.seen[body.decode()] += 1
        channel.connection.call_later(SLOWNESS_S * self._held, lambda: self._settle(channel, method.delivery_tag))

    def _settle(self, channel, tag: int) -> None:
        channel.basic_ack(tag)
        self._held -= 1
        with self.progress:
            self.settled += 1
            self.progress.notify_all()


def fill(cluster: Cluster, queue: str, kind: str) -> None:
    """Messages with an id, in a queue whose home is the node that lives on."""
    connection = pika.BlockingConnection(pika.URLParameters(cluster.url(3)))
    channel = connection.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind})
    channel.confirm_delivery()
    for number in range(COUNT):
        properties = pika.BasicProperties(message_id=f"{queue}.{number}", delivery_mode=2)
        channel.basic_publish("", queue, str(number).encode(), properties)
    connection.close()


def serve(start_sidehop: Callable[..., Sidehop], cluster: Cluster, **settings: str) -> Sidehop:
    nodes = (part for address in cluster.addresses for part in ("--node", address))
    env = {f"SIDEHOP_SESSION__{name.upper()}": value for name, value in settings.items()}
    return start_sidehop("--policy", "first", *nodes, env=env)


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_is_settled_late_is_not_seen_again(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str, kind: str
) -> None:
    fill(cluster, queue_name, kind)
    proxy = serve(start_sidehop, cluster, suppress_duplicates="true")
    client = SlowClient(proxy.url, queue_name)
    client.wait_settled(100)
    cluster.kill9(1)
    client.wait_settled(COUNT)
    client.close()
    assert client.seen == Counter(map(str, range(COUNT)))
    assert total(proxy, "suppressed") > 0
    assert client.held_most <= PREFETCH


class Publisher:
    """Publishes what is counted, without waiting for anything, and ends when the broker has it."""

    def __init__(self, url: str, queue: str) -> None:
        self.published = 0
        self.failure: Exception | None = None
        self.progress = threading.Condition()
        self._url = url
        self._queue = queue
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def wait_published(self, count: int) -> None:
        with self.progress:
            done = self.progress.wait_for(lambda: self.published >= count or self.failure is not None, 300)
        assert self.failure is None, self.failure
        assert done, (self.published, count)

    def _run(self) -> None:
        try:
            connection = pika.BlockingConnection(pika.URLParameters(self._url))
            channel = connection.channel()
            for number in range(PUBLISHED):
                channel.basic_publish("", self._queue, str(number).encode(), pika.BasicProperties(delivery_mode=2))
                if number % BURST == 0:
                    connection.process_data_events(SLOWNESS_S)
                with self.progress:
                    self.published += 1
                    self.progress.notify_all()
            connection.close()
        except Exception as error:
            with self.progress:
                self.failure = error
                self.progress.notify_all()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_each_message_is_seen_once_when_both_sidecars_know_it(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str, kind: str
) -> None:
    direct = pika.BlockingConnection(pika.URLParameters(cluster.url(3)))
    direct.channel().queue_declare(queue_name, durable=True, arguments={"x-queue-type": kind})
    proxy = serve(start_sidehop, cluster, publish_ids="true", suppress_duplicates="true")
    client = SlowClient(proxy.url, queue_name)
    publisher = Publisher(proxy.url, queue_name)
    publisher.wait_published(PUBLISHED // 3)
    cluster.kill9(1)
    publisher.thread.join(300)
    assert publisher.failure is None
    client.wait_settled(PUBLISHED)
    assert direct.channel().queue_declare(queue_name, passive=True).method.message_count == 0
    client.close()
    direct.close()
    assert client.seen == Counter(map(str, range(PUBLISHED)))
    assert total(proxy, "replayed_publishes") > 0
    assert total(proxy, "suppressed") > 0
