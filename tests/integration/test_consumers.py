"""What a queue knows of its consumers, when the node that they are connected to is killed: who is active, who comes
first, who is alone, and how long each may take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.account import total
from tests.support.clients import AmqpChannel, AmqpClient, Closed, PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

Start = Callable[..., Sidehop]


@pytest.fixture
def near(cluster: Cluster, start_sidehop: Start) -> Sidehop:
    """Its sessions are at node 1, which is killed, and then at node 2."""
    return start_sidehop("--policy", "first", "--node", cluster.addresses[0], "--node", cluster.addresses[1])


def lose_node_1(cluster: Cluster, proxy: Sidehop) -> None:
    """Kill it, and wait until every session is at home again at node 2."""
    sessions = proxy.sessions()
    assert {session["endpoint"] for session in sessions} == {cluster.addresses[0]}
    cluster.kill9(1)

    def moved() -> bool:
        places = {(session["endpoint"], session["state"]) for session in proxy.sessions()}
        return places == {(cluster.addresses[1], "attached")}

    proxy.wait_for(moved, "node 2 to be used", 60)
    proxy.wait_for(lambda: not any(session["waits"] for session in proxy.sessions()), "the end of the replay", 60)


def known(cluster: Cluster, queue: str) -> list[tuple[str, str]]:
    """Tag and state of the consumers of a queue as node 2 has it. Those of a dead node stay, and do not count."""
    living = tuple(f"<{name}@" for n, name in enumerate(cluster.names, 1) if cluster.is_up(n))
    lines = cluster.ctl(2, "list_consumers", "queue_name", "channel_pid", "consumer_tag", "activity_status")
    found = [columns for columns in map(str.split, lines.splitlines()) if columns and columns[0] == queue]
    return sorted((tag, state) for _, channel, tag, state in found if channel.startswith(living))


def test_a_single_active_consumer_hands_over_in_order_and_takes_over_again(
    cluster: Cluster, start_sidehop: Start, near: Sidehop, queue_name: str
) -> None:
    far = start_sidehop("--node", cluster.addresses[1])
    clients = [PikaClient(near.port), PikaClient(far.port)]
    first, second = (client.channel(confirms=True) for client in clients)
    arguments = {"x-queue-type": "quorum", "x-single-active-consumer": True}
    first.declare(queue_name, durable=True, arguments=arguments)
    for number in range(1, 61):
        first.publish(b"%d" % number, queue_name)
    first.qos(10)
    first.consume(queue_name, tag="first")
    second.consume(queue_name, tag="second")
    assert known(cluster, queue_name) == [("first", "single_active"), ("second", "waiting")]
    first.wait_received(10)
    first.ack(first.received[3].tag, multiple=True)
    first.wait_received(14)  # the queue has taken these acks: it gave as many more

    lose_node_1(cluster, near)

    second.wait_received(56)
    assert [int(each.body) for each in second.received] == list(range(5, 61))
    assert [int(each.body) for each in second.received if each.redelivered][:10] == list(range(5, 15))
    roles = [("first", "waiting"), ("second", "single_active")]
    near.wait_for(lambda: known(cluster, queue_name) == roles, "both, and one of them active", 30)
    first.ack(first.received[-1].tag, multiple=True)  # late: these are the second one's by now
    second.ack(second.received[-1].tag, multiple=True)

    second.cancel("second")
    first.publish(b"61", queue_name)
    first.wait_received(15)
    assert [int(each.body) for each in first.received] == [*range(1, 15), 61]
    assert total(near, "stale_acks") == 1
    assert known(cluster, queue_name) == [("first", "single_active")]
    first.ack(first.received[-1].tag)
    assert second.count(queue_name) == 0
    second.delete(queue_name)
    for client in clients:
        client.close()


def test_a_consumer_that_comes_first_and_one_that_is_alone_are_so_again(
    cluster: Cluster, near: Sidehop, queue_name: str
) -> None:
    alone = f"{queue_name}.alone"
    direct = PikaClient(cluster.amqp_port(3))
    publisher = direct.channel(confirms=True)
    client = PikaClient(near.port)
    # The one that comes first is the last to be set up, so that its place is not that of its age.
    later, sooner, exclusive = (client.channel() for _ in range(3))
    publisher.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    publisher.declare(alone, durable=True)  # a classic one: quorum queues know no exclusive consumers
    later.consume(queue_name, tag="later", no_ack=True)
    sooner.consume(queue_name, tag="sooner", no_ack=True, arguments={"x-priority": 10})
    exclusive.consume(alone, tag="alone", no_ack=True, exclusive=True)

    def require_places(messages: int) -> None:
        for number in range(20):
            publisher.publish(b"%d" % number, queue_name)
            publisher.publish(b"%d" % number, alone)
        sooner.wait_received(messages)
        exclusive.wait_received(messages)
        assert later.received == []
        rival = direct.channel()
        with pytest.raises(Closed, match=f"queue '{alone}' in vhost '/' in exclusive use"):
            rival.consume(alone)

    require_places(20)
    lose_node_1(cluster, near)
    require_places(40)

    assert [len(each.received) for each in (sooner, exclusive)] == [40, 40]
    sooner.cancel("sooner")
    publisher.publish(b"then the other", queue_name)
    later.wait_received(1)
    for queue in (queue_name, alone):
        publisher.delete(queue)
    client.close()
    direct.close()


@pytest.fixture
def hurry(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """From the call on, nodes 1 and 2 close each new channel that holds a delivery for longer than 1.5 s."""

    def say(timeout_ms: int, look_ms: int) -> None:
        settings = f"[{{consumer_timeout, {timeout_ms}}}, {{channel_tick_interval, {look_ms}}}]"
        for n in (1, 2):
            cluster.eval(n, f"[application:set_env(rabbit, Name, Value) || {{Name, Value}} <- {settings}].")

    yield lambda: say(1_500, 250)
    say(1_800_000, 60_000)


def test_a_delivery_that_is_held_for_too_long_costs_its_channel_and_no_other(
    cluster: Cluster, near: Sidehop, hurry: Callable[[], None], queue_name: str
) -> None:
    quick_queue = f"{queue_name}.quick"
    client = AmqpClient(near.port)
    slow, quick = client.channel(confirms=True), client.channel(confirms=True)
    for queue in (queue_name, quick_queue):
        slow.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    slow.qos(1)
    slow.consume(queue_name)
    quick.consume(quick_queue)
    for number in range(2):
        slow.publish(b"%d" % number, queue_name)
        quick.publish(b"%d" % number, quick_queue)
    quick.wait_received(2)
    quick.ack(quick.received[-1].tag, multiple=True)
    slow.wait_received(1)
    slow.ack(slow.received[0].tag)
    slow.wait_received(2)

    hurry()
    cluster.close_connections(1)
    near.wait_for(lambda: near.events("failover_done"), "the failover", 60)
    slow.ack(slow.received[1].tag)  # of the broker that is gone, so the message comes again
    slow.wait_received(3)

    with pytest.raises(Closed, match=rf"406.*acknowledgement on channel {slow.number} timed out"):
        slow.wait_received(4)
    quick.publish(b"2", quick_queue)
    quick.wait_received(3)
    quick.ack(quick.received[-1].tag)
    require_unknown(quick, quick.received[-1].tag)

    again = client.channel()
    again.consume(queue_name)
    again.wait_received(1)
    again.ack(again.received[0].tag)
    assert [(each.body, each.redelivered) for each in (*slow.received, *again.received)] == [
        (b"0", False),
        (b"1", False),
        (b"1", True),
        (b"1", True),
    ]
    assert len(near.events("failover_started")) == 1
    for queue in (queue_name, quick_queue):
        again.delete(queue)
    client.close()


def require_unknown(channel: AmqpChannel, tag: int) -> None:
    """A second ack of a delivery: the broker, which counts from its own beginning, names it as the client does."""
    channel.ack(tag)
    with pytest.raises(Closed, match=rf"406.*unknown delivery tag {tag}\b"):
        channel.qos(1)
