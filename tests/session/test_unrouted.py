"""Publishes that no queue takes while a broker is down: a confirm means stored."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import HEADER, frame
from proxy.session.channel import PASSES
from proxy.session.commands import LookAround
from proxy.session.requests import TX_ROUTES_MAX
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    ClientGone,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    confirming,
    with_channel,
)
from tests.support.engine_frames import (
    CLASS_BASIC,
    NO_PROPERTIES,
    ack,
    bare,
    consume,
    consume_ok,
    content,
    deliver,
    frames_of,
    nack,
    on,
    publish,
    returned,
)

COURIER = 2047
OPENED = on(COURIER, m.ChannelOpen(), m.ConfirmSelect(nowait=True))
OPEN_OK = on(COURIER, m.ChannelOpenOk())
CLOSE = on(1, m.ChannelClose(200, b"bye"))
CLOSE_OK = on(1, m.ChannelCloseOk())
COMMIT, COMMIT_OK = bare(1, m.TX_COMMIT), on(1, m.TxCommitOk())


def troubled(**given):
    """A confirming client in a cluster of which one broker is known to be down."""
    return confirming(troubled=True, **given)


def forced(*bodies, channel=COURIER, key=b"q"):
    return b"".join(publish(channel, body, mandatory=True, key=key) for body in bodies)


def sent(story, *bodies):
    return (story >> FromClient(*(publish(1, body) for body in bodies))).forget()


def astray(story=None):
    """One publish has come back, and the courier has it."""
    story = sent(story or troubled(), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1))
    return story >> After(0.1) << ToBroker(OPENED, forced(b"m")) >> FromBroker(OPEN_OK)


def test_publishes_become_mandatory_behind_the_clients_back():
    (confirming() >> FromClient(publish(1, b"a")) << ToBroker(forced(b"a", channel=1))).done()
    (with_channel() >> FromClient(publish(1, b"a")) << ToBroker(HIDDEN_CONFIRMS, forced(b"a", channel=1))).done()


@pytest.mark.parametrize("policy", [{"unroutable": "pass"}, {"publish_guarantee": "as_sent"}])
def test_or_stay_as_they_are(policy):
    hidden = () if "publish_guarantee" in policy else (HIDDEN_CONFIRMS,)
    story = with_channel(**policy) >> FromClient(publish(1, b"a"))
    (story << ToBroker(*hidden, publish(1, b"a"))).done()
    assert not (story.session.requests.forces_mandatory and story.session.journal.channels[1].ledgered)


def test_a_reply_by_direct_reply_to_is_not_forced():
    reply = publish(1, b"a", key=b"amq.rabbitmq.reply-to.g2dkABFyYWJiaXRAMQ")
    story = confirming() >> FromClient(reply)
    story._take()
    assert reply in b"".join(story.to_broker)


def test_what_comes_back_is_published_again_and_confirmed_when_a_queue_has_it():
    story = astray() >> FromBroker(ack(COURIER, 1)) << ToClient(ack(1, 1))
    assert story.done().journal.load.unsettled_bytes == 0
    assert story.session.journal.counters.unrouted == 1
    assert story.session.journal.counters.returns == 0


def test_its_neighbours_are_confirmed_meanwhile_one_by_one():
    story = sent(troubled(), b"a", b"b", b"c", b"d") >> FromBroker(returned(1, b"b"), ack(1, 3, multiple=True))
    story = story << ToClient(ack(1, 1), ack(1, 3)) >> FromBroker(ack(1, 4)) << ToClient(ack(1, 4))
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"b"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 2))).done()


def test_afterwards_confirms_pass_as_they_are():
    story = (astray() >> FromBroker(ack(COURIER, 1))).forget()
    story = sent(story, b"x", b"y") >> FromBroker(ack(1, 3, multiple=True)) << ToClient(ack(1, 3, multiple=True))
    assert story.done().journal.channels[1].confirm_path == PASSES


def test_it_is_tried_again_and_again_until_a_queue_takes_it():
    story = astray()
    for tag in range(1, 5):
        story = story >> FromBroker(returned(COURIER, b"m"), ack(COURIER, tag)) >> After(2.1)
        story = story << ToBroker(forced(b"m"))
    (story >> FromBroker(ack(COURIER, 5)) << ToClient(ack(1, 1))).done()


def test_when_the_time_is_over_the_client_is_told_that_it_is_not_stored():
    story = astray(troubled(failover_timeout_s=1.0)) >> FromBroker(returned(COURIER, b"m"), ack(COURIER, 1))
    story = without_a_queue(story, b"m") << ToClient(nack(1, 1))
    (story << Reported("publishes_unroutable", {"count": 1, "exchange": "", "routing_key": "q"})).done()


def test_one_that_the_courier_gets_no_answer_for_has_the_same_time_and_holds_up_no_other():
    story = astray(troubled(failover_timeout_s=10.0, heartbeat_s=600.0))
    story = (story >> FromClient(publish(1, b"n", key=b"other"))).forget()
    story = (story >> FromBroker(returned(1, b"n", key=b"other"), ack(1, 2))).forget() >> After(1.1)
    story = story << ToBroker(forced(b"n", key=b"other")) >> FromBroker(ack(COURIER, 2)) << ToClient(ack(1, 2))
    story = story >> After(10.0) << ToClient(nack(1, 1))
    assert story.session.unrouted.count == 0
    (story >> FromBroker(ack(COURIER, 1))).done()


def test_a_route_that_led_nowhere_is_not_believed_while_a_broker_is_down():
    unwell = []
    story = sent(confirming(heartbeat_s=3600), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1))
    story.session.journal.troubled = lambda _: bool(unwell)
    story = ((story.forget() >> After(0.5)).forget() >> FromBroker(returned(COURIER, b"m"), ack(COURIER, 1))).forget()
    unwell.append("rabbit1")
    story = sent(story, b"m") >> FromBroker(returned(1, b"m"), ack(1, 2))
    assert story.session.unrouted.count == 1


def test_what_is_alike_is_told_apart_by_its_order():
    story = sent(troubled(), b"a", b"b", b"a", b"b") >> FromBroker(returned(1, b"b"), returned(1, b"a"))
    story = story >> FromBroker(ack(1, 4, multiple=True)) << ToClient(ack(1, 1), ack(1, 4))
    (story >> After(0.1) << ToBroker(OPENED, forced(b"b", b"a"))).done()


def asked_back(story, body=b"m"):
    """A publish that its client made mandatory has come back, and would have been confirmed."""
    story = (story >> FromClient(publish(1, body, mandatory=True))).forget()
    return story >> FromBroker(returned(1, body), ack(1, 1))


def test_what_a_client_wants_back_is_published_again_as_well_while_a_broker_is_down() -> None:
    story = asked_back(troubled()) >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))
    assert story.done().journal.counters.returns == 0


def test_a_client_that_asks_for_returns_gets_them_when_the_cluster_is_well() -> None:
    story = asked_back(confirming(heartbeat_s=3600)) << LookAround() >> After(0.5) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, returned(COURIER), ack(COURIER, 1)) << ToClient(returned(1), ack(1, 1))
    assert story.session.journal.counters.returns == 1
    # From then on the broker is believed.
    story = (story >> FromClient(publish(1, b"n", mandatory=True))).forget()
    (story >> FromBroker(returned(1, b"n"), ack(1, 2)) << ToClient(returned(1, b"n"), ack(1, 2))).done()


def test_a_client_without_confirms_gets_its_returns_too_and_no_confirm() -> None:
    story = with_channel(heartbeat_s=3600) >> FromClient(publish(1, b"m", mandatory=True))
    story = story.forget() >> FromBroker(returned(1), ack(1, 1)) << LookAround() >> After(0.5)
    story = story << ToBroker(OPENED, forced(b"m")) >> FromBroker(OPEN_OK, returned(COURIER), ack(COURIER, 1))
    (story << ToClient(returned(1))).done()


@pytest.mark.parametrize(("confirms", "told"), [(True, nack(1, 1)), (False, returned(1))])
def test_what_a_client_wants_back_has_a_limit_to_its_wait_like_all(confirms, told) -> None:
    start = (confirming if confirms else with_channel)(troubled=True, failover_timeout_s=1.0)
    story = asked_back(start) >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, returned(COURIER), ack(COURIER, 1))
    (without_a_queue(story, b"m") << ToClient(told)).forget()


def test_a_reply_that_its_publisher_wants_back_is_delivered_or_not_but_never_twice() -> None:
    key = b"amq.rabbitmq.reply-to.g2dkABFyYWJiaXRAMQ"
    story = (troubled() >> FromClient(publish(1, b"m", mandatory=True, key=key))).forget()
    back = returned(1, key=key)
    (story >> FromBroker(back, ack(1, 1)) << ToClient(back, ack(1, 1))).done()


@pytest.mark.parametrize("first", [True, False])
def test_what_one_publish_asks_for_is_not_what_its_neighbour_asks_for(first) -> None:
    both = publish(1, b"a", mandatory=first) + publish(1, b"b", mandatory=not first)
    story = (confirming(heartbeat_s=3600) >> FromClient(both)).forget()
    story = story >> FromBroker(returned(1, b"a"), returned(1, b"b"), ack(1, 2, multiple=True)) << LookAround()
    story = story >> After(0.5) << ToBroker(OPENED, forced(b"a", b"b"))
    story = story >> FromBroker(OPEN_OK, returned(COURIER, b"a"), returned(COURIER, b"b"), ack(COURIER, 2, True))
    own = (returned(1, b"a"), ack(1, 1), ack(1, 2)) if first else (ack(1, 1), returned(1, b"b"), ack(1, 2))
    (story << ToClient(*own)).done()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("cut", [1, 3, 15])
def test_nor_when_the_neighbour_is_cut(first, cut) -> None:
    both = publish(1, b"a", mandatory=first) + publish(1, b"b", mandatory=not first)
    story = (confirming(heartbeat_s=3600) >> FromClient(both[:-cut])).forget()
    story = (story >> FromClient(both[-cut:])).forget()
    story = story >> FromBroker(returned(1, b"a"), returned(1, b"b"), ack(1, 2, multiple=True)) << LookAround()
    story = story >> After(0.5) << ToBroker(OPENED, forced(b"a", b"b"))
    story = story >> FromBroker(OPEN_OK, returned(COURIER, b"a"), returned(COURIER, b"b"), ack(COURIER, 2, True))
    own = (returned(1, b"a"), ack(1, 1), ack(1, 2)) if first else (ack(1, 1), returned(1, b"b"), ack(1, 2))
    (story << ToClient(*own)).done()


@pytest.mark.parametrize(("mode", "waits"), [(b"", False), (b"\x01", False), (b"\x02", True)])
def test_an_announcement_that_nobody_hears_is_not_waited_for(mode, waits) -> None:
    given = b"\x10\x00" + mode if mode else NO_PROPERTIES
    story = (troubled() >> FromClient(publish(1, b"m", exchange=b"news", properties=given))).forget()
    back = on(1, m.BasicReturn(312, b"NO_ROUTE", b"news", b"q")) + content(1, b"m", properties=given)
    story = story >> FromBroker(back, ack(1, 1))
    assert story.session.unrouted.count == waits
    (story << ToClient(*() if waits else (ack(1, 1),))).done()


def without_a_queue(story, body, rounds=6):
    """The courier gets back whatever it publishes, for some seconds or until something is given up."""
    for _ in range(rounds):
        story = story >> After(0.6)
        if any(report.event == "publishes_unroutable" for report in story.reports):
            story.to_broker[:] = [each for each in story.to_broker if each[1:3] != COURIER.to_bytes(2, "big")]
            break
        last = story.session.journal.uplink.courier_tag
        count = sum(frame[7:11] == b"\0\x3c\0\x28" for frame in story.to_broker)
        story.to_broker.clear()
        for tag in range(last - count + 1, last + 1):
            story = story >> FromBroker(returned(COURIER, body), ack(COURIER, tag))
    return story


def transacting(*bodies, **given):
    """A commit of publishes is on its way."""
    story = (with_channel(troubled=True, **given) >> FromClient(on(1, m.TxSelect()))).forget()
    story = (story >> FromBroker(on(1, m.TxSelectOk()))).forget()
    return story >> FromClient(*(publish(1, body) for body in bodies), COMMIT)


def test_what_no_queue_took_of_a_transaction_withholds_its_commit():
    story = transacting(b"m", b"n") << ToBroker(forced(b"m", b"n", channel=1), COMMIT)
    story = story >> FromBroker(returned(1, b"m"), COMMIT_OK) >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(COMMIT_OK)
    assert story.done().journal.load.unsettled_bytes == 0


def test_a_commit_waits_for_all_of_it_and_what_was_sent_behind_it_waits_as_well():
    story = transacting(b"m", b"n").forget() >> FromClient(COMMIT)
    story = (story >> FromBroker(returned(1, b"m"), returned(1, b"n"), COMMIT_OK) >> After(0.1)).forget()
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 1))
    (story >> FromBroker(ack(COURIER, 2)) << ToClient(COMMIT_OK) << ToBroker(COMMIT)).done()


def test_a_commit_that_finds_no_queue_in_time_ends_its_channel_with_the_truth():
    story = transacting(b"m", failover_timeout_s=1.0).forget() >> FromBroker(returned(1, b"m"), COMMIT_OK)
    story = without_a_queue(story, b"m") << Reported("publishes_unroutable", {"count": 1})
    text = b"INTERNAL_ERROR - committed, but not all of it found a queue in time"
    story = story << ToBroker(on(1, m.ChannelClose(200, b"set up again"))) >> FromBroker(CLOSE_OK)
    story = story << ToClient(on(1, m.ChannelClose(541, text, 90, 20)))
    assert not story.session.unrouted.count
    assert story.session.journal.load.unsettled_bytes == 0


def test_a_withheld_commit_survives_its_broker():
    story = (transacting(b"m").forget() >> FromBroker(returned(1, b"m"), COMMIT_OK)).forget() >> FailOver()
    story = story << ToBroker(REOPENED, on(1, m.TxSelect())) >> FromBroker(on(1, m.ChannelOpenOk(), m.TxSelectOk()))
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(COMMIT_OK)).done()


def test_what_came_back_of_a_commit_without_an_answer_is_the_clients_to_do_again():
    story = (transacting(b"m").forget() >> FromBroker(returned(1, b"m"))).forget()
    story = (story >> FailOver()).forget()
    assert not story.session.journal.live_channels()
    assert not story.session.unrouted.count


def mixed(*publishes):
    """A commit of publishes of which the client has made some mandatory itself is on its way."""
    story = transacting().forget() >> FromBroker(COMMIT_OK) << ToClient(COMMIT_OK)
    return (story >> FromClient(*publishes, COMMIT)).forget()


def test_a_transaction_whose_client_asks_for_returns_gets_them():
    story = mixed(publish(1, b"m", mandatory=True))
    (story >> FromBroker(returned(1, b"m"), COMMIT_OK) << ToClient(returned(1, b"m"), COMMIT_OK)).done()


def test_of_a_transaction_a_client_gets_back_what_it_asked_for_and_the_rest_is_published_again():
    story = mixed(publish(1, b"m", mandatory=True), publish(1, b"n", key=b"r"))
    mine, ours = returned(1, b"m"), returned(1, b"n", key=b"r")
    story = story >> FromBroker(mine, ours, COMMIT_OK) << ToClient(mine)
    again = publish(COURIER, b"n", key=b"r", mandatory=True)
    story = story >> After(0.1) << ToBroker(OPENED, again) >> FromBroker(OPEN_OK, ack(COURIER, 1))
    (story << ToClient(COMMIT_OK)).done()


def test_on_one_route_nobody_can_tell_whose_return_it_is_so_it_is_the_clients():
    story = mixed(publish(1, b"m", mandatory=True), publish(1, b"n"))
    (story >> FromBroker(returned(1, b"n"), COMMIT_OK) << ToClient(returned(1, b"n"), COMMIT_OK)).done()


def test_what_a_client_asked_for_in_one_transaction_is_not_asked_for_in_the_next():
    story = mixed(publish(1, b"m", mandatory=True)) >> FromBroker(COMMIT_OK) << ToClient(COMMIT_OK)
    story = (story >> FromClient(publish(1, b"n"), COMMIT)).forget() >> FromBroker(returned(1, b"n"), COMMIT_OK)
    (story >> After(0.1) << ToBroker(OPENED, forced(b"n")) >> FromBroker(OPEN_OK, ack(COURIER, 1))).forget().done()


def test_of_a_transaction_with_more_such_routes_than_are_kept_the_client_gets_all_that_comes_back():
    wanted = (publish(1, b"m", key=b"%d" % number, mandatory=True) for number in range(TX_ROUTES_MAX + 1))
    story = mixed(*wanted, publish(1, b"n"))
    (story >> FromBroker(returned(1, b"n"), COMMIT_OK) << ToClient(returned(1, b"n"), COMMIT_OK)).done()


def test_a_commit_of_which_a_session_may_not_keep_all_ends_its_channel_with_the_truth():
    large = bytes(40_000)
    story = transacting(large, large, unsettled_bytes_max=65536).forget()
    story = story >> FromBroker(returned(1, large), returned(1, large), COMMIT_OK)
    story = story << ToBroker(on(1, m.ChannelClose(200, b"set up again"))) >> FromBroker(CLOSE_OK) >> After(0.1)
    text = b"INTERNAL_ERROR - committed, but not all of it found a queue in time"
    (story << ToClient(on(1, m.ChannelClose(541, text, 90, 20)))).done()


def test_a_large_publish_of_a_transaction_comes_back_whole():
    large = bytes(100_000)
    story = transacting(large, delivery_hold_bytes_max=65536).forget() >> FromBroker(returned(1, large), COMMIT_OK)
    story = story >> After(0.1) << ToBroker(OPENED, forced(large)) >> FromBroker(OPEN_OK)
    (story >> FromBroker(ack(COURIER, 1)) << ToClient(COMMIT_OK)).done()


def test_one_that_is_larger_than_a_session_may_keep_is_returned_to_the_client():
    large = bytes(100_000)
    limits = {"delivery_hold_bytes_max": 65536, "unsettled_bytes_max": 65536}
    story = transacting(large, **limits).forget() >> FromBroker(*frames_of(returned(1, large)), COMMIT_OK)
    (story << ToClient(returned(1, large), COMMIT_OK)).done()


def believed(**given):
    """In a cluster that is well it came back twice."""
    story = (sent(confirming(**given), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1))).forget()
    return ((story >> After(0.5)).forget() >> FromBroker(returned(COURIER, b"m"), ack(COURIER, 1))).forget()


class TestInAClusterThatIsThoughtToBeWell:
    def test_somebody_looks_first_and_then_the_broker_is_believed(self):
        story = sent(confirming(), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1)) << LookAround()
        story = story >> After(0.5) << ToBroker(OPENED, forced(b"m"))
        (story >> FromBroker(returned(COURIER, b"m"), ack(COURIER, 1)) << ToClient(ack(1, 1))).done()

    def test_a_route_that_leads_nowhere_is_known_by_then(self):
        story = believed()
        story = sent(story, b"n") >> FromBroker(returned(1, b"n"), ack(1, 2)) << ToClient(ack(1, 2))
        assert story.done().unrouted.count == 0

    def test_and_forgotten_after_a_while(self):
        story = (believed(heartbeat_s=3600) >> After(60)).forget()
        story = (sent(story, b"n") >> FromBroker(returned(1, b"n"), ack(1, 2))).forget()
        assert story.session.unrouted.count == 1


def test_a_plain_publisher_never_hears_of_it():
    story = with_channel(troubled=True)
    story = sent(story, b"m") >> FromBroker(returned(1, b"m"), ack(1, 1)) >> After(0.1)
    (story << ToBroker(OPENED, forced(b"m")) >> FromBroker(OPEN_OK, ack(COURIER, 1))).done()


def test_what_no_publisher_hears_of_waits_for_as_long_as_there_is_room():
    story = sent(with_channel(troubled=True, failover_timeout_s=1.0), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1))
    assert without_a_queue(story, b"m").session.unrouted.count == 1


def test_beyond_that_the_oldest_of_them_are_given_up():
    large = bytes(20_000)
    story = sent(with_channel(troubled=True, failover_timeout_s=1.0, unsettled_bytes_max=65536), large, large)
    story = story >> FromBroker(returned(1, large), ack(1, 1), returned(1, large), ack(1, 2))
    story = without_a_queue(story, large) << Reported("publishes_unroutable", {"count": 1})
    assert without_a_queue(story.forget(), large).session.unrouted.count == 1


def test_a_plain_publishers_close_waits_for_it():
    story = sent(with_channel(troubled=True), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1)) >> FromClient(CLOSE)
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToBroker(CLOSE)).done()


def test_a_client_that_has_gone_leaves_it_to_us():
    story = sent(with_channel(troubled=True), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1)) >> ClientGone()
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 1))
    (story << ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))).done()


def test_a_client_that_closes_its_channel_hears_no_more_of_it_but_it_is_published():
    story = (astray() >> FromClient(CLOSE)).forget()
    story = (story >> FromBroker(on(1, m.ChannelCloseOk()))).forget()
    story = (story >> FromBroker(ack(COURIER, 1))).done()
    assert story.journal.load.unsettled_bytes == story.journal.load.withheld == 0


def test_it_survives_the_broker():
    story = astray() >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS)
    story = story >> FromBroker(on(1, m.ChannelOpenOk())) >> After(1.0) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))
    assert story.done().journal.counters.replayed_publishes == 1  # the lost broker may have stored it


def test_what_came_back_is_not_published_again_by_its_channel():
    story = sent(troubled(), b"a", b"b") >> FromBroker(returned(1, b"a"))
    story = story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, forced(b"b", channel=1))
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1)) << ToClient(ack(1, 2))
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"a"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))).done()


def test_no_broker_gets_it_while_none_is_there():
    story = sent(troubled(), b"a") >> FromBroker(returned(1, b"a")) >> BrokerLost()
    (story.forget() >> After(5)).done()


def test_a_publish_that_closes_the_courier_is_refused_and_the_others_go_on():
    story = sent(troubled(), b"a", b"b") >> FromBroker(returned(1, b"a"), returned(1, b"b"), ack(1, 2, multiple=True))
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"a", b"b"))
    gone = on(COURIER, m.ChannelClose(404, b"NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40))
    closed = on(COURIER, m.ChannelCloseOk())
    story = story >> FromBroker(OPEN_OK, gone) << ToBroker(closed) >> After(0.2) << ToBroker(OPENED, forced(b"a"))
    story = story >> FromBroker(OPEN_OK, gone) << ToBroker(closed) << ToClient(nack(1, 1))
    story = story >> After(0.5) << ToBroker(OPENED, forced(b"b"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 2))).done()


def test_a_broker_that_returns_something_else_to_the_courier_is_not_believed_to_have_stored_it():
    story = astray() >> FromBroker(returned(COURIER, b"another"))
    assert story.session.attachment.searching
    assert story.session.unrouted.count == 1


def test_a_poisoned_courier_is_opened_anew():
    story = astray() >> FromBroker(nack(COURIER, 1)) << ToBroker(on(COURIER, m.ChannelClose(200, b"opened anew")))
    story = story >> After(1.0) >> FromBroker(on(COURIER, m.ChannelCloseOk())) << ToBroker(OPENED, forced(b"m"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))).done()


def test_a_full_queue_refuses_it_in_the_end():
    story = sent(confirming(), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1)) << LookAround()
    story = story >> After(0.5) << ToBroker(OPENED, forced(b"m"))
    story = story >> FromBroker(OPEN_OK, nack(COURIER, 1)) << ToClient(nack(1, 1))
    (story << ToBroker(on(COURIER, m.ChannelClose(200, b"opened anew")))).done()


def test_a_large_one_comes_back_in_pieces():
    body = bytes(3_000_000)
    story = (troubled() >> FromClient(publish(1, body))).forget()
    for at in range(0, len(returned(1, body)), 65_536):
        story = story >> FromBroker(returned(1, body)[at : at + 65_536])
    story = story >> FromBroker(ack(1, 1)) >> After(0.1) << ToBroker(OPENED, forced(body))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))).done()


def test_a_broker_that_returns_what_nobody_published_is_left():
    story = (troubled() >> FromClient(publish(1, b"a"))).forget()
    story = story >> FromBroker(returned(1, bytes(2_000_000)))
    assert story.session.attachment.searching


def test_too_much_of_it_stops_the_client():
    story = troubled(unsettled_bytes_max=65536)
    for tag in range(1, 80):
        story = sent(story, bytes(1000)) >> FromBroker(returned(1, bytes(1000)), ack(1, tag))
    assert story.reading is False
    story << Sees("withheld", lambda session: session.journal.load.withheld == session.unrouted.count > 0)


def test_a_broker_that_writes_properties_anew_is_understood():
    head, _, body = frames_of(returned(1, b"m"))
    header = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 1, 0x1000) + b"\2")  # it has got a delivery mode
    story = sent(troubled(), b"m") >> FromBroker(head, header, body, ack(1, 1))
    story = story >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))).done()


def test_what_came_back_to_a_lost_courier_may_be_taken_from_the_next():
    story = astray() >> FromBroker(returned(COURIER, b"m")) >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS)
    story = story >> FromBroker(on(1, m.ChannelOpenOk())) >> After(0.1) << ToBroker(OPENED, forced(b"m"))
    (story >> FromBroker(OPEN_OK, ack(COURIER, 1)) << ToClient(ack(1, 1))).done()


def test_what_the_courier_of_a_broker_that_is_left_has_is_published_again_by_the_next_one():
    story = (astray(troubled(heartbeat_s=3600)) >> FromClient(on(2, m.ChannelOpen()), consume(2))).forget()
    story = (story >> FromBroker(on(2, m.ChannelOpenOk()), consume_ok(2), deliver(2, 1))).forget()
    story = ((story >> Leave() >> After(5.0)).forget() >> Handshaken()).forget()
    # Channel 1 moves, channel 2 waits for its client.
    story = (story >> FromOld(on(1, m.ChannelCloseOk()))).forget() >> FromBroker(on(1, m.ChannelOpenOk()))
    story = sent(story, b"n") >> FromBroker(returned(1, b"n"), ack(1, 1)) << ToBroker(OPENED, forced(b"m", b"n"))
    story = story >> FromBroker(OPEN_OK, ack(COURIER, 2, multiple=True)) << ToClient(ack(1, 1), ack(1, 2))
    assert story.session.journal.load.unsettled_bytes == 0
