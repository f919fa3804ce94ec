"""Direct reply-to that survives a failover: replies come to a queue of the client's own."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, frame
from proxy.amqp.wire import pack_table, shortstr, text_value
from proxy.session.replies import replying_to
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Sees,
    ToBroker,
    ToClient,
    with_channel,
)
from tests.support.engine_frames import CLASS_BASIC, bare, consume, consume_ok, deliver, frames_of, on, publish

REPLY_TO = b"amq.rabbitmq.reply-to"
SCRATCH = 2046
CORRELATION = shortstr(b"42")


def header(reply_to: bytes, *, size: int = 1) -> bytes:
    """The payload of a content header with every property that comes before `reply_to`, and one behind it."""
    flags = 0xFFFF & ~((1 << 8) - 1) | 1 << 8
    before = shortstr(b"text/plain") + shortstr(b"utf-8")
    table = pack_table({b"h": text_value("amq.rabbitmq.reply-to")})
    before += len(table).to_bytes(4, "big") + table + b"\x02\x09" + CORRELATION
    return CLASS_BASIC.pack(60, 0, size, flags) + before + shortstr(reply_to) + shortstr(b"5000")


def request(channel: int = 1, reply_to: bytes = REPLY_TO, *, body: bytes = b"m") -> bytes:
    """A publish that wants an answer."""
    start = frames_of(publish(channel))[0]
    return start + frame(HEADER, channel, header(reply_to)) + frame(BODY, channel, body)


def asking(**given):
    """A client that consumes replies; returns the story and its queue. The broker has not answered."""
    story = with_channel(**{"direct_reply_to": "emulated"} | given)
    story = story >> FromClient(consume(1, REPLY_TO, b"", no_ack=True))
    declared = m.decode(m.QueueDeclare, story.to_broker[0][7:-1])
    return story, declared.queue


def declaration(channel: int, name: bytes) -> bytes:
    return on(channel, m.QueueDeclare(0, name, False, False, True, True, False, b""))


def replied(**given):
    """The same client when the broker has answered."""
    story, name = asking(**given)
    tag = m.decode(m.BasicConsume, story.to_broker[1][7:-1]).consumer_tag
    story = story.forget() >> FromBroker(on(1, m.QueueDeclareOk(name, 0, 0)), consume_ok(1, tag))
    return (story << ToClient(consume_ok(1, tag))), name, tag


def test_a_consumer_of_replies_gets_a_queue_of_its_own():
    story, name = asking()
    assert name.startswith(b"gen.reply-")
    assert story.to_broker[0] == declaration(1, name)
    asked = m.decode(m.BasicConsume, story.to_broker[1][7:-1])
    assert (asked.queue, asked.no_ack, asked.consumer_tag[:9]) == (name, True, b"amq.ctag-")
    assert not story.to_client


def test_a_request_names_that_queue():
    story, name, _ = replied()
    other = publish(1, b"amq.rabbitmq.reply-to")
    story = story >> FromClient(request(), other, request(reply_to=b"elsewhere"))
    (story << ToBroker(HIDDEN_CONFIRMS, request(reply_to=name), other, request(reply_to=b"elsewhere"))).done()


def test_a_request_that_comes_with_its_consumer_names_it_as_well():
    story = with_channel(direct_reply_to="emulated")
    story = story >> FromClient(consume(1, REPLY_TO, b"c", no_ack=True) + request() + request()[:10])
    name = m.decode(m.QueueDeclare, story.to_broker[0][7:-1]).queue
    said = declaration(1, name), consume(1, name, b"c", no_ack=True), HIDDEN_CONFIRMS, request(reply_to=name)
    story = story << ToBroker(*said)
    (story >> FromClient(request()[10:]) << ToBroker(request(reply_to=name))).done()


def test_a_request_that_comes_byte_by_byte_names_it_as_well():
    story, name, _ = replied()
    for byte in request():
        story.session.from_client(bytes((byte,)), story.now)
    (story >> FromClient(b"") << ToBroker(HIDDEN_CONFIRMS, request(reply_to=name))).done()


def test_replies_to_requests_of_before_arrive_after_a_failover():
    story, name, tag = replied()
    story = (story >> FromClient(request())).forget()
    story = story >> FailOver() << ToBroker(on(SCRATCH, m.ChannelOpen()), declaration(SCRATCH, name))
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), m.QueueDeclareOk(name, 0, 0)))
    again = REOPENED, HIDDEN_CONFIRMS, request(reply_to=name), consume(1, name, tag, no_ack=True)
    story = story << ToBroker(on(SCRATCH, m.ChannelClose(200, b"done")), *again)
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1, tag), deliver(1, 1, b"reply", to=tag))
    (story << ToClient(deliver(1, 1, b"reply", to=tag))).done()


def test_a_consumer_of_replies_that_begins_without_a_broker_is_set_up_with_the_next_one():
    story = (with_channel(direct_reply_to="emulated") >> BrokerLost()).forget()
    story = (story >> FromClient(consume(1, REPLY_TO, b"c", no_ack=True), request())).forget() >> Handshaken()
    name = m.decode(m.QueueDeclare, story.to_broker[1][7:-1]).queue
    asks = declaration(1, name), consume(1, name, b"c", no_ack=True), HIDDEN_CONFIRMS, request(reply_to=name)
    (story << ToBroker(REOPENED, *asks)).done()


def test_the_queue_goes_with_its_consumer():
    story, _, tag = replied()
    cancel, cancelled = on(1, m.BasicCancel(tag, False)), on(1, m.BasicCancelOk(tag))
    story = story >> FromClient(cancel) << ToBroker(cancel) >> FromBroker(cancelled) << ToClient(cancelled)
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_the_queue_is_not_the_last_one_that_the_client_declared():
    story, _, _ = replied()
    (story >> FromClient(on(1, m.BasicGet(0, b"", False))) << ToBroker(on(1, m.BasicGet(0, b"", False)))).done()


def test_a_channel_that_is_over_leaves_no_address_behind():
    story, _, _ = replied()
    close, closed = on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())
    story = story >> FromClient(close) << ToBroker(close) >> FromBroker(closed) << ToClient(closed)
    story << Sees("nothing is left", lambda s: not s.journal.reply_queues and not s.journal.topology.queues)
    story = (story >> FromClient(on(1, m.ChannelOpen()))).forget() >> FromBroker(on(1, m.ChannelOpenOk()))
    (story.forget() >> FromClient(request()) << ToBroker(HIDDEN_CONFIRMS, request())).done()


@pytest.mark.parametrize(
    "said",
    [
        consume(1, REPLY_TO, b"c"),  # its broker refuses a consumer that acknowledges (406)
        on(1, m.QueueDeclare(0, REPLY_TO, True, False, False, False, False, b"")),
        bare(1, m.BASIC_PUBLISH, b"\0\0" + shortstr(b"") + shortstr(REPLY_TO + b".g1h2") + b"\0")
        + frame(HEADER, 1, header(b"x", size=0)),
    ],
    ids=["acknowledged", "declared", "published to"],
)
def test_what_is_no_request_is_left_to_the_broker(said):
    story = with_channel(direct_reply_to="emulated", publish_guarantee="as_sent")
    (story >> FromClient(said) << ToBroker(said)).done()


def test_without_emulation_everything_is_left_to_the_broker():
    asks = consume(1, REPLY_TO, b"c", no_ack=True) + request()
    story = with_channel(publish_guarantee="as_sent")
    (story >> FromClient(asks) << ToBroker(asks)).done()


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_properties_that_are_none_are_left_to_the_broker(cut):
    broken = header(REPLY_TO)[: 14 + cut]
    assert replying_to(broken, b"q") == broken
