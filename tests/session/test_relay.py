"""The hot path: in the steady state bytes pass unchanged, and whatever a peer sends is at worst that peer's error."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.amqp import methods as m
from proxy.session.commands import Dial
from proxy.session.journal import Phase
from proxy.session.ledger import RUN_BYTES
from tests.support.engine import FailOver, FromBroker, FromClient, confirming, with_channel
from tests.support.engine_frames import (
    HEARTBEAT,
    ack,
    bare,
    consume,
    consume_ok,
    content,
    declare,
    deliver,
    frames_of,
    fresh,
    get_ok,
    nack,
    on,
    publish,
    reject,
)

CHANNELS = (1, 2, 3)
modest = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

bodies = st.binary(max_size=60)
sizes = st.sampled_from([3, 1000])


def interleaved(streams, order):
    """One stream out of several channels' frames, each channel's in order."""
    queues = {number: list(frames) for number, frames in streams.items() if frames}
    out = []
    for pick in order:
        if not queues:
            break
        number = sorted(queues)[pick % len(queues)]
        out.append(queues[number].pop(0))
        if not queues[number]:
            del queues[number]
    for rest in queues.values():
        out.extend(rest)
    return out


def pieces(stream, places):
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(edges)]


order = st.lists(st.integers(0, 5), max_size=80)
places = st.lists(st.integers(0, 100_000), max_size=25)
beats = st.lists(st.integers(0, 40), max_size=4)


def confirmed_channels():
    story = with_channel(*CHANNELS)
    for number in CHANNELS:
        story = (story >> FromClient(on(number, m.ConfirmSelect(True)))).forget()
        story = (story >> FromBroker(on(number, m.ConfirmSelectOk()))).forget()
    return story


def said(story, side):
    journal = story.session.journal
    out = journal.client_out if side == "client" else journal.uplink.out
    stream = b"".join(out)
    out.clear()
    return stream


publishes = st.dictionaries(st.sampled_from(CHANNELS), st.lists(st.tuples(bodies, sizes), max_size=4))


@modest
@given(publishes, order, places, beats)
def test_what_a_publisher_sends_arrives_to_the_byte(published, order, places, beats):
    story = confirmed_channels()
    frames, forced = (
        interleaved(
            {
                number: [
                    frame
                    for body, size in each
                    for frame in frames_of(publish(number, body, piece_bytes=size, mandatory=mandatory))
                ]
                for number, each in published.items()
            },
            order,
        )
        for mandatory in (False, True)
    )
    mixed = list(frames)
    for at in beats:
        mixed.insert(at % (len(mixed) + 1), HEARTBEAT)
    for piece in pieces(b"".join(mixed), places):
        story.session.from_client(fresh(piece), story.now)
    assert said(story, "broker") == b"".join(forced)
    channels = story.session.journal.channels
    assert {n: channels[n].ledger.unsettled for n in CHANNELS} == {n: len(published.get(n, ())) for n in CHANNELS}
    story._take()
    published = sum(map(len, frames))
    # Beside the bytes, each run takes something; a run is at least one frame.
    assert published <= story.session.journal.load.unsettled_bytes <= published + len(frames) * RUN_BYTES


@modest
@given(publishes, order, places)
def test_whatever_way_publishes_came_they_are_replayed_whole(published, order, places):
    story = confirmed_channels()
    whole = {
        number: [publish(number, body, piece_bytes=size) for body, size in each] for number, each in published.items()
    }
    streams = {number: [frame for one in each for frame in frames_of(one)] for number, each in whole.items()}
    for piece in pieces(b"".join(interleaved(streams, order)), places):
        story.session.from_client(fresh(piece), story.now)
    story._take()
    story = story.forget() >> FailOver()
    for number in CHANNELS:
        mine = b"".join(frame for frame in story.to_broker if frame[1:3] == number.to_bytes(2, "big"))
        again = [publish(number, body, piece_bytes=size, mandatory=True) for body, size in published.get(number, ())]
        assert mine == on(number, m.ChannelOpen(), m.ConfirmSelect(True)) + b"".join(again)


@modest
@given(publishes, order, places, beats)
def test_what_a_consumer_is_sent_arrives_whole_and_in_order(delivered, order, places, beats):
    story = with_channel(*CHANNELS)
    streams = {
        number: [
            frame
            for tag, (body, size) in enumerate(each, 1)
            for frame in frames_of(deliver(number, tag, body, piece_bytes=size))
        ]
        for number, each in delivered.items()
    }
    mixed = interleaved(streams, order)
    for at in beats:
        mixed.insert(at % (len(mixed) + 1), HEARTBEAT)
    for piece in pieces(b"".join(mixed), places):
        story.session.from_broker(1, fresh(piece), story.now)
    got = frames_of(said(story, "client"))
    for number in CHANNELS:
        mine = [frame for frame in got if frame[1:3] == number.to_bytes(2, "big")]
        assert mine == streams.get(number, [])
    assert len(got) == sum(map(len, streams.values()))


@modest
@given(st.data())
def test_acks_and_confirms_pass_unchanged_before_any_failover(data):
    story = confirming()
    story = (story >> FromClient(*[publish(1)] * 9)).forget()
    story = (story >> FromBroker(*[deliver(1, tag) for tag in range(1, 10)])).forget()
    tags = st.integers(1, 9)
    one, truth = st.just(1), st.booleans()
    forms = (
        st.builds(ack, one, tags, truth)
        | st.builds(nack, one, tags, truth, truth)
        | st.builds(reject, one, tags, truth)
    )
    answers = data.draw(st.lists(forms))
    story.session.from_client(fresh(b"".join(answers)), story.now)
    assert said(story, "broker") == b"".join(answers)
    confirms = data.draw(st.permutations(range(1, 10)))
    stream = b"".join(ack(1, tag) for tag in confirms)
    story.session.from_broker(1, fresh(stream), story.now)
    assert said(story, "client") == stream
    assert story.session.journal.load.unsettled_bytes == 0


# What a hostile or broken peer may send: legal frames, bent.
WORDS = [
    publish(1, b"body"), deliver(1, 1, b"body"), get_ok(1, 1), ack(1, 1), nack(1, 2, True), reject(1, 1), consume(1),
    consume_ok(1), declare(1), on(1, m.ChannelOpen()), on(1, m.ChannelOpenOk()), on(1, m.ChannelClose(406, b"x")),
    on(1, m.ChannelCloseOk()), on(0, m.ConnectionClose(320, b"x")), on(0, m.ConnectionCloseOk()), content(1, b"abc"),
    on(1, m.TxSelect()), on(1, m.ConfirmSelect(False)), bare(1, m.TX_COMMIT), bare(1, m.BASIC_GET_EMPTY, b"\0"),
    on(1, m.BasicGet(0, b"q", False)), on(1, m.BasicCancel(b"c", False)), on(0, m.ConnectionBlocked(b"x")),
    on(0, m.ConnectionUpdateSecret(b"s", b"r")), on(1, m.BasicQos(0, 1, False)), bare(1, m.BASIC_RETURN, b""),
    HEARTBEAT, on(1, m.ChannelFlow(True)), bare(1, m.BASIC_GET_OK), bare(1, m.BASIC_DELIVER),
    on(2046, m.ChannelOpenOk()), on(2047, m.ChannelOpenOk()),
    bare(1, m.BASIC_RECOVER, b"\x01"), bare(2047, m.ident(50, 11), b"\x01q\0\0\0\0\0\0\0\0"),
]  # fmt: skip


@st.composite
def hostile(draw):
    stream = bytearray(b"".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(stream) - 1))
        match draw(st.sampled_from(["set", "cut", "resize"])):
            case "set":
                stream[at] = draw(st.sampled_from([0, 1, 2, 3, 8, 206, 255]))
            case "cut":
                del stream[at : at + draw(st.integers(1, 3))]
            case "resize":
                stream = bytearray(
                    b"".join(
                        frame[:3] + max(0, len(frame) - 9).to_bytes(4, "big") + frame[7:-2] + b"\xce"
                        if index == at % 5 and len(frame) > 9
                        else frame
                        for index, frame in enumerate(frames_of(bytes(stream)))
                    )
                )
        if not stream:
            return b"\0"
    return bytes(stream)


def afterwards(story):
    """Play on until the engine has nothing more to do: it must neither raise nor wait for ever."""
    for _ in range(40):
        story._take()
        if story.session.journal.phase is Phase.ENDED:
            return
        if any(isinstance(command, Dial) for command in story.commands):
            story.session.dial_failed(story.session.attachment.generation, "", "no", story.now)
        story.commands.clear()
        story._pass(3.0)
        assert story.session.journal.load.parked_bytes >= 0
        assert story.session.journal.load.unsettled_bytes >= 0


hunts = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@hunts
@given(hostile(), places, st.sampled_from(["fresh", "moved", "half"]))
def test_nothing_a_client_sends_raises(stream, places, where):
    story = confirming() if where != "half" else with_channel(publish_guarantee="as_sent")
    if where == "half":
        story = (story >> FromClient(frames_of(publish(1))[0])).forget()
    if where != "fresh":
        story = (story >> FailOver()).forget()
    for piece in pieces(stream, places):
        story.session.from_client(fresh(piece), story.now)
        story.session.tick(story.now)
    afterwards(story)


@hunts
@given(hostile(), places, st.booleans())
def test_nothing_a_broker_sends_raises(stream, places, moved):
    story = (confirming() >> FromClient(consume(1), publish(1), on(1, m.BasicGet(0, b"q", False)))).forget()
    if moved:
        story = (story >> FailOver()).forget()
    generation = story.session.attachment.generation
    for piece in pieces(stream, places):
        story.session.from_broker(generation, fresh(piece), story.now)
        story.session.tick(story.now)
    afterwards(story)
