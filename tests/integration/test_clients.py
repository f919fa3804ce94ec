"""Everything ordinary works through Sidehop as it does directly: each test runs both ways, with each library."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import amqp
import kombu
import pika
import pytest

from tests.support.clients import CLIENTS, PATIENCE_S, AmqpClient, Client, Closed, NotAccepted, PikaClient
from tests.support.cluster import Cluster
from tests.support.sidehop import Sidehop

Open = Callable[..., Client]


@pytest.fixture(params=["direct", "sidehop"])
def port(request: pytest.FixtureRequest, booted_cluster: Cluster, shared_sidehop: Sidehop) -> int:
    """What works only on one of these ways is a difference that an application would notice."""
    return booted_cluster.amqp_port(1) if request.param == "direct" else shared_sidehop.port


@pytest.fixture(params=CLIENTS)
def library(request: pytest.FixtureRequest) -> type[Client]:
    return CLIENTS[request.param]


@pytest.fixture
def connect(library: type[Client], port: int) -> Iterator[Open]:
    """Open a connection; it must still be open at the end unless the test has closed it."""
    opened: list[Client] = []

    def open_one(**settings) -> Client:
        opened.append(library(port, **settings))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture
def queue(connect: Open, queue_name: str) -> Iterator[str]:
    client = connect()
    channel = client.channel()
    yield channel.declare(queue_name, durable=True)
    channel.delete(queue_name)


def drained(channel, queue: str) -> list[bytes]:
    """All messages that wait in a queue."""
    return [message.body for message in iter(lambda: channel.get(queue, no_ack=True), None)]


# Opening and closing.


@pytest.mark.parametrize("settings", [{"password": "wrong"}, {"user": "nobody"}, {"vhost": "/nowhere"}])
def test_a_refused_login_looks_as_the_broker_makes_it(
    library: type[Client], booted_cluster: Cluster, shared_sidehop: Sidehop, settings: dict[str, str]
) -> None:
    with pytest.raises(Closed) as direct:
        library(booted_cluster.amqp_port(1), **settings)
    with pytest.raises(Closed) as through:
        library(shared_sidehop.port, **settings)

    assert type(through.value.cause) is type(direct.value.cause)
    assert through.value.text == direct.value.text


def test_amqplain_is_accepted_and_refused_as_plain_is(port: int) -> None:
    client = AmqpClient(port, mechanism="AMQPLAIN")
    assert client.channel().is_open
    client.close()
    with pytest.raises(Closed, match="ACCESS_REFUSED"):
        AmqpClient(port, mechanism="AMQPLAIN", password="wrong")


def test_the_name_of_the_connection_reaches_the_broker_with_the_proxy_added(
    library: type[Client], booted_cluster: Cluster, shared_sidehop: Sidehop
) -> None:
    name = f"shop-{uuid.uuid4().hex[:8]}"
    client = library(shared_sidehop.port, connection_name=name)
    told = booted_cluster.ctl(1, "list_connections", "client_properties")
    client.close()
    line = next(line for line in told.splitlines() if name in line)
    assert "sidehop" in line[line.index(name) : line.index(name) + 60]
    assert {"pika": "Pika", "amqp": "py-amqp", "aio-pika": "aiormq"}[library.name] in line


def test_many_channels_on_one_connection(connect: Open, queue: str) -> None:
    client = connect()
    channels = [client.channel() for _ in range(40)]
    assert len({channel.number for channel in channels}) == 40
    for channel in channels:
        channel.publish(str(channel.number).encode(), queue)
        channel.close()
    again = client.channel()
    assert sorted(map(int, drained(again, queue))) == sorted(channel.number for channel in channels)


def test_many_connections_at_once(library: type[Client], port: int, queue: str) -> None:
    def use() -> None:
        client = library(port)
        client.channel(confirms=True).publish(b"here", queue)
        client.close()

    threads = [threading.Thread(target=use) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    client = library(port)
    assert drained(client.channel(), queue) == [b"here"] * 20
    client.close()


def test_small_frames_are_kept_to(connect: Open, queue: str) -> None:
    client = connect(frame_max=4096)
    channel = client.channel(confirms=True)
    body = os.urandom(100_000)
    channel.publish(body, queue)
    channel.consume(queue)
    assert channel.wait_received(1)[0].body == body
    channel.ack(channel.received[0].tag)


# Publishing.


def test_confirms_come_for_every_publish(connect: Open, queue: str) -> None:
    channel = connect().channel(confirms=True)
    for number in range(50):
        channel.publish(str(number).encode(), queue)
    assert channel.count(queue) == 50


def test_without_confirms_all_is_there_when_the_connection_was_closed_politely(connect: Open, queue: str) -> None:
    client = connect()
    channel = client.channel()
    for number in range(100):
        channel.publish(str(number).encode(), queue)
    client.close()
    assert drained(connect().channel(), queue) == [str(number).encode() for number in range(100)]


@pytest.mark.parametrize("confirms", [True, False])
def test_what_nobody_wants_is_returned(connect: Open, library: type[Client], confirms: bool) -> None:
    if library.name == "aio-pika" and not confirms:
        confirms = True  # the library shows returns to confirming publishers only
    client = connect()
    channel = client.channel(confirms=confirms)
    channel.publish(b"lost", f"nowhere.{uuid.uuid4().hex}", mandatory=True)
    while not channel.returned:
        client.serve()
    assert channel.returned == [b"lost"]


def test_a_full_queue_refuses_a_confirmed_publish(connect: Open, queue_name: str) -> None:
    channel = connect().channel(confirms=True)
    channel.declare(queue_name, exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.publish(b"first", queue_name)
    with pytest.raises(NotAccepted):
        channel.publish(b"second", queue_name)
    assert drained(channel, queue_name) == [b"first"]


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 5 * 1024 * 1024])
def test_bodies_of_every_size_arrive_as_they_were_sent(connect: Open, queue: str, size: int) -> None:
    body = os.urandom(size)
    channel = connect().channel(confirms=True)
    channel.publish(body, queue)
    channel.publish(body, queue)
    got = channel.get(queue)
    channel.consume(queue)
    pushed = channel.wait_received(1)[0]
    channel.ack(pushed.tag, multiple=True)
    wanted = hashlib.sha256(body).digest()
    assert [hashlib.sha256(message.body).digest() for message in (got, pushed)] == [wanted, wanted]


def test_headers_of_every_kind_arrive_as_they_were_sent(connect: Open, queue: str) -> None:
    channel = connect().channel(confirms=True)
    headers = {
        "text": "über",
        "number": 7,
        "big": 2**40,
        "true": True,
        "table": {"deep": {"er": "x"}},
        "list": [1, "2"],
    }
    channel.publish(b"", queue, headers=headers)
    assert channel.get(queue, no_ack=True).headers == headers


def test_transactions_commit_and_roll_back(connect: Open, queue: str) -> None:
    channel, reader = (client := connect()).channel(), client.channel()
    channel.tx("select")
    channel.publish(b"kept", queue)
    channel.tx("commit")
    channel.publish(b"undone", queue)
    channel.tx("rollback")
    assert drained(reader, queue) == [b"kept"]


# Consuming.


def unsettled(cluster: Cluster, queue: str) -> int:
    """Deliveries of the queue that wait to be settled, as the broker counts."""
    lines = cluster.ctl(1, "list_queues", "name", "messages_unacknowledged").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{queue}\t")))


def test_acks_nacks_and_rejects_do_what_they_say(
    connect: Open, library: type[Client], queue: str, cluster: Cluster
) -> None:
    channel = connect().channel(confirms=True)
    for number in range(8):
        channel.publish(b"%d" % number, queue)
    tags = {message.body: message.tag for message in (channel.get(queue) for _ in range(8))}
    channel.ack(tags[b"0"])
    channel.reject(tags[b"1"], requeue=False)
    channel.reject(tags[b"2"], requeue=True)
    channel.nack(tags[b"3"], requeue=True)
    channel.nack(tags[b"4"], requeue=False)
    channel.ack(tags[b"6"], multiple=True)
    # RabbitMQ 4.0 may lose what a channel settles just before it closes, when the classic queue is on another node.
    until = time.monotonic() + PATIENCE_S
    while unsettled(cluster, queue) != 1:
        assert time.monotonic() < until
    channel.close()
    reader = connect().channel()
    again = [reader.get(queue) for _ in range(3)]
    assert sorted(message.body for message in again) == [b"2", b"3", b"7"]
    assert all(message.redelivered for message in again)
    assert reader.get(queue) is None
    reader.ack(0, multiple=True)
    reader.close()
    assert connect().channel().count(queue) == 0


def test_prefetch_limits_what_is_outstanding(connect: Open, queue: str) -> None:
    client = connect()
    publisher, channel = client.channel(confirms=True), client.channel()
    for number in range(10):
        publisher.publish(b"%d" % number, queue)
    channel.qos(3)
    channel.consume(queue)
    channel.wait_received(3)
    assert publisher.count(queue) == 7
    assert len(channel.received) == 3
    channel.ack(channel.received[1].tag, multiple=True)
    channel.wait_received(5)
    assert publisher.count(queue) == 5
    assert [message.body for message in channel.received] == [b"0", b"1", b"2", b"3", b"4"]
    tags = [message.tag for message in channel.received]
    assert tags == sorted(set(tags))


def test_a_consumer_without_acks_gets_all(connect: Open, queue: str) -> None:
    client = connect()
    publisher, channel = client.channel(), client.channel()
    tag = channel.consume(queue, tag="mine", no_ack=True)
    assert tag == "mine"
    for number in range(300):
        publisher.publish(b"%d" % number, queue)
    received = channel.wait_received(300)
    assert [message.body for message in received] == [b"%d" % number for number in range(300)]
    channel.close()
    assert publisher.count(queue) == 0


def test_a_cancelled_consumer_leaves_the_rest_in_the_queue(connect: Open, queue: str) -> None:
    client = connect()
    publisher, channel = client.channel(confirms=True), client.channel()
    channel.cancel(channel.consume(queue))
    publisher.publish(b"later", queue)
    assert channel.received == []
    assert drained(publisher, queue) == [b"later"]


def test_a_consumer_is_told_when_its_queue_is_deleted(connect: Open, queue_name: str) -> None:
    client = connect()
    channel, other = client.channel(), client.channel()
    channel.declare(queue_name)
    channel.consume(queue_name, tag="watched")
    other.delete(queue_name)
    while not channel.cancelled:
        client.serve()
    assert channel.cancelled == ["watched"]
    assert channel.is_open


def test_an_exclusive_consumer_keeps_others_out(connect: Open, queue: str) -> None:
    client = connect()
    first, second = client.channel(), client.channel()
    first.consume(queue, exclusive=True)
    with pytest.raises(Closed, match="ACCESS_REFUSED"):
        second.consume(queue)
    assert first.is_open


# Queues.


def test_a_server_named_queue_gets_what_is_routed_to_its_binding(connect: Open, queue_name: str) -> None:
    channel = connect().channel(confirms=True)
    channel.declare_exchange(queue_name, "topic")
    first, second = channel.declare("", exclusive=True), channel.declare("", exclusive=True)
    assert first
    assert first != second
    channel.bind(first, queue_name, "a.*")
    channel.publish(b"for first", "a.b", exchange=queue_name)
    channel.publish(b"for nobody", "b.b", exchange=queue_name)
    assert drained(channel, first) == [b"for first"]
    assert drained(channel, second) == []


def test_a_headers_exchange_matches_tables(connect: Open, queue_name: str) -> None:
    channel = connect().channel(confirms=True)
    channel.declare_exchange(queue_name, "headers")
    channel.declare(queue_name, exclusive=True)
    channel.bind(queue_name, queue_name, "", {"x-match": "all", "colour": "red", "size": 3})
    channel.publish(b"yes", "", exchange=queue_name, headers={"colour": "red", "size": 3, "more": True})
    channel.publish(b"no", "", exchange=queue_name, headers={"colour": "red", "size": 4})
    assert drained(channel, queue_name) == [b"yes"]


def test_an_exclusive_queue_is_locked_and_ends_with_its_connection(connect: Open, queue_name: str) -> None:
    owner, other = connect(), connect()
    owner.channel().declare(queue_name, exclusive=True)
    with pytest.raises(Closed, match="RESOURCE_LOCKED"):
        other.channel().declare(queue_name, exclusive=True)
    assert other.is_open
    owner.close()
    assert other.channel().declare(queue_name, exclusive=True) == queue_name


def test_an_auto_delete_queue_ends_with_its_last_consumer(connect: Open, queue_name: str) -> None:
    client = connect()
    channel = client.channel()
    channel.declare(queue_name, auto_delete=True)
    channel.cancel(channel.consume(queue_name))
    with pytest.raises(Closed, match="NOT_FOUND"):
        channel.count(queue_name)
    assert client.is_open


# Errors of a channel.


def test_a_channel_error_costs_the_channel_only_and_its_number_can_be_used_again(
    connect: Open, library: type[Client], queue: str
) -> None:
    client = connect()
    steady = client.channel(confirms=True)
    for _ in range(5):
        missing, clash = client.channel(), client.channel()
        with pytest.raises(Closed, match="NOT_FOUND") as not_found:
            missing.count(f"nowhere.{queue}")
        with pytest.raises(Closed, match="PRECONDITION_FAILED") as precondition:
            clash.declare(queue, durable=True, auto_delete=True)
        if library.name != "aio-pika":  # it shows the text only
            assert (not_found.value.code, precondition.value.code) == (404, 406)
        # py-amqp opens it again by itself, at once and under the same number.
        assert (missing.is_open, clash.is_open) == (library.name == "amqp",) * 2
        if isinstance(client, PikaClient):
            client.connection.channel(missing.number).close()
    steady.publish(b"still here", queue)
    assert drained(steady, queue) == [b"still here"]


def test_an_unknown_tag_is_an_error_of_the_channel(connect: Open, queue: str) -> None:
    client = connect()
    channel = client.channel()
    channel.ack(99)
    with pytest.raises(Closed):
        channel.count(queue)
    assert client.is_open
    assert client.channel().count(queue) == 0


# Time.


def test_idle_clients_with_heartbeats_stay(shared_sidehop: Sidehop, queue_name: str) -> None:
    clients = [library(shared_sidehop.port, heartbeat_s=2) for library in CLIENTS.values()]
    silent_until = time.monotonic() + 6
    while time.monotonic() < silent_until:
        for client in clients:
            client.serve(0.1)
    for client in clients:
        channel = client.channel(confirms=True)
        channel.declare(queue_name, exclusive=True)
        channel.publish(b"awake", queue_name)
        assert drained(channel, queue_name) == [b"awake"]
        client.close()


def test_a_client_that_stops_its_heartbeats_is_closed(shared_sidehop: Sidehop) -> None:
    client = PikaClient(shared_sidehop.port, heartbeat_s=1)
    session = shared_sidehop.wait_sessions(1)[0]
    # A blocking library that is not called says nothing.
    shared_sidehop.wait_sessions(0)
    assert session["state"] == "attached"
    with pytest.raises(Closed):
        client.serve()
    closed = [line for line in shared_sidehop.events("session_closed") if line["session"] == session["id"]]
    assert [line["reason"] for line in closed] == ["client_silent"]


def test_sessions_end_with_their_clients(shared_sidehop: Sidehop, library: type[Client]) -> None:
    client = library(shared_sidehop.port)
    assert len(shared_sidehop.wait_sessions(1)) == 1
    client.close()
    shared_sidehop.wait_sessions(0)


# More of the libraries' own.


def test_kombu_publishes_and_consumes(port: int, queue_name: str) -> None:
    with kombu.Connection(
        f"amqp://guest:guest@127.0.0.1:{port}//", transport_options={"confirm_publish": True}
    ) as link:
        simple = link.SimpleQueue(queue_name, queue_opts={"auto_delete": True, "durable": False})
        simple.put({"n": 1}, compression="zlib")
        message = simple.get(timeout=10)
        message.ack()
        simple.close()
    assert message.payload == {"n": 1}


def test_pika_s_direct_reply_to_answers(port: int, queue_name: str) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    asker, server = connection.channel(), connection.channel()
    answers: list[bytes] = []
    server.queue_declare(queue_name, exclusive=True)

    def serve(channel, method, properties, body: bytes) -> None:
        channel.basic_publish("", properties.reply_to, b"re: " + body)

    server.basic_consume(queue_name, serve, auto_ack=True)
    asker.basic_consume("amq.rabbitmq.reply-to", lambda *told: answers.append(told[3]), auto_ack=True)
    # RabbitMQ gives every reply of a channel the same delivery tag.
    for number, body in enumerate((b"hello", b"again", b"bye"), 1):
        asker.basic_publish("", queue_name, body, pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
        while len(answers) < number:
            connection.process_data_events(time_limit=0.1)
    connection.close()
    assert answers == [b"re: hello", b"re: again", b"re: bye"]


def test_py_amqp_opens_a_channel_under_a_number_of_its_choice(port: int) -> None:
    with amqp.Connection(host=f"127.0.0.1:{port}") as connection:
        channel = connection.channel(2000)
        assert channel.queue_declare("", exclusive=True).queue
