"""Applications at work on RabbitMQ 4.0, whose brokers go; the other modules use the RabbitMQ of the machine.

`make test` has it fetched by deploy/lab/rabbitmq4.sh, and leaves this out, saying so, where no archive has it.
The other modules run on it as well with RABBITMQ_ROOT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import STATE, booted
from tests.support.account import account
from tests.support.applications import at_work
from tests.support.clients import PikaClient
from tests.support.cluster import NODES, Cluster
from tests.support.ports import BASE, free_port
from tests.support.relay import Relay
from tests.support.sidehop import Sidehop

STEPS = 15
DELIVERY_LIMIT = 20
FAULTS: dict[str, Callable[[Cluster, int], None]] = {
    "kill -9": lambda cluster, n: cluster.kill9(n),
    "SIGTERM": lambda cluster, n: cluster.stop(n),
}


@pytest.fixture(scope="module")
def booted_cluster() -> Iterator[Cluster]:
    with booted(STATE / f"test-{BASE}-rabbitmq4", BASE + 200, STATE / "rabbitmq4") as brokers:
        assert all(brokers.version(n).startswith("4.") for n in NODES)
        yield brokers


@pytest.mark.parametrize("fault", FAULTS)
def test_applications_do_not_notice_that_their_node_goes(
    sidehop: Sidehop, cluster: Cluster, queue_name: str, fault: str
) -> None:
    applications = at_work(sidehop.port, queue_name, STEPS)
    before = {session["id"]: session["endpoint"] for session in sidehop.sessions()}
    left = min(before.values())

    FAULTS[fault](cluster, cluster.number_at(left))
    sidehop.wait_for(
        lambda: all(each["endpoint"] != left and each["state"] == "attached" for each in sidehop.sessions()),
        f"all to leave {left}",
        60,
    )
    for application in applications:
        application.wait_progress(STEPS)

    after = {session["id"]: session for session in sidehop.sessions()}
    assert set(after) == set(before)
    assert {each for each in after if after[each]["failovers"]} == {each for each in before if before[each] == left}
    account(sidehop, cluster, applications, replayed_before=0)


async def test_a_message_that_is_held_through_too_many_losses_reaches_its_delivery_limit(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """The broker's own rule: each loss of a consumer is an attempt, and 20 is the limit of a queue that names none."""
    async with Relay(cluster.amqp_port(1), free_port()) as first, Relay(cluster.amqp_port(2), free_port()) as second:
        nodes = [part for relay in (first, second) for part in ("--node", f"127.0.0.1:{relay.port}")]
        proxy = await asyncio.to_thread(start_sidehop, *nodes)
        client = await asyncio.to_thread(PikaClient, proxy.port)
        channel = await asyncio.to_thread(client.channel, confirms=True)
        await asyncio.to_thread(channel.declare, queue_name, durable=True, arguments={"x-queue-type": "quorum"})
        await asyncio.to_thread(channel.publish, b"held", queue_name)
        await asyncio.to_thread(channel.consume, queue_name)
        for attempt in range(1, DELIVERY_LIMIT + 2):
            held = (await asyncio.to_thread(channel.wait_received, attempt))[-1]
            assert (held.body, held.headers.get("x-delivery-count", 0)) == (b"held", attempt - 1)
            first.cut()
            second.cut()
        # What is published now is the next that comes: the queue has dropped what was held.
        await asyncio.to_thread(channel.publish, b"next", queue_name)
        received = await asyncio.to_thread(channel.wait_received, DELIVERY_LIMIT + 2)
        assert received[-1].body == b"next"
        await asyncio.to_thread(channel.delete, queue_name)
        await asyncio.to_thread(client.close)
