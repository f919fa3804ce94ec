"""A reply reaches a client whose node died between its request and the reply."""

from __future__ import annotations

import os
from collections.abc import Callable

import pika
import pytest

from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

FIRST, OTHER = 1, 2
REQUESTS = 5


@pytest.fixture
def proxy(cluster: Cluster, start_sidehop: Callable[..., Sidehop]) -> Sidehop:
    """All its sessions begin at the first node."""
    nodes = (part for address in cluster.addresses for part in ("--node", address))
    return start_sidehop("--policy", "first", *nodes, env={"SIDEHOP_SESSION__DIRECT_REPLY_TO": "emulated"})


class Responder:
    """Answers what was asked, when it is told to; a client of another node."""

    def __init__(self, cluster: Cluster, queue: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(cluster.url(OTHER)))
        self._channel = self._connection.channel()
        self._channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        self._channel.confirm_delivery()
        self._queue = queue

    def take(self, count: int) -> list[tuple[pika.BasicProperties, bytes]]:
        asked = []
        for method, properties, body in self._channel.consume(self._queue, inactivity_timeout=30):
            assert method is not None, f"{len(asked)} requests have come"
            self._channel.basic_ack(method.delivery_tag)
            asked.append((properties, body))
            if len(asked) == count:
                break
        self._channel.cancel()
        return asked

    def answer(self, asked: list[tuple[pika.BasicProperties, bytes]]) -> None:
        for properties, body in asked:
            reply = pika.BasicProperties(correlation_id=properties.correlation_id)
            self._channel.basic_publish("", properties.reply_to, body[::-1], reply, mandatory=True)

    def close(self) -> None:
        self._connection.close()


def test_replies_arrive_though_the_node_of_the_client_was_killed_meanwhile(
    proxy: Sidehop, cluster: Cluster, queue_name: str
) -> None:
    responder = Responder(cluster, queue_name)
    client = pika.BlockingConnection(pika.URLParameters(proxy.url))
    channel = client.channel()
    came: dict[str, bytes] = {}
    channel.basic_consume(
        "amq.rabbitmq.reply-to", lambda _, __, p, body: came.update({p.correlation_id: body}), auto_ack=True
    )
    questions = {str(number): os.urandom(20) for number in range(REQUESTS)}
    for number, question in questions.items():
        properties = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to", correlation_id=number)
        channel.basic_publish("", queue_name, question, properties)
    asked = responder.take(REQUESTS)
    assert all(properties.reply_to.startswith("gen.reply-") for properties, _ in asked)

    cluster.kill9(FIRST)
    proxy.wait_for(lambda: proxy.events("failover_done"), "another node", 60)
    responder.answer(asked)
    while len(came) < REQUESTS:
        client.process_data_events(time_limit=10)
    assert came == {number: question[::-1] for number, question in questions.items()}

    client.close()
    responder.close()
    assert "gen.reply-" not in cluster.ctl(OTHER, "list_queues", "name")
