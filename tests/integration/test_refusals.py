"""A queue refuses messages at once when its home dies, and nobody else knows of that death yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import aio_pika
import pika
import pika.exceptions
import pytest

from tests.support.account import bodies, total
from tests.support.clients import NotAccepted, PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

WINDOW = 300


async def flood(port: int, queue: str, hurt: Callable[[], None], *, mandatory: bool = False) -> int:
    """Publish with many confirms open, hurt the cluster in the middle of it, and raise whatever is not a confirm.

    aio-pika takes a message that comes back for confirmed.
    """
    connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{port}/")
    async with connection:
        channel = await connection.channel()
        confirmed = 0
        room = asyncio.Semaphore(WINDOW)

        async def publish(number: int) -> None:
            nonlocal confirmed
            message = aio_pika.Message(str(number).encode(), delivery_mode=2)
            await channel.default_exchange.publish(message, queue, mandatory=mandatory)
            confirmed += 1
            room.release()

        async with asyncio.TaskGroup() as group:
            killing: asyncio.Future[None] | None = None
            for number in range(20 * WINDOW):
                await room.acquire()
                group.create_task(publish(number))
                if number == 5 * WINDOW:
                    killing = asyncio.get_running_loop().run_in_executor(None, hurt)
            assert killing is not None
            await killing
    return confirmed


def test_refusals_because_of_a_dead_node_that_nobody_knows_of_are_not_the_clients(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    direct = PikaClient(cluster.amqp_port(2))
    direct.channel().declare(queue_name, durable=True)  # a classic queue, whose home is node 2
    direct.close()
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    # The only session is on node 1, and no probe is due for a long time.
    environment = {"SIDEHOP_HEALTH__INTERVAL_S": "600", "SIDEHOP_SESSION__UNROUTABLE": "pass"}
    proxy = start_sidehop("--policy", "first", *nodes, env=environment)
    proxy.wait_for(lambda: all(each["probes_ok"] for each in proxy.endpoints()), "the first look at each node")

    def hurt() -> None:
        cluster.kill9(2)
        proxy.wait_for(lambda: proxy.events("channel_restarted"), "a refusal that is not passed on")
        cluster.make_whole()  # RabbitMQ 4.0 refuses as long as the home of the queue is dead

    confirmed = asyncio.run(flood(proxy.port, queue_name, hurt))

    assert confirmed == 20 * WINDOW
    assert [line["reason"] for line in proxy.events("channel_restarted")][:1] == ["publish refused during recovery"]
    assert proxy.events("failover_started") == []
    direct = PikaClient(cluster.amqp_port(2))
    direct.channel().delete(queue_name)
    direct.close()


@pytest.mark.parametrize("mandatory", [False, True])
def test_a_confirm_means_stored_though_the_home_of_the_queue_dies(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str, mandatory: bool
) -> None:
    """RabbitMQ confirms what it cannot route. To 3.10 a queue whose home is dead is no route; 4.0 refuses instead."""
    direct = PikaClient(cluster.amqp_port(2))
    direct.channel().declare(queue_name, durable=True)
    direct.close()
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    proxy = start_sidehop("--policy", "first", *nodes)
    refuses = not cluster.version(1).startswith("3.")

    def hurt() -> None:
        cluster.kill9(2)
        if refuses:
            proxy.wait_for(lambda: proxy.events("channel_restarted"), "a refusal that is not passed on")
        else:
            proxy.wait_for(lambda: total(proxy, "unrouted") >= 1, "a publish that no queue takes")
        cluster.make_whole()

    confirmed = asyncio.run(flood(proxy.port, queue_name, hurt, mandatory=mandatory))

    assert confirmed == 20 * WINDOW
    stored = bodies(cluster, 2, queue_name, set(range(confirmed)))
    assert stored.total() - confirmed <= total(proxy, "replayed_publishes")
    assert proxy.events("failover_started") == []


def test_a_commit_means_stored_though_the_home_of_the_queue_is_dead(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """RabbitMQ 3.10 commits what it cannot route; 4.0 refuses it (406), and the loss is the client's to know."""
    direct = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", cluster.amqp_port(2)))
    direct.channel().queue_declare(queue_name, durable=True)
    direct.close()
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    proxy = start_sidehop("--policy", "first", *nodes)
    client = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", proxy.port, heartbeat=0))
    channel = client.channel()
    channel.tx_select()

    cluster.kill9(2)
    proxy.wait_for(lambda: _unreachable(cluster.amqp_port(1), queue_name), "node 1 to know that the home is dead")
    for number in range(100):
        channel.basic_publish("", queue_name, str(number).encode(), pika.BasicProperties(delivery_mode=2))
    with ThreadPoolExecutor(1) as beside:
        commit = beside.submit(channel.tx_commit)
        if cluster.version(1).startswith("3."):
            proxy.wait_for(lambda: total(proxy, "unrouted") == 100, "all of it to come back")
            assert not commit.done()
        cluster.make_whole()
        if commit.exception(60) is not None:
            assert not cluster.version(1).startswith("3.")
            return
    client.close()

    assert bodies(cluster, 2, queue_name, set(range(100))).total() == 100


def _unreachable(port: int, queue: str) -> bool:
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port)) as direct:
        try:
            direct.channel().queue_declare(queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return True
        return False


def test_as_sent_repeats_nothing_and_keeps_the_connection(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    proxy = start_sidehop(*nodes, env={"SIDEHOP_SESSION__PUBLISH_GUARANTEE": "as_sent"})
    client = PikaClient(proxy.port)
    channel = client.channel()
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    for number in range(100):
        channel.publish(str(number).encode(), queue_name)
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})  # all before it has arrived
    home = proxy.sessions()[0]["endpoint"]
    cluster.kill9(cluster.addresses.index(home) + 1)
    proxy.wait_for(lambda: proxy.sessions()[0]["failovers"] == 1, "the failover")
    # While the queue elects a leader it drops what is not confirmed, and nobody asked for confirms.
    cluster.make_whole()
    for number in range(100, 200):
        channel.publish(str(number).encode(), queue_name)
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    stored = bodies(cluster, 1, queue_name, set(range(200)))
    assert stored.total() == 200
    assert total(proxy, "replayed_publishes") == 0
    assert total(proxy, "confirms") == 0
    client.close()


def test_a_full_queue_refuses_and_the_client_hears_it(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    proxy = start_sidehop(*nodes)
    client = PikaClient(proxy.port)
    channel = client.channel(confirms=True)
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.declare(queue_name, durable=True, arguments=arguments)
    refused = 0
    for _ in range(20):
        try:
            channel.publish(b"m", queue_name)
        except NotAccepted:
            refused += 1
    assert 15 <= refused < 20
    assert proxy.events("channel_restarted") == []
    assert client.is_open
    channel.delete(queue_name)
    client.close()
