"""Two of three nodes are dead: a queue without a quorum keeps its own channel waiting, and no other."""

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
