"""Two of three nodes are dead, or hang: a queue without a quorum keeps its own channel waiting, and no other."""

from __future__ import annotations

from collections.abc import Callable

from pamqp import body, commands, frame, header

from tests.support.clients import PikaClient
from tests.support.cluster import Cluster
from tests.support.raw import RawClient
from tests.support.sidehop import Sidehop


def publish(client: RawClient, channel: int, queue: str) -> None:
    parts = (commands.Basic.Publish(routing_key=queue), header.ContentHeader(body_size=1), body.ContentBody(b"m"))
    client.socket.sendall(b"".join(frame.marshal(part, channel) for part in parts))


def test_a_queue_without_a_quorum_keeps_only_its_channel_waiting(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    nodes = [part for address in cluster.addresses for part in ("--node", address)]
    proxy = start_sidehop("--policy", "first", *nodes)
    classic = f"{queue_name}.classic"
    survivor = PikaClient(cluster.amqp_port(3))
    survivor.channel().declare(classic, durable=True)
    survivor.close()
    with RawClient(proxy.port, patience_s=90).greet() as client:
        client.send(1, commands.Queue.Declare(queue=queue_name, durable=True, arguments={"x-queue-type": "quorum"}))
        client.expect(commands.Queue.DeclareOk)
        client.send(1, commands.Basic.Consume(queue=queue_name, consumer_tag="quorum", no_ack=True))
        client.expect(commands.Basic.ConsumeOk)
        client.send(
            2, commands.Channel.Open(), commands.Basic.Consume(queue=classic, consumer_tag="classic", no_ack=True)
        )
        client.expect(commands.Channel.OpenOk)
        client.expect(commands.Basic.ConsumeOk)

        cluster.kill9(1)
        cluster.kill9(2)

        proxy.wait_for(lambda: proxy.sessions()[0]["endpoint"] == cluster.addresses[2], "the survivor to be used", 60)
        for _ in range(5):
            publish(client, 2, classic)
            assert client.read_until(commands.Basic.Deliver).consumer_tag == "classic"
        waits = proxy.sessions()[0]["waits"]
        [wait] = [each for each in waits if each["channels"] == [1]]
        assert "not answered the replay" in wait["reason"]
        assert wait["for_s"] > 0

        cluster.start(1)

        publish(client, 2, queue_name)
        assert client.read_until(commands.Basic.Deliver).consumer_tag == "quorum"
        proxy.wait_for(lambda: not proxy.sessions()[0]["waits"], "nothing to wait for", 60)


def test_a_queue_that_loses_its_quorum_under_a_session_keeps_only_its_channel_waiting(
    cluster: Cluster, start_sidehop: Callable[..., Sidehop], queue_name: str
) -> None:
    """The node of the session is well, and is not left for it."""
    proxy = start_sidehop("--node", cluster.addresses[0])
    classic = f"{queue_name}.classic"
    with RawClient(proxy.port).greet() as client:
        client.send(
            1,
            commands.Queue.Declare(queue=queue_name, durable=True, arguments={"x-queue-type": "quorum"}),
            commands.Confirm.Select(),
        )
        client.expect(commands.Queue.DeclareOk)
        client.expect(commands.Confirm.SelectOk)
        client.send(2, commands.Channel.Open(), commands.Queue.Declare(queue=classic, durable=True))
        client.expect(commands.Channel.OpenOk)
        client.expect(commands.Queue.DeclareOk)
        client.send(2, commands.Basic.Consume(queue=classic, consumer_tag="classic", no_ack=True))
        client.expect(commands.Basic.ConsumeOk)
        publish(client, 1, queue_name)
        assert client.expect(commands.Basic.Ack).delivery_tag == 1

        # Shorter than what has a node taken for dead (8 s).
        cluster.pause(2)
        cluster.pause(3)
        publish(client, 1, queue_name)
        client.send(1, commands.Basic.Get(queue=queue_name, no_ack=True))
        for _ in range(5):
            publish(client, 2, classic)
            assert client.expect(commands.Basic.Deliver).consumer_tag == "classic"
            client.expect(header.ContentHeader)
            client.expect(body.ContentBody)
        waits = proxy.sessions()[0]["waits"]
        cluster.resume(2)
        cluster.resume(3)

        assert {wait["reason"]: wait["channels"] for wait in waits} == {
            "the broker has not answered what was asked on channels [1]": [1],
            "the broker has not confirmed what was published on channels [1]": [1],
        }
        told: set[str] = set()
        while not {"Basic.Ack", "Basic.GetOk", "ContentBody"} <= told:
            told.add(client.read().name)
        proxy.wait_for(lambda: not proxy.sessions()[0]["waits"], "nothing to wait for")
        assert proxy.events("failover_started") == []
        for queue in (queue_name, classic):
            client.send(1, commands.Queue.Delete(queue=queue))
            client.expect(commands.Queue.DeleteOk)
