"""A client sees a message once: copies of what it has answered, or still holds, are settled for it and not shown."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import HEADER, frame
from proxy.amqp.wire import longstr, pack_table, shortstr, table_value, text_value
from proxy.session import copies
from tests.support.engine import (
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
from tests.support.engine_frames import (
    CLASS_BASIC,
    ack,
    bare,
    consume,
    consume_ok,
    deliver,
    frames_of,
    nack,
    on,
    publish,
    reject,
)

COUNT = {b"x-delivery-count": b"l" + bytes(7) + b"\1", b"x-acquired-count": b"l" + bytes(7) + b"\2"}
OWN = {b"a": b"t\1", b"b": b"t\0"}
CONTENT_TYPE, HEADERS, DELIVERY_MODE, MESSAGE_ID, APP_ID = 1 << 15, 1 << 13, 1 << 12, 1 << 7, 1 << 3


def message(
    tag, mark=b"s-1", *, name=b"", body=b"m", redelivered=False, headers=None, app=b"a", to=b"c", channel=1
) -> bytes:
    """A delivery with the mark of a publisher's sidecar, or a `message-id`, or neither, among other properties."""
    table = ({b"x-sidehop-id": text_value(mark)} if mark else {}) | (headers or {})
    flags = CONTENT_TYPE | DELIVERY_MODE | APP_ID | (MESSAGE_ID if name else 0) | (HEADERS if table else 0)
    properties = shortstr(b"text/plain") + (longstr(pack_table(table)) if table else b"") + b"\2"
    properties += (shortstr(name) if name else b"") + shortstr(app)
    header = frame(HEADER, channel, CLASS_BASIC.pack(60, 0, len(body), flags) + properties)
    method, _, *bodies = frames_of(deliver(channel, tag, body, to=to, redelivered=redelivered))
    return b"".join((method, header, *bodies))


def again(tag, mark=b"s-1", **given) -> bytes:
    return message(tag, mark, redelivered=True, **given)


def named(tag, **given) -> bytes:
    """A message that its publisher has given an id, and no sidecar a mark."""
    return message(tag, b"", **{"name": b"id"} | given)


def consuming(*channels: int, **given):
    story = with_channel(*channels, suppress_duplicates=True, **given)
    for channel in channels or (1,):
        story = (story >> FromClient(consume(channel))).forget()
        story = (story >> FromBroker(consume_ok(channel))).forget()
    return story


def back(story, *channels: int):
    """The broker dies, and all is set up at the next one."""
    story = (story >> FailOver()).forget()
    for channel in channels or (1,):
        story = (story >> FromBroker(on(channel, m.ChannelOpenOk()), consume_ok(channel))).forget()
    return story


def holding(*messages: bytes, **given):
    """A client that holds these of a broker that is gone."""
    return back((consuming(**given) >> FromBroker(*messages)).forget())


def suppressed(count: int) -> Sees:
    return Sees(f"{count} were suppressed", lambda s: s.journal.counters.suppressed == count)


# What is shown.


def test_a_client_does_not_see_the_mark():
    story = consuming() >> FromBroker(message(1)) << ToClient(message(1, b""))
    story = story >> FromBroker(message(2, b"s-2", headers=OWN)) << ToClient(message(2, b"", headers=OWN))
    turned = message(3, b"", headers=OWN | {b"x-sidehop-id": text_value(b"s-3")})
    (story >> FromBroker(turned) << ToClient(message(3, b"", headers=OWN))).done()


def test_a_large_message_that_streams_is_shown_without_the_mark():
    story = consuming(delivery_hold_bytes_max=4096)
    body = b"x" * 5000
    (story >> FromBroker(message(1, body=body)) << ToClient(message(1, b"", body=body))).done()


def test_a_message_that_was_got_is_shown_without_the_mark():
    story = (with_channel(suppress_duplicates=True) >> FromClient(on(1, m.BasicGet(0, b"q", False)))).forget()
    method = on(1, m.BasicGetOk(1, False, b"", b"q", 0))
    whole, plain = (b"".join(frames_of(message(1, mark))[1:]) for mark in (b"s-1", b""))
    (story >> FromBroker(method, whole) << ToClient(method, plain)).done()


@pytest.mark.parametrize("table", [b"\x0cx-sidehop-id?", b"\x0cx-sidehop-idS\0\0\0\x09short", b"\xffx-sidehop-id"])
def test_a_table_that_is_none_is_shown_as_it_is(table):
    method, _, body = frames_of(deliver(1, 1, b"m"))
    header = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, HEADERS) + longstr(table))
    (consuming() >> FromBroker(method, header, body) << ToClient(method, header, body)).done()


def test_it_is_off_unless_it_is_asked_for():
    story = with_channel() << Sees("nothing is noted", lambda s: s.journal.copies is None)
    story = (story >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1))).forget()
    (story >> FromBroker(message(1), message(2)) << ToClient(message(1), message(2))).done()


# Copies of what was answered.


@pytest.mark.parametrize(
    ("said", "repeated"),
    [
        (ack(1, 1), ack(1, 1)),
        (ack(1, 1, multiple=True), ack(1, 1)),
        (ack(1, 0, multiple=True), ack(1, 1)),
        (reject(1, 1, requeue=False), reject(1, 1, requeue=False)),
        (nack(1, 1), reject(1, 1, requeue=False)),
        (nack(1, 0, multiple=True), reject(1, 1, requeue=False)),
    ],
)
@pytest.mark.parametrize("made", [message, named])
def test_what_was_said_too_late_is_said_again_to_the_copy(said, repeated, made):
    story = holding(made(1)) >> FromClient(said) >> FromBroker(made(1, redelivered=True))
    (story << ToBroker(repeated) << suppressed(1)).done()


def test_what_was_said_in_time_may_have_been_lost_with_the_broker():
    story = (consuming() >> FromBroker(message(1)) << ToClient(message(1, b""))).forget()
    story = back(story >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1)))
    (story >> FromBroker(again(1)) << ToBroker(ack(1, 1)) << suppressed(1)).done()


def test_a_second_publish_of_a_message_is_not_shown():
    story = (consuming() >> FromBroker(message(1))).forget() >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))
    (story >> FromBroker(message(2)) << ToBroker(ack(1, 2)) >> FromBroker(again(3)) << ToBroker(ack(1, 3))).done()


@pytest.mark.parametrize("said", [nack(1, 1, requeue=True), reject(1, 1), nack(1, 0, multiple=True, requeue=True)])
def test_what_is_to_come_again_does(said):
    story = holding(message(1)) >> FromClient(said) >> FromBroker(again(1)) << ToClient(again(2, b""))
    (story << suppressed(0)).done()


def test_an_answer_is_forgotten_when_there_are_many_newer_ones(monkeypatch):
    monkeypatch.setattr(copies, "ANSWERED_MAX", 2)
    story = (consuming() >> FromBroker(*(message(tag, b"s-%d" % tag) for tag in (1, 2, 3)))).forget()
    story = (story >> FromClient(ack(1, 3, multiple=True))).forget()
    (story >> FromBroker(again(4, b"s-2"), again(5)) << ToBroker(ack(1, 4)) << ToClient(again(5, b""))).done()


def test_what_cannot_be_remembered_is_shown(monkeypatch):
    monkeypatch.setattr(copies, "HELD_MAX", 1)
    story = (consuming() >> FromBroker(message(1), message(2, b"s-2"))).forget()
    (story >> FromBroker(message(3, b"s-2")) << ToClient(message(3, b""))).done()


# Copies of what the client holds.


@pytest.mark.parametrize(
    ("said", "repeated"),
    [(ack(1, 1), ack(1, 1)), (reject(1, 1, requeue=False), reject(1, 1, requeue=False)), (reject(1, 1), reject(1, 1))],
)
def test_a_copy_of_what_the_client_holds_gets_the_same_answer(said, repeated):
    story = holding(message(1)) >> FromBroker(again(1)) << suppressed(0)
    (story >> FromClient(said) << ToBroker(repeated)).done()


def test_two_publishes_of_a_message_get_one_answer():
    story = consuming() >> FromBroker(message(1), message(2), message(3, b"s-2"))
    story = story << ToClient(message(1, b""), message(3, b""))
    story = story >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1), ack(1, 2))
    (story >> FromClient(ack(1, 3)) << ToBroker(ack(1, 3))).done()


def test_a_copy_is_shown_when_the_client_wants_it_again():
    story = holding(message(1)) >> FromBroker(again(1)) >> FromClient(reject(1, 1)) << ToBroker(reject(1, 1))
    (story >> FromBroker(again(2)) << ToClient(again(3, b""))).done()


def test_new_messages_do_not_wait_for_copies():
    story = holding(message(1)) >> FromBroker(again(1), message(2, b"s-2")) << ToClient(message(3, b""))
    story = story >> FromClient(ack(1, 3)) << ToBroker(ack(1, 2))
    (story >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))).done()


def test_a_second_loss_forgets_nothing_that_the_client_still_holds():
    story = back(holding(message(1)) >> FromBroker(again(1))) >> FromClient(ack(1, 1))
    (story >> FromBroker(again(1)) << ToBroker(ack(1, 1))).done()


def test_half_a_message_is_not_held_and_its_copy_is_shown():
    method, header, _ = frames_of(message(1))
    story = back(consuming() >> FromBroker(method, header))
    (story >> FromBroker(again(1)) << ToClient(again(2, b""))).done()


def test_what_was_kept_back_and_never_shown_is_shown_when_it_comes_again():
    story = (with_channel(suppress_duplicates=True) >> FromClient(on(1, m.BasicQos(0, 1, False)))).forget()
    story = (story >> FromBroker(bare(1, m.ident(60, 11)))).forget()
    story = (story >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1), message(1))).forget()
    opened = (on(1, m.ChannelOpenOk()), bare(1, m.ident(60, 11)), consume_ok(1))
    story = ((story >> FailOver()).forget() >> FromBroker(*opened)).forget()
    story = story >> FromBroker(message(1, b"s-2"))  # the client's window is full
    story = ((story >> FailOver()).forget() >> FromBroker(*opened)).forget()
    story = story >> FromClient(ack(1, 1)) >> FromBroker(again(1, b"s-2")) << ToClient(again(3, b""))
    story.done()


def test_the_copy_may_come_to_another_channel():
    story = back((consuming(1, 2) >> FromBroker(message(1))).forget(), 1, 2)
    story = story >> FromBroker(again(1, channel=2), message(2, b"s-2", channel=2))
    story = story << ToClient(message(2, b"", channel=2))
    # Together they would include what the client has not answered.
    story = story >> FromClient(ack(2, 2, multiple=True)) << ToBroker(ack(2, 2))
    (story >> FromClient(ack(1, 1)) << ToBroker(ack(2, 1))).done()


def test_an_ack_of_everything_spares_a_copy_of_what_is_held_elsewhere():
    story = back((consuming(1, 2) >> FromBroker(message(1))).forget(), 1, 2)
    story = (story >> FromBroker(again(1, channel=2), message(2, b"s-2", channel=2))).forget()
    (story >> FromClient(ack(2, 0, multiple=True)) << ToBroker(ack(2, 2))).done()


def test_a_number_that_nobody_was_told_is_the_brokers_to_judge():
    story = back((consuming(1, 2) >> FromBroker(message(1))).forget(), 1, 2)
    story = story >> FromBroker(again(1, channel=2)) >> FromClient(ack(2, 9, multiple=True))
    (story << ToBroker(ack(2, 9, multiple=True))).done()


def test_what_a_closed_channel_held_is_shown_to_another_one():
    story = (
        back((consuming(1, 2) >> FromBroker(message(1))).forget(), 1, 2) >> FromBroker(again(1, channel=2))
    ).forget()
    close = on(1, m.ChannelClose(200, b"bye"))
    story = (story >> FromClient(close)).forget() >> FromBroker(on(1, m.ChannelCloseOk()))
    story = story << ToClient(on(1, m.ChannelCloseOk())) << ToBroker(reject(2, 1))
    (story >> FromBroker(again(2, channel=2)) << ToClient(again(2, b"", channel=2))).done()


def test_recover_makes_what_is_held_void():
    asked, done = bare(1, m.BASIC_RECOVER, b"\x01"), on(1, m.BasicRecoverOk())
    story = holding(message(1)) >> FromBroker(again(1), message(2, b"s-2")) << ToClient(message(3, b""))
    story = (story >> FromClient(asked)).forget() >> FromBroker(done) << ToClient(done)
    story = story >> FromBroker(again(3), again(4, b"s-2")) << ToClient(again(4, b""), again(5, b""))
    story.done()


def test_what_the_broker_is_asked_to_take_back_is_not_settled():
    asked, done = bare(1, m.BASIC_RECOVER, b"\x01"), on(1, m.BasicRecoverOk())
    story = holding(message(1)) >> FromClient(ack(1, 1)) >> FromClient(asked) << ToBroker(asked)
    story = story >> FromBroker(again(1)) >> FromBroker(done) << ToClient(done)
    (story >> FromBroker(again(2)) << ToBroker(ack(1, 2))).done()


def test_a_copy_of_a_copy_waits_with_it_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(copies, "SHADOWS_MAX", 2)
    story = consuming() >> FromBroker(message(1), message(2), message(3), message(4))
    story = story << ToClient(message(1, b""), message(4, b""))
    (story >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1), ack(1, 2), ack(1, 3))).done()


# What is no copy.


def test_what_brokers_count_makes_no_difference():
    story = holding(named(1), named(2, headers=OWN))
    story = story >> FromClient(ack(1, 0, multiple=True))
    turned = dict(reversed(OWN.items())) | COUNT
    story = story >> FromBroker(named(1, redelivered=True, headers=COUNT), named(2, redelivered=True, headers=turned))
    (story << ToBroker(ack(1, 1), ack(1, 2))).done()


@pytest.mark.parametrize("other", [{"name": b"other"}, {"body": b"x"}, {"app": b"x"}, {"headers": OWN}], ids=str)
def test_without_a_mark_anything_else_is_another_message(other):
    story = holding(named(1)) >> FromClient(ack(1, 1)) >> FromBroker(named(1, redelivered=True, **other))
    (story << ToClient(named(2, redelivered=True, **other)) << suppressed(0)).done()


def test_without_a_mark_a_message_that_is_not_flagged_is_another_one_and_neither_is_known_any_more():
    story = holding(named(1)) >> FromClient(ack(1, 1)) >> FromBroker(named(1)) << ToClient(named(2))
    (story >> FromBroker(named(2, redelivered=True)) << ToClient(named(3, redelivered=True))).done()


def test_without_a_mark_a_second_message_of_a_name_takes_the_first_ones_copies_back():
    story = holding(named(1)) >> FromBroker(named(1, redelivered=True)) >> FromBroker(named(2))
    story = story << ToBroker(reject(1, 1)) << ToClient(named(3)) >> FromClient(ack(1, 1))
    (story >> FromBroker(named(3, redelivered=True)) << ToClient(named(4, redelivered=True))).done()


def test_messages_without_an_id_are_shown_again():
    story = holding(message(1, b"")) >> FromClient(ack(1, 1)) >> FromBroker(again(1, b""))
    (story << ToClient(again(2, b""))).done()


def test_the_same_publish_in_another_queue_is_another_message():
    story = (consuming() >> FromClient(consume(1, b"other", b"d"))).forget()
    story = (
        (story >> FromBroker(consume_ok(1, b"d"), message(1))).forget() >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))
    )
    (story >> FromBroker(message(2, to=b"d")) << ToClient(message(2, b"", to=b"d"))).done()


def deaths(count: int, time: int) -> dict[bytes, bytes]:
    death = {
        b"count": b"l" + count.to_bytes(8, "big"),
        b"queue": text_value(b"q"),
        b"time": b"T" + time.to_bytes(8, "big"),
    }
    return {b"x-death": b"A" + longstr(table_value(death))}


def test_a_dead_letter_is_another_message_each_time_it_died():
    story = (consuming() >> FromBroker(message(1))).forget() >> FromClient(reject(1, 1, requeue=False))
    story = story << ToBroker(reject(1, 1, requeue=False)) >> FromBroker(message(2, headers=deaths(1, 5)))
    story = story << ToClient(message(2, b"", headers=deaths(1, 5))) >> FromClient(ack(1, 2)) << ToBroker(ack(1, 2))
    story = story >> FromBroker(message(3, headers=deaths(1, 6))) << ToBroker(ack(1, 3))  # another copy died later
    (story >> FromBroker(message(4, headers=deaths(2, 5))) << ToClient(message(4, b"", headers=deaths(2, 5)))).done()


@pytest.mark.parametrize("value", [b"t\1", b"A" + longstr(b"t\1")])
def test_deaths_that_no_broker_wrote_tell_messages_apart(value):
    story = (consuming() >> FromBroker(message(1))).forget() >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))
    other = {b"x-death": value}
    (story >> FromBroker(message(2, headers=other)) << ToClient(message(2, b"", headers=other))).done()


def test_a_streams_message_may_be_read_again():
    place = {b"x-stream-offset": b"l" + bytes(8)}
    story = (
        (consuming() >> FromBroker(message(1, headers=place))).forget() >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))
    )
    (story >> FromBroker(message(2, headers=place)) << ToClient(message(2, b"", headers=place))).done()


def test_a_consumer_without_acknowledgements_sees_everything():
    story = (with_channel(suppress_duplicates=True) >> FromClient(consume(1, no_ack=True))).forget()
    story = (story >> FromBroker(consume_ok(1))).forget()
    (story >> FromBroker(message(1), message(2)) << ToClient(message(1, b""), message(2, b""))).done()


def test_replies_that_bear_the_number_of_the_next_delivery_are_all_shown():
    story = consuming() >> FromClient(consume(1, b"amq.rabbitmq.reply-to", b"r", no_ack=True))
    story = (story.forget() >> FromBroker(consume_ok(1, b"r"), message(1))).forget()
    story = story >> FromBroker(message(2, to=b"r"), message(2, to=b"r"), message(2))
    story = story << ToClient(message(2, b"", to=b"r"), message(2, b"", to=b"r"))
    (story >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1), ack(1, 2))).done()


def test_a_transaction_makes_answers_undone_so_that_everything_is_shown():
    asked, done = bare(1, m.ident(90, 10)), bare(1, m.ident(90, 11))
    story = (consuming() >> FromClient(asked) << ToBroker(asked) >> FromBroker(done)).forget()
    story = (story >> FromBroker(message(1))).forget() >> FromClient(ack(1, 1)) << ToBroker(ack(1, 1))
    (story >> FromBroker(again(2)) << ToClient(again(2, b""))).done()


# When it may be said.


def test_nothing_is_settled_inside_a_publish():
    method, *rest = frames_of(publish(1, b"abc"))
    story = (holding(message(1)) >> FromClient(ack(1, 1)) >> FromClient(method)).forget() >> FromBroker(again(1))
    (story >> FromClient(*rest) << ToBroker(*rest, ack(1, 1)) << suppressed(1)).done()


def test_what_is_owed_spares_an_ack_of_everything():
    method, *rest = frames_of(publish(1, b"abc"))
    story = (holding(message(1)) >> FromClient(ack(1, 1)) >> FromClient(method)).forget()
    story = story >> FromBroker(again(1), message(2, b"s-2")) << ToClient(message(3, b""))
    story = story >> FromClient(*rest, ack(1, 0, multiple=True))
    (story << ToBroker(*rest, ack(1, 2), ack(1, 1))).done()


def test_what_is_owed_to_a_broker_is_not_said_to_the_next_one():
    method, *rest = frames_of(publish(1, b"abc"))
    story = (holding(message(1)) >> FromClient(ack(1, 1)) >> FromClient(method)).forget() >> FromBroker(again(1))
    story = (story >> BrokerLost()).forget() >> FromClient(*rest)
    story = (story >> Handshaken()).forget() >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1))
    story.forget() << suppressed(0)
    (story >> FromBroker(again(1)) << ToBroker(ack(1, 1))).done()


def test_nothing_is_settled_behind_a_close():
    close = on(1, m.ChannelClose(200, b"bye"))
    story = (holding(message(1)) >> FromClient(ack(1, 1)) >> FromClient(close)).forget()
    (story >> FromBroker(again(1)) << suppressed(0)).done()


# A client that acknowledges all there is, while a delivery is not all here yet.


def half_here(copy: bytes):
    """A copy of what the client holds of a broker that is gone, half of another delivery, and it takes all there is."""
    *half, rest = frames_of(copy)
    story = holding(message(1), message(2, b"s-2")) >> FromBroker(again(1), *half)
    # Alone, one by one, since together they would include copies of what it holds on other channels.
    return story >> FromClient(ack(1, 0, multiple=True)) << ToBroker(ack(1, 2), ack(1, 1)), rest


def test_a_copy_that_was_acknowledged_before_it_was_whole_is_not_acknowledged_twice():
    story, rest = half_here(again(2, b"s-2"))
    (story >> FromBroker(rest)).done()


def test_another_message_that_was_acknowledged_before_it_was_whole_is_shown():
    story, rest = half_here(message(2, b"s-3"))
    story = story >> FromBroker(rest) << ToClient(message(4, b""))
    # It is not held: nothing more will be said of it.
    (story >> FromBroker(again(3, b"s-3")) << ToClient(again(5, b""))).done()
