"""What RabbitMQ does not implement it refuses with 540, and Sidehop lets it: before, at and after a failover."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from pamqp import body, commands, frame, header

from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.raw import RawClient
from tests.support.sidehop import Sidehop

UNIMPLEMENTED: dict[str, tuple[frame.FrameTypes, ...]] = {
    "recover without requeue": (commands.Basic.Recover(requeue=False),),
    "flow off": (commands.Channel.Flow(active=False),),
    "prefetch by size": (commands.Basic.Qos(prefetch_size=1),),
    "immediate": (
        commands.Basic.Publish(routing_key="nobody", immediate=True),
        header.ContentHeader(body_size=1),
        body.ContentBody(b"m"),
    ),
}


def end(client: RawClient) -> tuple[str, dict]:
    """What the client is told next, which must be the end of its channel or its connection."""
    told = client.read()
    assert isinstance(told, commands.Channel.Close | commands.Connection.Close), told
    return told.name, dict(told)


def refused(client: RawClient, what: str) -> tuple[str, dict]:
    client.send(1, *UNIMPLEMENTED[what])
    return end(client)


def test_what_a_broker_does_not_implement_is_refused_as_it_is_directly(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    proxy = start_sidehop("--policy", "first", "--node", cluster.addresses[0], "--node", cluster.addresses[1])
    bystander = PikaClient(proxy.port)
    channel = bystander.channel(confirms=True)
    channel.declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    channel.consume(queue_name)
    channel.publish(b"m", queue_name)
    held = channel.wait_received(1)[0]
    with contextlib.ExitStack() as stack:

        def clients(port: int) -> dict[str, RawClient]:
            return {what: stack.enter_context(RawClient(port).greet()) for what in UNIMPLEMENTED}

        def answers(of: dict[str, RawClient]) -> dict[str, tuple[str, dict]]:
            return {what: refused(client, what) for what, client in of.items()}

        wanted = answers(clients(cluster.amqp_port(2)))
        assert {told["reply_code"] for _, told in wanted.values()} == {540}
        assert answers(clients(proxy.port)) == wanted
        at_once, later = clients(proxy.port), clients(proxy.port)
        cluster.kill9(1)
        assert answers(at_once) == wanted
        proxy.wait_for(lambda: len(proxy.events("failover_done")) >= 1 + len(later), "the failovers", 60)
        assert answers(later) == wanted

    bystander.serve()
    channel.ack(held.tag)  # of the broker that is gone
    channel.publish(b"n", queue_name)
    channel.wait_received(3)
    assert [(each.body, each.redelivered) for each in channel.received] == [(b"m", False), (b"m", True), (b"n", False)]
    channel.ack(channel.received[-1].tag, multiple=True)
    lost = {line["session"] for line in proxy.events("failover_started")}
    assert len(proxy.events("failover_started")) == len(lost) <= 1 + 2 * len(UNIMPLEMENTED)
    channel.delete(queue_name)
    bystander.close()
