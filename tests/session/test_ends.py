"""What no failover can hide is told smallest scope first, and counted: each cause of the catalogue has its story."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.net.census import Census
from proxy.reports import ENDS
from tests.session.test_cancellations import CANCEL, GONE, asked_again, away, never_back
from tests.session.test_limits import failed_over
from tests.session.test_restarts import CLOSED, unanswered
from tests.session.test_topology import CLASH, SCRATCH, asked, declare_ok, on_scratch, owning
from tests.session.test_unrouted import CLOSE_OK, COMMIT, COMMIT_OK, confirming, transacting, without_a_queue
from tests.support.engine import (
    After,
    BrokerLost,
    BrokerUp,
    ClientGone,
    DialFailed,
    FailOver,
    FromBroker,
    FromClient,
    ShutDown,
    Story,
    consuming,
    with_channel,
)
from tests.support.engine_frames import (
    BROKER_START,
    consume,
    consume_ok,
    declare,
    deliver,
    frames_of,
    on,
    publish,
    returned,
)

OPENED = on(1, m.ChannelOpenOk())
SCRATCH_OPENED = on(SCRATCH, m.ChannelOpenOk())


def counted(story: Story) -> dict[tuple[str, str], int]:
    """What a census makes of the last event, and of the end of the session if that is over."""
    census = Census(lambda _: True)
    for report in story.reports:
        if report.event != "failover_done":
            census.count(report, "lost")
    if story.session.ending.reason:
        census.ended(story.session.ending.reason)
    return {end: count for end, count in census.ends.items() if count}


def no_broker(story: Story) -> Story:
    """The session's broker is lost, and no other one is found within the second that it has."""
    story = (story >> BrokerLost()).forget() >> DialFailed("no endpoint")
    while not story.session.ending.reason:
        story = story.forget() >> After(0.1)
        if story.commands and not story.session.ending.reason:
            story = story.forget() >> DialFailed("no endpoint")
    return story


def inside_a_body() -> Story:
    *head, _ = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    return (consuming(delivery_hold_bytes_max=4096) >> FromBroker(*head)).forget() >> BrokerLost()


def login_refused() -> Story:
    refused = on(0, m.ConnectionClose(403, b"ACCESS_REFUSED - Login was refused"))
    story = (with_channel() >> BrokerLost()).forget() >> BrokerUp("rabbit2:5672")
    story = (story.forget() >> FromBroker(BROKER_START, refused)).forget() >> After(0)
    return (story.forget() >> BrokerUp("rabbit3:5672")).forget() >> FromBroker(BROKER_START, refused)


def bug() -> Story:
    story = with_channel()
    story.session.fail(story.now)
    return story


def transaction(*said: bytes) -> Story:
    story = (with_channel() >> FromClient(on(1, m.TxSelect()))).forget()
    story = (story >> FromBroker(on(1, m.TxSelectOk()))).forget()
    return (story >> FromClient(publish(1), *said)).forget() >> BrokerLost()


def commit_without_a_queue() -> Story:
    story = transacting(b"m", failover_timeout_s=1.0).forget() >> FromBroker(returned(1, b"m"), COMMIT_OK)
    return without_a_queue(story, b"m").forget() >> FromBroker(CLOSE_OK)


def not_answered() -> Story:
    return unanswered() >> FromBroker(CLOSED) >> After(0.1)


def consumer_refused(code: int, text: bytes) -> Story:
    """The replay of a consumer is refused again and again."""
    refused = on(1, m.ChannelClose(code, text, 60, 20))
    story = (consuming(failover_timeout_s=2.0) >> FailOver()).forget()
    while not story.to_client:
        story = story.forget() >> FromBroker(OPENED, refused)
        if not story.to_client:
            story = story.forget() >> After(1.0)
    return story


def queue_not_there() -> Story:
    return never_back(capabilities=()).forget() >> FromBroker(CLOSED) >> After(0.1)


def queue_lost() -> Story:
    return owning(lost_queues="tell") >> BrokerLost()


def too_many_channels() -> Story:
    story = failed_over(with_channel(1, 2), frame_max=131072, channel_max=4).forget()
    story = (story >> FromBroker(OPENED, on(2, m.ChannelOpenOk()))).forget()
    return story >> FromClient(on(3, m.ChannelOpen()))


def deleted() -> Story:
    return (consuming() >> FromBroker(CANCEL)).forget() >> GONE


def out_of_reach() -> Story:
    from tests.session.test_cancellations import AWAY, SCRATCH_OVER

    return asked_again(asked_again(away(home_down_timeout_s=8.0)) >> AWAY << SCRATCH_OVER) >> AWAY


def unacknowledged() -> Story:
    story = (consuming(no_ack=True) >> FromClient(consume(1, b"q", b"d"))).forget()
    return (story >> FromBroker(consume_ok(1, b"d"))).forget() >> BrokerLost()


def unconfirmed() -> Story:
    return no_broker((with_channel(failover_timeout_s=1.0) >> FromClient(publish(1), publish(1))).forget())


def unroutable() -> Story:
    story = confirming(troubled=True, failover_timeout_s=1.0) >> FromClient(publish(1, b"m"))
    return without_a_queue(story.forget() >> FromBroker(returned(1, b"m"), on(1, m.BasicAck(1, False))), b"m")


def came_back_empty() -> Story:
    story = asked(owning(), (declare(1, b"y", exclusive=False), declare_ok(1, b"y")))
    used = on_scratch(on(1, m.QueueDeclareOk(b"y", 5, 0)))
    return (story >> FailOver()).forget() >> FromBroker(SCRATCH_OPENED, on_scratch(declare_ok(1)), used)


def clash() -> Story:
    return (owning() >> FailOver()).forget() >> FromBroker(SCRATCH_OPENED, on(SCRATCH, CLASH))


STORIES = {
    ("connection", "no_broker"): lambda: no_broker(with_channel(failover_timeout_s=1.0)),
    ("connection", "lost_inside_body"): inside_a_body,
    ("connection", "refused"): login_refused,
    ("connection", "internal_error"): bug,
    ("channel", "transaction_rolled_back"): transaction,
    ("channel", "commit_unknown"): lambda: transaction(COMMIT),
    ("channel", "commit_unroutable"): commit_without_a_queue,
    ("channel", "not_answered"): not_answered,
    ("channel", "not_found"): queue_not_there,
    ("channel", "resource_locked"): lambda: consumer_refused(405, b"RESOURCE_LOCKED - locked queue 'q'"),
    ("channel", "precondition_failed"): clash,
    ("channel", "queue_lost"): queue_lost,
    ("channel", "access_refused"): lambda: consumer_refused(403, b"ACCESS_REFUSED - in exclusive use"),
    ("channel", "refused"): lambda: consumer_refused(541, b"INTERNAL_ERROR"),
    ("channel", "too_many_channels"): too_many_channels,
    ("consumer", "queue_gone"): deleted,
    ("consumer", "queue_out_of_reach"): out_of_reach,
    ("consumer", "no_ack"): unacknowledged,
    ("publish", "unconfirmed"): unconfirmed,
    ("publish", "unroutable"): unroutable,
    ("topology", "recreated_empty"): came_back_empty,
    ("topology", "not_restored"): clash,
}
# Where one cause brings another with it, or is counted more than once.
MORE = {
    ("channel", "precondition_failed"): {("topology", "not_restored"): 1},
    ("topology", "not_restored"): {("channel", "precondition_failed"): 1},
    ("channel", "queue_lost"): {("topology", "not_restored"): 1},
    ("publish", "unconfirmed"): {("publish", "unconfirmed"): 2, ("connection", "no_broker"): 1},
}


@pytest.mark.parametrize("end", STORIES, ids=" ".join)
def test_what_no_failover_can_hide_is_counted_by_its_cause(end):
    story = STORIES[end]()
    assert counted(story) == {end: 1} | MORE.get(end, {})


def test_every_cause_of_the_catalogue_has_a_story():
    assert set(STORIES) == {(scope, cause) for scope, causes in ENDS.items() for cause in causes}


def test_an_end_that_the_client_or_an_operator_wants_is_none_of_them():
    asked_for = (FromClient(on(0, m.ConnectionClose(200, b"bye"))), ClientGone(), ShutDown())
    assert [counted((consuming() >> end).forget()) for end in asked_for] == [{}, {}, {}]


def test_what_a_broker_says_to_a_client_that_is_at_rest_is_its_own_affair():
    fault = on(0, m.ConnectionClose(503, b"COMMAND_INVALID"))
    assert counted((with_channel() >> FromBroker(fault)).forget()) == {}


def test_parked_publishes_count_as_dropped_and_other_words_do_not():
    story = (with_channel(failover_timeout_s=1.0) >> BrokerLost()).forget()
    story = (story >> FromClient(publish(1), publish(1), on(1, m.QueuePurge(0, b"q", False)))).forget() >> After(2.0)
    assert counted(story)["publish", "unconfirmed"] == 2


def test_publishes_of_a_client_that_waits_for_confirms_are_not_dropped_behind_its_back():
    story = no_broker((confirming(failover_timeout_s=1.0) >> FromClient(publish(1))).forget())
    assert counted(story) == {("connection", "no_broker"): 1}


def test_a_queue_that_is_declared_once_more_for_another_one_is_counted_once():
    story = (asked(owning(), (declare(1, b"y"), declare_ok(1, b"y"))) >> FailOver()).forget()
    locked = on(SCRATCH, m.ChannelClose(404, b"NOT_FOUND", 50, 10))
    story = (story >> FromBroker(SCRATCH_OPENED, on_scratch(declare_ok(1)), locked)).forget() >> After(0.1)
    story = story.forget() >> FromBroker(SCRATCH_OPENED, *(on_scratch(declare_ok(1, name)) for name in (b"x", b"y")))
    assert counted(story) == {("topology", "recreated_empty"): 2}


def test_a_queue_that_dies_with_its_own_node_is_counted_once_more():
    own = declare(1, b"q", exclusive=False)
    story = asked(consuming(), (own, declare_ok(1, b"q")))
    back = FromBroker(SCRATCH_OPENED, on_scratch(declare_ok(1, b"q")))
    story = (story >> FailOver()).forget() >> back
    assert counted(story) == {("topology", "recreated_empty"): 1}
    story = (story.forget() >> FromBroker(on(SCRATCH, m.ChannelCloseOk()), OPENED, consume_ok(1))).forget()
    story.troubled = True
    story = (story >> FromBroker(CANCEL)).forget() >> GONE
    assert counted(story.forget() >> back) == {("topology", "recreated_empty"): 1}
