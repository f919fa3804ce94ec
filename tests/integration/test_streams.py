"""A reader of a stream sees every message once and in order, whatever becomes of the node that it reads from."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from tests.support.cluster import NODES, Cluster
from tests.support.sidehop import Sidehop

PREFETCH = 50
STEPS = 40


class Registry:
    """A file of brokers, as an operator would edit it."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        self.path = path
        self._cluster = cluster
        self.say()

    def say(self, *draining: str) -> None:
        nodes = [{"url": each, "state": "drain" if each in draining else "up"} for each in self._cluster.addresses]
        whole = self.path.with_suffix(".new")
        whole.write_text(json.dumps(nodes))
        whole.replace(self.path)


class Worker(threading.Thread):
    """An application with a pika connection through the proxy, until it is told to stop; an error is the test's."""

    def __init__(self, url: str, stream: str) -> None:
        super().__init__(daemon=True)
        self.url, self.stream = url, stream
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
                self.work(connection, connection.channel())
        except BaseException as error:
            self.error = error

    def work(self, connection: pika.BlockingConnection, channel: pika.adapters.blocking_connection.BlockingChannel):
        raise NotImplementedError

    def end(self) -> None:
        self.stopping.set()
        self.join(90)
        assert not self.is_alive()
        assert self.error is None, repr(self.error)


class Publisher(Worker):
    """Publishes numbers, each when the one before is confirmed."""

    published = 0

    def work(self, connection, channel) -> None:
        channel.confirm_delivery()
        while not self.stopping.wait(0.005):
            channel.basic_publish("", self.stream, str(self.published).encode())
            self.published += 1


class Reader(Worker):
    """Reads from the beginning and notes every offset; acknowledges in lumps, so that some is always open."""

    def work(self, connection, channel) -> None:
        self.offsets: list[int] = []
        self.bodies: list[int] = []

        def take(_, method, properties, body) -> None:
            self.offsets.append(properties.headers["x-stream-offset"])
            self.bodies.append(int(body))
            if len(self.offsets) % 7 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)

        channel.basic_qos(prefetch_count=PREFETCH)
        tag = channel.basic_consume(self.stream, take, arguments={"x-stream-offset": "first"})
        while not self.stopping.is_set():
            connection.process_data_events(time_limit=0.1)
        channel.basic_cancel(tag)


@pytest.fixture
def registry(cluster: Cluster, tmp_path: Path) -> Registry:
    return Registry(tmp_path / "brokers.json", cluster)


@pytest.fixture
def proxy(registry: Registry, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    environment = {
        "SIDEHOP_DISCOVERY__SOURCE": "file",
        "SIDEHOP_DISCOVERY__FILE__PATH": str(registry.path),
        "SIDEHOP_DISCOVERY__FILE__POLL_S": "0.2",
        "SIDEHOP_SESSION__MOVE_SPREAD_S": "0.5",
        "SIDEHOP_HEALTH__USER": "guest",
        "SIDEHOP_HEALTH__PASSWORD": "guest",
        "SIDEHOP_HEALTH__RISE": "1",
    }
    return start_sidehop("--policy", "first", env=environment)


@pytest.fixture
def reader(proxy: Sidehop, cluster: Cluster, queue_name: str) -> Iterator[Reader]:
    """A reader at work, and a publisher whom no death of a node disturbs: it publishes by another one."""
    with pika.BlockingConnection(pika.URLParameters(proxy.url)) as connection:
        connection.channel().queue_declare(queue_name, durable=True, arguments={"x-queue-type": "stream"})
    publisher, reader = Publisher(proxy.url, queue_name), Reader(proxy.url, queue_name)
    try:
        wait_progress(proxy, reader)
        yield reader
        require_all_read_once(proxy, publisher, reader)
    finally:
        publisher.stopping.set()
        reader.stopping.set()


def require_all_read_once(proxy: Sidehop, publisher: Publisher, reader: Reader) -> None:
    publisher.end()
    last = publisher.published - 1
    proxy.wait_for(lambda: reader.error or reader.bodies[-1] == last, "the last message to be read", 60)
    reader.end()
    # Some numbers can be in the stream twice: published again, when their confirm was lost with a node.
    assert reader.offsets == list(range(len(reader.offsets)))
    assert set(reader.bodies) == set(range(last + 1))


def wait_progress(proxy: Sidehop, reader: Reader) -> None:
    def read() -> int:
        assert reader.error is None, repr(reader.error)
        return len(getattr(reader, "offsets", ()))

    before = read()
    proxy.wait_for(lambda: read() >= before + STEPS, "the reader to read on", 90)


def test_every_message_is_read_once_while_nodes_are_killed(proxy: Sidehop, cluster: Cluster, reader: Reader) -> None:
    for _ in range(4):
        address = proxy.sessions()[0]["endpoint"]
        node = cluster.number_at(address)
        cluster.kill9(node)
        wait_progress(proxy, reader)
        cluster.start(node)
        proxy.wait_endpoint(address, "up")
        wait_progress(proxy, reader)
    assert proxy.events("channel_given_up") == []
    assert len(proxy.events("failover_done")) >= 4


def test_every_message_is_read_once_while_nodes_are_drained(
    proxy: Sidehop, cluster: Cluster, registry: Registry, reader: Reader
) -> None:
    for _ in range(len(NODES) + 1):
        address = proxy.sessions()[0]["endpoint"]
        registry.say(address)
        proxy.wait_for(lambda left=address: all(s["endpoint"] != left for s in proxy.sessions()), "all to leave", 60)
        wait_progress(proxy, reader)
    assert proxy.events("failover_started") == []


def test_a_node_without_a_copy_is_left_for_one_that_has_it(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    two_copies = {"x-queue-type": "stream", "x-initial-cluster-size": 2}
    with pika.BlockingConnection(pika.URLParameters(cluster.url(1))) as connection:
        connection.channel().queue_declare(queue_name, durable=True, arguments=two_copies)
    queues = cluster.ctl(1, "list_queues", "name", "members").splitlines()
    members = next(line for line in queues if line.startswith(queue_name))
    with_copy = [n for n in NODES if f"{cluster.names[n - 1]}@localhost" in members]
    assert len(with_copy) == 2
    (without,) = set(NODES) - set(with_copy)
    first, last = with_copy
    nodes = (part for n in (first, without, last) for part in ("--node", cluster.addresses[n - 1]))
    proxy = start_sidehop("--policy", "first", *nodes)

    publisher, reader = Publisher(cluster.url(last), queue_name), Reader(proxy.url, queue_name)
    try:
        wait_progress(proxy, reader)
        assert proxy.sessions()[0]["endpoint"] == cluster.addresses[first - 1]
        cluster.close_connections(first)
        proxy.wait_for(lambda: proxy.events("session_moved"), "the session to move on", 60)
        assert proxy.sessions()[0]["endpoint"] != cluster.addresses[without - 1]
        assert proxy.events("session_moved")[0]["left"] == cluster.addresses[without - 1]
        wait_progress(proxy, reader)
        require_all_read_once(proxy, publisher, reader)
    finally:
        publisher.stopping.set()
        reader.stopping.set()
    assert proxy.events("channel_given_up") == []
