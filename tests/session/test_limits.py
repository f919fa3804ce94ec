"""Brokers with other limits: bodies are cut to fit, and a broker is left out only for what cannot be made to fit."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.fragments import cut, largest_whole
from proxy.amqp.wire import shortstr
from proxy.session.commands import Dial
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    BrokerUp,
    FromBroker,
    FromClient,
    Leave,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    ToOld,
    confirming,
    consuming,
    greeted,
    running,
    with_channel,
)
from tests.support.engine_frames import (
    BROKER_OPEN_OK,
    BROKER_START,
    BROKER_TUNE,
    ack,
    consume,
    consume_ok,
    content,
    deliver,
    frames_of,
    on,
    publish,
    refusal,
    returned,
)

# Room for the body in a frame of 8192 bytes.
ROOM = 8184
BODY = bytes(range(256)) * 100
TUNE_OK = on(0, m.ConnectionTuneOk(2047, 8192, 5), m.ConnectionOpen(b"/"))


def tuned(story, frame_max: int = 8192, channel_max: int = 2047, endpoint: str = "small:5672"):
    """The next broker has introduced itself."""
    story = (story.forget() >> BrokerUp(endpoint)).forget()
    return story >> FromBroker(BROKER_START, on(0, m.ConnectionTune(channel_max, frame_max, 60)))


def failed_over(story, **limits: int):
    """The broker is lost, and the next one has other limits."""
    return tuned((story >> BrokerLost()).forget(), **limits).forget() >> FromBroker(BROKER_OPEN_OK)


def publish_with_headers(size: int) -> bytes:
    """A publish whose properties alone have this size."""
    start, header, *body = frames_of(publish(1))
    payload = header[7:-1] + b"p" * size
    return start + header[:3] + len(payload).to_bytes(4, "big") + payload + header[-1:] + b"".join(body)


def test_the_next_broker_is_asked_for_no_more_than_it_offers():
    (tuned((with_channel() >> BrokerLost()).forget()) << ToBroker(TUNE_OK)).done()


def test_a_body_is_cut_anew_for_a_broker_with_smaller_frames():
    story = failed_over(with_channel()) << ToBroker(REOPENED) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromClient(publish(1, BODY)) << ToBroker(HIDDEN_CONFIRMS, publish(1, BODY, piece_bytes=ROOM))).done()


def test_a_body_that_fits_is_left_as_it_is():
    story = failed_over(with_channel()) << ToBroker(REOPENED) >> FromBroker(on(1, m.ChannelOpenOk()))
    fits = publish(1, BODY[:ROOM]) + publish(1, b"", key=b"k") + publish(1, BODY, piece_bytes=1000)
    (story >> FromClient(fits) << ToBroker(HIDDEN_CONFIRMS, fits)).done()


def test_a_body_that_comes_byte_by_byte_is_cut_as_well():
    story = failed_over(confirming()) << ToBroker(REOPENED, HIDDEN_CONFIRMS) >> FromBroker(on(1, m.ChannelOpenOk()))
    whole = publish(1, BODY)
    for at in range(0, len(whole), 777):
        story.session.from_client(whole[at : at + 777], story.now)
    (story >> After(0) << ToBroker(publish(1, BODY, piece_bytes=ROOM))).done()


def test_what_no_broker_has_confirmed_is_cut_when_it_is_published_again():
    story = (confirming() >> FromClient(publish(1, BODY), publish(1, b"small"))).forget()
    again = publish(1, BODY, piece_bytes=ROOM), publish(1, b"small")
    story = failed_over(story) << ToBroker(REOPENED, HIDDEN_CONFIRMS, *again)
    (
        story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 2, multiple=True)) << ToClient(ack(1, 2, multiple=True))
    ).done()


def test_what_was_sent_while_there_was_no_broker_is_cut_as_well():
    story = (confirming() >> BrokerLost()).forget() >> FromClient(publish(1, BODY))
    story = tuned(story).forget() >> FromBroker(BROKER_OPEN_OK)
    (story << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1, BODY, piece_bytes=ROOM))).done()


def test_what_no_queue_took_is_cut_when_it_is_tried_again():
    story = confirming()
    story.troubled = True
    story = (story >> FromClient(publish(1, BODY))).forget()
    story = (story >> FromBroker(returned(1, BODY), ack(1, 1))).forget()
    story = failed_over(story).forget() >> FromBroker(on(1, m.ChannelOpenOk())) >> After(1.0)
    courier = b"".join(
        frame[:1] + (2047).to_bytes(2, "big") + frame[3:] for frame in frames_of(publish(1, BODY, piece_bytes=ROOM))
    )
    story << ToBroker(on(2047, m.ChannelOpen(), m.ConfirmSelect(nowait=True)), courier)


def test_a_wide_broker_after_a_narrow_one_gets_bodies_as_they_come():
    story = failed_over(with_channel()).forget() >> FromBroker(on(1, m.ChannelOpenOk()))
    story = failed_over(story, frame_max=131072) << ToBroker(REOPENED) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromClient(publish(1, BODY)) << ToBroker(HIDDEN_CONFIRMS, publish(1, BODY))).done()


def test_a_session_on_the_move_heeds_the_stricter_of_its_two_brokers():
    story = (with_channel() >> FromClient(publish(1))).forget() >> Leave() >> After(5.0)
    assert isinstance(story.commands.pop(), Dial)
    story = tuned(story).forget() >> FromClient(publish(1, BODY))
    (story << ToOld(publish(1, BODY, piece_bytes=ROOM))).done()


@pytest.mark.parametrize(
    "said",
    [
        publish_with_headers(9000),
        on(1, m.BasicConsume(0, b"q", b"c", False, False, False, False, b"t" * 9000)),
    ],
    ids=["headers", "arguments"],
)
def test_a_broker_that_cannot_take_what_has_to_be_said_again_is_not_used(said):
    story = (confirming() >> FromClient(said)).forget()
    story = tuned((story >> BrokerLost()).forget())
    reason = "its frame_max 8192 is too small for a frame that cannot be cut"
    story << Reported("failover_attempt_failed", {"endpoint": "small:5672", "reason": reason})


def test_a_broker_is_left_for_a_frame_that_it_cannot_take():
    story = failed_over(confirming()).forget() >> FromBroker(on(1, m.ChannelOpenOk()))
    large = publish_with_headers(9000)
    story = story >> FromClient(publish(1, b"before"), large)
    (
        story
        << Reported("failover_started", {"endpoint": "small:5672"})
        << Sees("why", lambda s: s.attachment.cause == "frame_too_large")
    )
    story = tuned(story.forget()) << Reported("failover_attempt_failed")
    story = (story.forget() >> After(2.0)).forget()
    story = tuned(story, frame_max=131072, endpoint="wide:5672").forget() >> FromBroker(BROKER_OPEN_OK)
    (story << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1, b"before"), large)).done()


@pytest.mark.parametrize("frame_max", [1, 8, 4095])
def test_a_broker_whose_frames_are_smaller_than_allowed_is_not_used(frame_max):
    tuned((with_channel() >> BrokerLost()).forget(), frame_max) << Reported("failover_attempt_failed")
    tuned(greeted(), frame_max) << Reported("failover_attempt_failed")


def small_framed(frame_max: int = 4096, broker: bytes = BROKER_TUNE):
    """A client that asks for small frames, up to what its broker is told."""
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    story = (story >> FromBroker(BROKER_START, broker)).forget()
    return story >> FromClient(on(0, m.ConnectionTuneOk(2045, frame_max, 0), m.ConnectionOpen(b"/")))


@pytest.mark.parametrize(
    ("client", "broker", "agreed"),
    [
        (4096, 131072, 12272),
        (8191, 131072, 16374),
        (8192, 131072, 8192),
        (4096, 0, 12272),
        (4096, 8192, 8192),
        (4096, 4096, 4096),
    ],
)
def test_a_client_with_small_frames_is_not_refused_by_brokers_that_demand_larger_ones(client, broker, agreed):
    story = small_framed(client, on(0, m.ConnectionTune(2047, broker, 60)))
    (story << ToBroker(on(0, m.ConnectionTuneOk(2047, agreed, 5), m.ConnectionOpen(b"/")))).done()


def small_framed_consumer():
    """Such a client that consumes from q as c."""
    story = (small_framed().forget() >> FromBroker(BROKER_OPEN_OK)).forget()
    for said, answer in ((on(1, m.ChannelOpen()), on(1, m.ChannelOpenOk())), (consume(1), consume_ok(1))):
        story = ((story >> FromClient(said)).forget() >> FromBroker(answer)).forget()
    return story


def test_deliveries_are_cut_for_a_client_with_smaller_frames_than_its_broker():
    came = deliver(1, 1, BODY, piece_bytes=12264) + deliver(1, 2, b"small")
    fit = deliver(1, 1, BODY, piece_bytes=4088) + deliver(1, 2, b"small")
    (small_framed_consumer() >> FromBroker(came) << ToClient(fit)).done()


def test_deliveries_that_come_in_halves_are_cut_all_the_same():
    came = deliver(1, 1, BODY, piece_bytes=12264)
    story = small_framed_consumer() >> FromBroker(came[:13000])
    (story >> FromBroker(came[13000:]) << ToClient(deliver(1, 1, BODY, piece_bytes=4088))).done()


def test_deliveries_to_a_client_whose_frames_are_large_enough_pass_as_they_are():
    (consuming() >> FromBroker(came := deliver(1, 1, BODY, piece_bytes=12264)) << ToClient(came)).done()


# Channels. RabbitMQ counts them, whatever their numbers are.


def test_a_broker_that_takes_fewer_channels_is_used_if_those_of_the_session_fit():
    story = tuned((with_channel(1, 2000) >> BrokerLost()).forget(), 131072, 4)
    story << ToBroker(on(0, m.ConnectionTuneOk(4, 131072, 5), m.ConnectionOpen(b"/")))
    (story >> FromBroker(BROKER_OPEN_OK) << ToBroker(REOPENED, on(2000, m.ChannelOpen()))).done()


def test_another_broker_is_looked_for_where_the_channels_do_not_fit():
    story = tuned((with_channel(1, 2, 3) >> BrokerLost()).forget(), 131072, 4)
    story << Reported("failover_attempt_failed", {"reason": "its channel_max 4 is too small for 3 channels"})


def test_channels_that_no_broker_has_room_for_are_closed_and_the_others_go_on():
    story = tuned((with_channel(1, 2, 3) >> BrokerLost()).forget(), 131072, 4)
    story = tuned(story.forget() >> After(1.0), 131072, 4)
    close = m.ChannelClose(506, b"RESOURCE_ERROR - the present broker takes 2 channels of a connection")
    story = story.forget() >> FromBroker(BROKER_OPEN_OK) << ToClient(on(3, close))
    story << Reported("channel_given_up", {"channel": 3}) << ToBroker(REOPENED, on(2, m.ChannelOpen()))
    (story >> FromClient(on(3, m.ChannelCloseOk()))).done()


def test_a_new_channel_beyond_the_present_brokers_number_is_refused_alone():
    story = failed_over(with_channel(1, 2), frame_max=131072, channel_max=4).forget()
    story = (story >> FromBroker(on(1, m.ChannelOpenOk()), on(2, m.ChannelOpenOk()))).forget()
    close = m.ChannelClose(506, b"RESOURCE_ERROR - the present broker takes 2 channels of a connection")
    story = (
        story >> FromClient(on(3, m.ChannelOpen())) << ToClient(on(3, close)) >> FromClient(on(3, m.ChannelCloseOk()))
    )
    story = story >> FromClient(on(2, m.ChannelClose(200, b"bye"))) << ToBroker(on(2, m.ChannelClose(200, b"bye")))
    story = story >> FromBroker(on(2, m.ChannelCloseOk())) << ToClient(on(2, m.ChannelCloseOk()))
    (story >> FromClient(on(3, m.ChannelOpen())) << ToBroker(on(3, m.ChannelOpen()))).done()


def test_a_broker_without_a_channel_for_the_client_is_never_used():
    story = tuned((running() >> BrokerLost()).forget(), 131072, 2) << Reported("failover_attempt_failed")
    tuned(story.forget() >> After(1.0), 131072, 2).done()


# The knife itself.


@pytest.mark.parametrize("end", [-1, -5000])
def test_what_is_no_whole_frame_is_left_to_the_scanner(end):
    region = b"xx" + content(1, BODY) + content(2, BODY)[:end]
    done, pos = cut(region, 2, 4088, 131072)
    assert (pos, done) == (0, content(1, BODY, 4088) + content(2, BODY)[:end])


def test_a_frame_beyond_all_sizes_is_left_to_the_scanner():
    region = content(1, BODY) + publish(1)
    assert cut(region, 0, 4088, len(BODY) - 1) == (region, 0)
    assert cut(region[:-1] + b"\0", 0, 4088, len(BODY))[0][-9:] == region[-9:-1] + b"\0"


def test_the_largest_that_cannot_be_cut_is_no_body():
    region = publish(1, BODY) + on(1, m.BasicConsume(0, b"q", b"c", False, False, False, False, b"t" * 300))
    assert largest_whole(region, 0, 2**31) == 4 + 2 + len(shortstr(b"q") + shortstr(b"c")) + 1 + 4 + 300
    assert largest_whole(b"", 0, 2**31) == 0
    assert refusal(largest_whole, region[:5], 0, 2**31) is None
