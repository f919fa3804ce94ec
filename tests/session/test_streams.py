"""What a reader of a stream is promised: after a loss it reads on behind what it has seen, each message once."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import HEADER, frame
from proxy.amqp.wire import U64, longstr, pack_table, shortstr, text_value
from proxy.session.commands import Dial
from proxy.session.description import describe
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerUp,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    Sees,
    ToBroker,
    ToClient,
    ToOld,
    confirming,
    consuming,
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
    get_ok,
    nack,
    on,
    publish,
)

OPENED = on(1, m.ChannelOpenOk())
NO_COPY = on(1, m.ChannelClose(406, b"queue 's' does not have a replica on the local node"))
PRIORITY = {b"x-priority": b"I\x00\x00\x00\x05"}
FIRST = PRIORITY | {b"x-stream-offset": text_value("first")}


def read(arguments: dict[bytes, bytes], tag: bytes = b"c", *, no_ack: bool = False) -> bytes:
    return on(1, m.BasicConsume(0, b"s", tag, False, no_ack, False, False, pack_table(arguments)))


def place(offset: int) -> dict[bytes, bytes]:
    return {b"x-stream-offset": b"l" + U64.pack(offset)}


def streamed(tag: int, offset: int, *, to: bytes = b"c", body: bytes = b"m", piece_bytes: int = 100_000) -> bytes:
    """A delivery as a stream's broker sends it, behind properties and headers of the publisher's."""
    headers = pack_table({b"a": text_value("x-stream-offsetl")} | place(offset) | {b"z": b"t\x01"})
    start = CLASS_BASIC.pack(60, 0, len(body), 1 << 15 | 1 << 14 | 1 << 13 | 1 << 12)
    header = frame(HEADER, 1, start + shortstr(b"text/plain") + shortstr(b"gzip") + longstr(headers) + b"\x02")
    method, _, *bodies = frames_of(deliver(1, tag, body, to=to, piece_bytes=piece_bytes))
    return b"".join((method, header, *bodies))


def reading(arguments: dict[bytes, bytes], **given):
    story = (with_channel(**given) >> FromClient(read(arguments))).forget()
    return (story >> FromBroker(consume_ok(1))).forget()


@pytest.mark.parametrize("arguments", [FIRST, PRIORITY | place(3), {}])
def test_a_reader_reads_on_behind_what_it_has_seen(arguments):
    story = reading(arguments) >> FromBroker(streamed(1, 7), streamed(2, 8)) << ToClient(streamed(1, 7), streamed(2, 8))
    story = story >> FailOver() << ToBroker(REOPENED, read(arguments | place(9))) >> FromBroker(OPENED, consume_ok(1))
    story = story >> FromBroker(streamed(1, 9)) << ToClient(streamed(3, 9))
    (story >> FailOver("rabbit3:5672") << ToBroker(REOPENED, read(arguments | place(10)))).done()


def test_a_reader_that_has_seen_nothing_begins_as_it_asked_to():
    (reading(FIRST) >> FailOver() << ToBroker(REOPENED, read(FIRST))).done()


def test_half_a_delivery_has_not_been_seen():
    *most, _ = frames_of(streamed(2, 8, body=b"abc", piece_bytes=1))
    story = (reading(FIRST) >> FromBroker(streamed(1, 7), *most)).forget()
    (story >> FailOver() << ToBroker(REOPENED, read(FIRST | place(8)))).done()


def test_an_empty_message_and_one_that_comes_in_pieces_have_been_seen():
    story = (reading(FIRST) >> FromBroker(streamed(1, 7, body=b""))).forget()
    story = (story >> FailOver() << ToBroker(REOPENED, read(FIRST | place(8)))) >> FromBroker(OPENED, consume_ok(1))
    for piece in frames_of(streamed(1, 8, body=b"abc", piece_bytes=1)):
        story = story >> FromBroker(piece)
    story = story << ToClient(streamed(2, 8, body=b"abc", piece_bytes=1))
    (story >> FailOver("rabbit3:5672") << ToBroker(REOPENED, read(FIRST | place(9)))).done()


def test_a_delivery_too_large_to_hold_counts_with_its_last_byte():
    story = reading(FIRST, delivery_hold_bytes_max=4096)
    *most, last = frames_of(streamed(1, 7, body=bytes(9000), piece_bytes=3000))
    story = story >> FromBroker(*most) << ToClient(*most) >> FromBroker(last) << ToClient(last)
    (story >> FailOver() << ToBroker(REOPENED, read(FIRST | place(8)))).done()


def test_each_reader_has_its_own_place():
    story = (reading(FIRST) >> FromClient(read({}, b"d"), consume(1, b"q", b"e"))).forget()
    story = (story >> FromBroker(consume_ok(1, b"d"), consume_ok(1, b"e"))).forget()
    seen = streamed(1, 7), streamed(2, 3, to=b"d"), deliver(1, 3, to=b"e"), streamed(4, 8), streamed(5, 4, to=b"d")
    story = (story >> FromBroker(*seen)).forget() >> FailOver()
    (story << ToBroker(REOPENED, read(FIRST | place(9)), read(place(5), b"d"), consume(1, b"q", b"e"))).done()


def test_what_a_broker_said_before_a_mistake_of_its_own_has_been_seen():
    story = reading(FIRST) >> FromBroker(streamed(1, 7), streamed(1, 8)) << ToClient(streamed(1, 7))
    story = story << Dial(2, frozenset({"rabbit1:5672"}), True) >> Handshaken()
    (story << ToBroker(REOPENED, read(FIRST | place(8)))).done()


def test_a_confirm_before_a_mistake_of_the_brokers_is_told():
    story = (confirming() >> FromClient(publish(1))).forget()
    story = (
        story >> FromBroker(ack(1, 1), bytes(8)) << ToClient(ack(1, 1)) << Dial(2, frozenset({"rabbit1:5672"}), True)
    )
    (story >> Handshaken() << ToBroker(REOPENED, HIDDEN_CONFIRMS)).done()


def test_ordinary_deliveries_are_looked_at_once():
    story = consuming()
    assert story.session.journal.channels[1].readers
    story = (story >> FromBroker(deliver(1, 1))).forget()
    assert story.session.journal.channels[1].readers is None
    assert with_channel().session.journal.channels[1].readers is None
    assert consuming(no_ack=True).session.journal.channels[1].readers is None


def test_the_copy_of_a_streams_message_in_another_queue_has_no_place():
    """Queues of other types refuse the argument (406), so the channel gets its consumer as it was."""
    story = reading({}) >> FromBroker(streamed(1, 7)) << ToClient(streamed(1, 7))
    story = story >> FailOver() << ToBroker(REOPENED, read(place(8)))
    text = b"PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue 's' in vhost '/' of queue type rabbit_quorum"
    story = story >> FromBroker(OPENED, on(1, m.ChannelClose(406, text))) << ToBroker(on(1, m.ChannelCloseOk()))
    story = story >> After(1.0) << ToBroker(REOPENED, read({})) >> FromBroker(OPENED, consume_ok(1))
    story = story >> FromBroker(streamed(1, 9)) << ToClient(streamed(2, 9))
    (story >> FailOver("rabbit3:5672") << ToBroker(REOPENED, read({}))).done()


def test_an_offset_that_does_not_grow_is_none():
    story = (reading({}) >> FromBroker(streamed(1, 7), streamed(2, 7))).forget()
    (story >> FailOver() << ToBroker(REOPENED, read({}))).done()


@pytest.mark.parametrize("value", [b"S\x00\x00\x00\x01x", b"l" + b"\xff" * 8, b"V"])
def test_what_is_no_offset_is_passed_on_and_not_believed(value):
    method, _, body = frames_of(deliver(1, 1))
    headers = longstr(pack_table({b"x-stream-offset": value}))
    odd = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, 1 << 13) + headers)
    torn = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, 1 << 13) + headers[:-1])
    story = reading({}) >> FromBroker(method, odd, body) << ToClient(method, odd, body)
    second, _, body = frames_of(deliver(1, 2))
    story = story >> FromBroker(second, torn, body) << ToClient(second, torn, body)
    (story >> FailOver() << ToBroker(REOPENED, read({}))).done()


def test_a_copy_of_a_stream_that_is_not_open_yet_is_waited_for():
    story = (reading(FIRST) >> FromBroker(streamed(1, 7))).forget()
    story = story >> FailOver() << ToBroker(REOPENED, read(FIRST | place(8)))
    for _ in range(5):
        story = story >> FromBroker(OPENED, NO_COPY) << ToBroker(on(1, m.ChannelCloseOk()))
        story = story >> After(3.0) << ToBroker(REOPENED, read(FIRST | place(8)))
    (story >> FromBroker(OPENED, consume_ok(1), streamed(1, 8)) << ToClient(streamed(2, 8))).done()


def without_a_copy():
    """A reader has got something, and the next broker has refused it until another one is asked for."""
    story = (reading(FIRST) >> FromBroker(streamed(1, 7))).forget()
    story = story >> FailOver() << ToBroker(REOPENED, read(FIRST | place(8)))
    for _ in range(5):
        story = (
            (story >> FromBroker(OPENED, NO_COPY)).forget() >> After(3.0) << ToBroker(REOPENED, read(FIRST | place(8)))
        )
    return story >> FromBroker(OPENED, NO_COPY) << ToBroker(on(1, m.ChannelCloseOk()))


def test_a_broker_without_a_copy_of_a_stream_is_left_for_one_that_has_it():
    story = without_a_copy()
    story.old = story.session.attachment.generation
    story = story >> After(0.0) << Dial(3, frozenset({"rabbit2:5672"}), True)
    story = (story >> Handshaken("rabbit3:5672")).forget() >> After(3.0) << ToBroker(REOPENED, read(FIRST | place(8)))
    story << ToOld(on(0, m.ConnectionClose(200, b"moved to another broker")))
    (story >> FromBroker(OPENED, consume_ok(1), streamed(1, 8)) << ToClient(streamed(2, 8))).done()


def test_brokers_without_a_copy_are_all_avoided():
    story = without_a_copy()
    story.old = story.session.attachment.generation
    story = (story >> After(0.0)).forget() >> Handshaken("rabbit3:5672")
    story = (story.forget() >> FromOld(on(0, m.ConnectionCloseOk()))).forget() >> After(3.0)
    story = (story.forget() >> FromBroker(OPENED, NO_COPY)).forget() >> After(3.0)
    story << Dial(4, frozenset({"rabbit2:5672", "rabbit3:5672"}), True)


def test_a_search_for_a_copy_that_leads_back_is_over():
    story = without_a_copy() >> After(0.0)
    story = story.forget() >> BrokerUp("rabbit2:5672") >> After(0.0)
    story << Sees("one connection", lambda s: len(s.journal.uplinks) == 1 and s.move.start_at is not None)


def test_a_channel_that_is_opened_anew_reads_on():
    """A stream's broker gives nothing out again, whatever was not acknowledged."""
    story = (reading(FIRST) >> FromClient(on(1, m.ConfirmSelect(True)))).forget()
    story = (story >> FromBroker(bare(1, m.ident(85, 11)), streamed(1, 7))).forget()
    story.troubled = True
    story = (story >> FromClient(publish(1))).forget() >> FromBroker(nack(1, 1))
    story = story << ToBroker(on(1, m.ChannelClose(200, b"set up again")))
    story = (story >> FromBroker(streamed(2, 8), on(1, m.ChannelCloseOk()))).forget() >> After(1.0)
    (story << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1), read(FIRST | place(8)))).done()


def test_a_reader_moves_once_its_place_is_known_whatever_its_client_holds():
    story = reading(FIRST)
    assert describe(story.session)["movable"] is False
    story = (story >> FromBroker(streamed(1, 7))).forget()
    assert describe(story.session)["movable"] is True
    story = (story >> Leave() >> After(5.0)).forget() >> Handshaken() << ToOld(on(1, m.BasicCancel(b"c", False)))
    story = story >> FromOld(streamed(2, 8), bare(1, m.ident(60, 31), b"\x01c")) << ToClient(streamed(2, 8))
    story = story << ToOld(on(1, m.ChannelClose(200, b"set up again")))
    story = story >> FromOld(on(1, m.ChannelCloseOk())) << ToBroker(REOPENED, read(FIRST | place(9)))
    (story << ToOld(on(0, m.ConnectionClose(200, b"moved to another broker")))).done()


@pytest.mark.parametrize("kind", ["consumed", "got"])
def test_a_reader_whose_client_holds_on_to_something_else_reads_on_where_it_is(kind):
    story = reading(FIRST, move_timeout_s=10.0, heartbeat_s=3600)
    if kind == "got":
        other = get_ok(1, 2)
        story = (story >> FromBroker(streamed(1, 7))).forget() >> FromClient(on(1, m.BasicGet(0, b"q", False)))
    else:
        other = deliver(1, 2, to=b"d")
        story = (story.forget() >> FromClient(consume(1, b"q", b"d"))).forget() >> FromBroker(consume_ok(1, b"d"))
        story = story.forget() >> FromBroker(streamed(1, 7))
    story = (story.forget() >> FromBroker(other, streamed(3, 8))).forget()
    story = (story >> Leave() >> After(5.0)).forget() >> Handshaken()
    ended = [bare(1, m.ident(60, 31), shortstr(tag)) for tag in (b"c", b"d")[: 1 if kind == "got" else 2]]
    story = (story.forget() >> FromOld(*ended) >> After(10.0)) << ToOld(read(FIRST | place(9)))
    story.forget().done()
