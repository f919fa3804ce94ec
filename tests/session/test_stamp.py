"""Each publish of a client bears a mark, by which whoever gets it can tell a copy; the client itself never sees one."""

from __future__ import annotations

import random

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import HEADER, frame
from proxy.amqp.wire import U32, longstr, pack_table, shortstr, text_value
from proxy.session.commands import LookAround
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    OPEN_OK,
    REOPENED,
    After,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Sees,
    ToBroker,
    ToClient,
    confirming,
    with_channel,
)
from tests.support.engine_frames import CLASS_BASIC, ack, bare, content, frames_of, on, publish

TOKEN = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=22)).encode()
HEADERS = 1 << 13
REPLAY = {b"x-sidehop-replay": b"t\1"}


def mark(number: int) -> dict[bytes, bytes]:
    return {b"x-sidehop-id": text_value(b"%b-%d" % (TOKEN, number))}


def properties(table: dict[bytes, bytes], more: int = 0, before: bytes = b"", behind: bytes = b"") -> bytes:
    """Property flags and properties of a content header."""
    flags = more | (HEADERS if table else 0)
    return flags.to_bytes(2, "big") + before + (longstr(pack_table(table)) if table else b"") + behind


def marked(number: int, body: bytes = b"m", *, again: bool = False, mandatory: bool = True, **given) -> bytes:
    """A publish as the broker gets it."""
    table = mark(number) | (REPLAY if again else {})
    return publish(1, body, mandatory=mandatory, properties=properties(table), **given)


def back(number: int, body: bytes = b"m", *, again: bool = False) -> bytes:
    """The same, returned."""
    table = mark(number) | (REPLAY if again else {})
    return on(1, m.BasicReturn(312, b"NO_ROUTE", b"", b"q")) + content(1, body, properties=properties(table))


def stamping(**given):
    return confirming(publish_ids=True, **given)


def test_each_publish_gets_its_own_mark():
    story = stamping() >> FromClient(publish(1), publish(1, b"")) << ToBroker(marked(1), marked(2, b""))
    story = story >> FromBroker(ack(1, 2, multiple=True)) << ToClient(ack(1, 2, multiple=True))
    (story >> FromClient(publish(1, b"x" * 9, piece_bytes=4)) << ToBroker(marked(3, b"x" * 9, piece_bytes=4))).done()


def test_nothing_is_marked_unless_it_is_asked_for():
    (confirming() >> FromClient(publish(1)) << ToBroker(publish(1, mandatory=True))).done()


def test_publishers_without_confirms_and_in_transactions_get_marks():
    story = with_channel(publish_ids=True) >> FromClient(publish(1)) << ToBroker(HIDDEN_CONFIRMS, marked(1))
    story.done()
    asked, done = bare(1, m.ident(90, 10)), bare(1, m.ident(90, 11))
    story = (with_channel(publish_ids=True) >> FromClient(asked) << ToBroker(asked) >> FromBroker(done)).forget()
    (story >> FromClient(publish(1)) << ToBroker(marked(1, mandatory=False))).done()


OWN = {b"a": b"t\1", b"n": text_value(b"x-sidehop")}
COPIED = {b"x-sidehop-id": text_value(b"other-7"), b"x-sidehop-replay": b"t\1", b"a": b"t\1"}
AROUND = {
    "more": 1 << 15 | 1 << 14 | 1 << 12,
    "before": shortstr(b"text/plain") + shortstr(b"gzip"),
    "behind": b"\2",
}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (properties(OWN), properties(mark(1) | OWN)),
        (properties(OWN, **AROUND), properties(mark(1) | OWN, **AROUND)),
        (properties({}, **AROUND), properties(mark(1), **AROUND)),
        (properties(COPIED), properties(mark(1) | {b"a": b"t\1"})),
    ],
)
def test_what_the_client_says_of_a_message_stays_as_it_is(given, sent):
    story = stamping() >> FromClient(publish(1, properties=given))
    (story << ToBroker(publish(1, properties=sent, mandatory=True))).done()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x20\x00",
        b"\x20\x00\0\0",
        b"\x20\x00" + U32.pack(9) + b"short",
        b"\x80\x00\xffshort",
        b"\xe0\x00\xffshort",
        b"\x00\x01\0\0",
    ],
)
def test_what_is_no_header_is_left_to_the_broker(nonsense):
    story = stamping() >> FromClient(publish(1, properties=nonsense))
    (story << ToBroker(publish(1, properties=nonsense, mandatory=True))).done()


def test_a_copied_mark_in_a_table_that_is_none_is_left_to_the_broker():
    table = b"\x0cx-sidehop-id?"
    method, _, body = frames_of(publish(1, mandatory=True))
    given = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, HEADERS) + longstr(table))
    sent = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, HEADERS) + longstr(pack_table(mark(1)) + table))
    (stamping() >> FromClient(method, given, body) << ToBroker(method, sent, body)).done()


def test_a_header_without_room_for_a_mark_gets_none():
    full = properties({b"k": text_value(b"x" * 131000)})
    (
        stamping() >> FromClient(publish(1, properties=full)) << ToBroker(publish(1, properties=full, mandatory=True))
    ).done()


def test_a_mark_is_put_on_when_its_header_is_here():
    whole = publish(1, b"abc")
    story = stamping() >> FromClient(whole[:-9]) << ToBroker(*frames_of(marked(1, b"abc"))[:2])
    (story >> FromClient(whole[-9:]) << ToBroker(*frames_of(marked(1, b"abc"))[2:])).done()
    story = stamping() >> FromClient(whole[:30]) << ToBroker(*frames_of(marked(1, b"abc"))[:1])
    (story >> FromClient(whole[30:]) << ToBroker(*frames_of(marked(1, b"abc"))[1:])).done()


def test_what_is_sent_again_keeps_its_mark_and_says_so():
    story = (stamping() >> FromClient(publish(1, b"a"), publish(1, b"b"))).forget()
    story = (story >> FailOver()) << ToBroker(
        REOPENED, HIDDEN_CONFIRMS, marked(1, b"a", again=True), marked(2, b"b", again=True)
    )
    story = (story >> FromBroker(on(1, OPEN_OK))) >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1))
    story = story >> FromClient(publish(1, b"c")) << ToBroker(marked(3, b"c"))
    story = (story >> FailOver()) << ToBroker(
        REOPENED, HIDDEN_CONFIRMS, marked(2, b"b", again=True), marked(3, b"c", again=True)
    )
    story.done()


def test_what_no_broker_has_got_whole_is_no_repetition():
    method, header, body = frames_of(publish(1, b"abc"))
    story = (stamping() >> FromClient(method, header)).forget()
    story = (story >> FailOver()) << ToBroker(REOPENED, HIDDEN_CONFIRMS, *frames_of(marked(1, b"abc"))[:2])
    (story >> FromBroker(on(1, OPEN_OK)) >> FromClient(body) << ToBroker(body)).done()


def test_what_waits_for_a_broker_is_marked_once():
    story = (stamping() >> FromBroker(on(0, m.ConnectionClose(320, b"reason 'shutdown'", 0, 0)))).forget()
    story = story >> FromClient(publish(1)) >> Handshaken()
    (story << ToBroker(REOPENED, HIDDEN_CONFIRMS, marked(1))).done()


@pytest.mark.parametrize("unroutable", ["retry", "pass"])
@pytest.mark.parametrize("again", [False, True])
def test_what_comes_back_looks_as_it_was_published(unroutable, again):
    story = (stamping(unroutable=unroutable) >> FromClient(publish(1, mandatory=True))).forget()
    if again:
        story = ((story >> FailOver()).forget() >> FromBroker(on(1, OPEN_OK))).forget()
    plain = on(1, m.BasicReturn(312, b"NO_ROUTE", b"", b"q")) + content(1, b"m")
    story = story >> FromBroker(back(1, again=again), ack(1, 1))
    if unroutable == "retry":  # the broker is asked twice before it is believed
        courier = story.session.journal.courier
        story = (story << LookAround() >> After(0.5)).forget()
        story = story >> FromBroker(on(courier, OPEN_OK), back(courier, again=again), ack(courier, 1))
    (story << ToClient(plain, ack(1, 1))).done()


def test_a_return_that_is_broken_is_shown_as_it_is():
    story = (stamping(unroutable="pass") >> FromClient(publish(1, mandatory=True))).forget()
    broken = on(1, m.BasicReturn(312, b"NO_ROUTE", b"", b"q")) + content(1, b"m", properties=b"\x20\x00")
    (story >> FromBroker(broken) << ToClient(broken)).done()


def test_what_no_queue_took_is_known_by_its_mark_though_the_broker_wrote_the_rest_anew():
    story = (stamping(troubled=True) >> FromClient(publish(1), publish(1))).forget()
    other = properties({b"new": b"t\1"} | mark(2))
    returned = on(1, m.BasicReturn(312, b"NO_ROUTE", b"", b"q")) + content(1, b"m", properties=other)
    story = story >> FromBroker(returned) << Sees("the second", lambda s: s.journal.channels[1].withheld == {2})
    (story >> FromBroker(ack(1, 2, multiple=True)) << ToClient(ack(1, 1))).done()


def test_what_was_tried_again_says_so_when_it_is_tried_once_more():
    story = (stamping(troubled=True) >> FromClient(publish(1))).forget()
    story = (story >> FromBroker(back(1), ack(1, 1)) >> After(0.1)).forget()
    courier = story.session.journal.courier
    story = (story >> FailOver()).forget() >> FromBroker(on(1, OPEN_OK)) >> After(0.2)
    first = frames_of(marked(1, again=True))
    expected = [each[:1] + courier.to_bytes(2, "big") + each[3:] for each in first]
    opened = (on(courier, m.ChannelOpen()), on(courier, m.ConfirmSelect(nowait=True)))
    (story << ToBroker(*opened, *expected)).done()
