"""A broker ends a consumer: its client hears of it if the queue was deleted, and not if it is only out of reach."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.wire import bool_value, pack_table
from proxy.session.commands import Dial, LookAround
from proxy.session.description import describe
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
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
    ToOld,
    consuming,
    with_channel,
)
from tests.support.engine_frames import (
    bare,
    bind,
    consume,
    consume_ok,
    declare,
    deliver,
    frames_of,
    on,
    publish,
)

SCRATCH = 2046
CANCEL = on(1, m.BasicCancel(b"c", True))
OPENED = on(1, m.ChannelOpenOk())
ENDS, ENDED = on(1, m.BasicCancel(b"c", False)), bare(1, m.ident(60, 31), b"\x01c")
CLOSES, CLOSED = on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())
LEFT = on(0, m.ConnectionClose(200, b"moved to another broker"))
DONE = on(SCRATCH, m.ChannelClose(200, b"done"))


def asks(queue: bytes = b"q") -> bytes:
    return on(SCRATCH, m.ChannelOpen(), m.QueueDeclare(0, queue, True, False, False, False, False, b""))


def there(queue: bytes = b"q") -> FromBroker:
    return FromBroker(on(SCRATCH, m.ChannelOpenOk(), m.QueueDeclareOk(queue, 0, 0)))


def refused(code: int, text: bytes) -> FromBroker:
    return FromBroker(on(SCRATCH, m.ChannelOpenOk(), m.ChannelClose(code, text, 50, 10)))


NO_QUEUE = m.ChannelClose(404, b"NOT_FOUND - no queue 'q' in vhost '/'", 60, 20)
GONE = refused(404, b"NOT_FOUND - no queue 'q' in vhost '/'")
HOME_DOWN = b"NOT_FOUND - home node 'mq2@localhost' of durable queue 'q' in vhost '/' is down or inaccessible"
AWAY = refused(404, HOME_DOWN)
SCRATCH_OVER = ToBroker(on(SCRATCH, m.ChannelCloseOk()))


def test_a_channel_that_has_ended_meanwhile_hears_no_more():
    gone = on(1, m.ChannelClose(404, b"NOT_FOUND - no queue 'x' in vhost '/'", 60, 20))
    story = consuming() >> FromBroker(CANCEL) << ToBroker(asks())
    story = story >> FromBroker(gone, GONE) << ToClient(gone) << ToBroker(CLOSED)
    (story << SCRATCH_OVER).done()


def away(**given):
    """A consumer whose queue's home is down."""
    return (
        consuming(**({"heartbeat_s": 3600} | given)) >> FromBroker(CANCEL) << ToBroker(asks()) >> AWAY << SCRATCH_OVER
    )


def asked_again(story):
    return story >> After(5.0) << ToBroker(asks())


def test_the_deletion_of_a_queue_is_told():
    story = consuming() >> FromBroker(CANCEL) << ToBroker(asks()) >> GONE << SCRATCH_OVER << ToClient(CANCEL)
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_client_that_does_not_know_broker_cancels_sees_none():
    story = consuming(capabilities=()) >> FromBroker(CANCEL) << ToBroker(asks()) >> GONE << SCRATCH_OVER
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_client_that_asked_to_be_told_is_told_at_once():
    told = on(
        1, m.BasicConsume(0, b"q", b"c", *[False] * 4, pack_table({b"x-cancel-on-ha-failover": bool_value(True)}))
    )
    story = (with_channel() >> FromClient(told)).forget() >> FromBroker(consume_ok(1)) << ToClient(consume_ok(1))
    (story >> FromBroker(CANCEL) << ToClient(CANCEL)).done()


def test_a_cancel_of_no_consumer_is_passed_on():
    other = on(1, m.BasicCancel(b"d", True))
    (consuming() >> FromBroker(other) << ToClient(other)).done()


def test_a_queue_that_is_there_is_consumed_from_again_in_silence():
    story = consuming() >> FromBroker(CANCEL) << ToBroker(asks()) >> there() << ToBroker(DONE, consume(1))
    story = (
        story >> FromBroker(on(SCRATCH, m.ChannelCloseOk()), consume_ok(1), deliver(1, 1)) << ToClient(deliver(1, 1))
    )
    (story >> FailOver() << ToBroker(REOPENED, consume(1))).done()


def test_a_consumer_whose_question_is_refused_is_asked_for_itself():
    story = consuming() >> FromBroker(CANCEL) << ToBroker(asks()) >> refused(403, b"ACCESS_REFUSED")
    (story << SCRATCH_OVER << ToBroker(consume(1))).done()


@pytest.mark.parametrize("text", [HOME_DOWN, b"NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor"])
def test_a_queue_that_is_out_of_reach_is_waited_for(text):
    story = consuming(heartbeat_s=3600) >> FromBroker(CANCEL) << ToBroker(asks()) >> refused(404, text) << SCRATCH_OVER
    story = story << Reported("consumer_paused", {"channel": 1, "reason": text.decode()})
    assert describe(story.session)["waiting"] == "consumers are paused until their queues are within reach: q"
    for _ in range(5):
        story = asked_again(story) >> AWAY << SCRATCH_OVER
    story = asked_again(story) >> there() << ToBroker(DONE, consume(1)) << Reported("consumer_resumed", {"channel": 1})
    (story >> FromBroker(consume_ok(1), deliver(1, 1)) << ToClient(deliver(1, 1))).done()
    assert describe(story.session)["waiting"] == ""


def test_questions_become_rare():
    story = away()
    for _ in range(12):
        story = asked_again(story) >> AWAY << SCRATCH_OVER
    (story >> After(2.4)).done()


def test_what_is_away_for_too_long_is_told():
    story = asked_again(asked_again(away(home_down_timeout_s=8.0)) >> AWAY << SCRATCH_OVER)
    (story >> AWAY << SCRATCH_OVER << ToClient(CANCEL) >> FailOver() << ToBroker(REOPENED)).done()


def test_it_can_be_told_at_once():
    story = consuming(home_down_timeout_s=0) >> FromBroker(CANCEL) << ToBroker(asks()) >> AWAY
    (story << SCRATCH_OVER << ToClient(CANCEL)).done()


def test_one_question_at_a_time():
    story = (consuming() >> FromClient(consume(1, b"r", b"d"))).forget()
    story = (story >> FromBroker(consume_ok(1, b"d"))).forget()
    story = story >> FromBroker(CANCEL, on(1, m.BasicCancel(b"d", True))) << ToBroker(asks())
    story = story >> GONE << SCRATCH_OVER << ToClient(CANCEL) << ToBroker(asks(b"r")) >> there(b"r")
    (story << ToBroker(DONE, consume(1, b"r", b"d"))).done()


def test_a_consumer_comes_back_with_its_own_prefetch():
    few, many = on(1, m.BasicQos(0, 1, False)), on(1, m.BasicQos(0, 9, False))
    qos_ok = bare(1, m.ident(60, 11))
    story = (with_channel() >> FromClient(few, consume(1), many)).forget()
    story = (story >> FromBroker(qos_ok, consume_ok(1), qos_ok)).forget()
    story = story >> FromBroker(CANCEL) << ToBroker(asks()) >> there() << ToBroker(DONE, few, consume(1), many)
    (story >> FromBroker(qos_ok, consume_ok(1), qos_ok)).done()


def test_nothing_is_said_inside_a_publish():
    method, header, body = frames_of(publish(1))
    story = consuming(publish_guarantee="as_sent") >> FromClient(method) << ToBroker(method)
    story = story >> FromBroker(CANCEL) << ToBroker(asks()) >> there() << ToBroker(DONE)
    (story >> FromClient(header, body) << ToBroker(header, body, consume(1))).done()


# What the client does meanwhile.


def test_a_client_may_cancel_a_consumer_that_waits():
    story = away() >> FromClient(ENDS) << ToBroker(ENDS) >> FromBroker(ENDED) << ToClient(ENDED)
    (story >> After(60.0)).done()


def test_a_consumer_that_the_client_is_cancelling_does_not_come_back():
    story = asked_again(away()) >> FromClient(ENDS) << ToBroker(ENDS) >> there() << ToBroker(DONE)
    (story >> FromBroker(ENDED) << ToClient(ENDED) >> FailOver() << ToBroker(REOPENED)).done()


def test_a_client_may_close_the_channel_meanwhile():
    story = asked_again(away()) >> FromClient(CLOSES) << ToBroker(CLOSES) >> there() << ToBroker(DONE)
    (story >> FromBroker(CLOSED) << ToClient(CLOSED) >> After(60.0)).done()


def test_a_client_may_close_the_connection_meanwhile():
    story = away() >> FromClient(on(0, m.ConnectionClose(200, b"bye")))
    (story.forget() >> After(1.0)).forget().done()
    assert story.session.cancellations.due() == []


def test_a_client_that_deletes_the_queue_itself_is_told():
    delete, deleted = on(1, m.QueueDelete(0, b"q", False, False, False)), bare(1, m.ident(50, 41), bytes(4))
    story = consuming() >> FromClient(delete) << ToBroker(delete)
    (story >> FromBroker(CANCEL, deleted) << ToClient(deleted, CANCEL)).done()


# What happens to brokers meanwhile.


def test_a_failover_leaves_out_what_is_out_of_reach_and_asks_there():
    story = away() >> FailOver() << ToBroker(REOPENED) >> FromBroker(OPENED)
    (asked_again(story) >> there() << ToBroker(DONE, consume(1))).done()


def test_a_question_that_a_lost_broker_never_answered_is_asked_again():
    story = asked_again(away()) >> FailOver() << ToBroker(REOPENED, asks())
    (story >> FromBroker(OPENED) >> there() << ToBroker(DONE, consume(1))).done()


def test_what_a_lost_broker_said_is_found_out_at_the_next_one():
    story = consuming() >> FromBroker(CANCEL) << ToBroker(asks()) >> BrokerLost()
    story = story << Dial(2, frozenset({"rabbit1:5672"}), True) >> Handshaken() << ToBroker(REOPENED, asks())
    (story >> FromBroker(OPENED) >> GONE << SCRATCH_OVER << ToClient(CANCEL)).done()


def test_a_consumer_whose_queue_is_lost_with_its_broker_waits_and_its_channel_works():
    story = (consuming(heartbeat_s=3600) >> FromClient(consume(1, b"r", b"d"))).forget()
    story = (story >> FromBroker(consume_ok(1, b"d"))).forget()
    story = story >> FailOver() << ToBroker(REOPENED, consume(1), consume(1, b"r", b"d"))
    story = story >> FromBroker(OPENED, on(1, m.ChannelClose(404, HOME_DOWN, 60, 20)))
    story = (story << Reported("consumer_paused")).forget() >> After(0.2)
    story = story << ToBroker(asks(), REOPENED, consume(1, b"r", b"d"))
    story = story >> FromBroker(OPENED, consume_ok(1, b"d"), deliver(1, 1, to=b"d")) << ToClient(deliver(1, 1, to=b"d"))
    (story >> there() << ToBroker(DONE, consume(1))).done()


def missing(**given):
    """After a failover a shared queue is not there: its consumer waits, the channel and the other one work."""
    story = (consuming(**{"heartbeat_s": 3600} | given) >> FromClient(consume(1, b"r", b"d"))).forget()
    story = ((story >> FromBroker(consume_ok(1, b"d"))).forget() >> FailOver()).forget()
    story = story >> FromBroker(OPENED, on(1, NO_QUEUE)) << Reported("channel_restarted") << Reported("consumer_paused")
    story = (story.forget() >> After(0.2)) << ToBroker(asks(), REOPENED, consume(1, b"r", b"d"))
    return story >> FromBroker(OPENED, consume_ok(1, b"d"), deliver(1, 1, to=b"d")) << ToClient(deliver(1, 1, to=b"d"))


def never_back(**given):
    """It does not come back in time."""
    story = missing(failover_timeout_s=9.0, **given) >> GONE << SCRATCH_OVER
    return asked_again(asked_again(story) >> GONE << SCRATCH_OVER) >> GONE << SCRATCH_OVER


def test_a_queue_that_is_not_there_after_a_failover_is_waited_for():
    story = asked_again(missing() >> GONE << SCRATCH_OVER) >> there() << Reported("consumer_resumed")
    (story << ToBroker(DONE, consume(1)) >> FromBroker(consume_ok(1))).done()


def test_how_long_a_queue_that_is_not_there_is_waited_for_is_told():
    story = missing(failover_timeout_s=9.0) >> GONE << SCRATCH_OVER
    (wait,) = (each for each in describe(story.session)["waits"] if "consumers are paused" in each.reason)
    assert 0 < wait.at_most_s <= 9.0


def test_a_queue_that_never_comes_back_costs_its_consumer_and_not_its_channel():
    story = never_back() << Reported("consumer_given_up", {"cause": "queue_gone", "queue": "q"}) << ToClient(CANCEL)
    story = story >> FromClient(publish(1)) << ToBroker(HIDDEN_CONFIRMS, publish(1))
    (story >> FailOver()).forget() << Sees("one consumer", lambda s: s.journal.channels[1].consumers == 1)


def test_a_client_that_does_not_know_broker_cancels_loses_the_channel_with_the_brokers_words():
    story = never_back(capabilities=()) << ToBroker(on(1, m.ChannelClose(200, b"set up again")))
    (story >> FromBroker(CLOSED) >> After(0.1) << ToClient(on(1, NO_QUEUE))).done()


def test_words_for_a_channel_that_is_away_meanwhile_are_said_when_it_is_to_come_back():
    story = missing(failover_timeout_s=9.0, capabilities=()) >> GONE << SCRATCH_OVER
    story = asked_again(asked_again(story) >> GONE << SCRATCH_OVER)
    story.session.restart(story.session.journal.channels[1], "for this story", open_upstream=False)
    (story >> GONE << SCRATCH_OVER << ToClient(on(1, NO_QUEUE))).done()


def test_a_queue_that_nobody_may_ask_for_is_tried_less_and_less_often_and_not_for_ever():
    """Brokers that want more rights for the question than for the consumer (RabbitMQ 4.3)."""
    away, forbidden = on(1, m.ChannelClose(404, HOME_DOWN, 60, 20)), refused(403, b"ACCESS_REFUSED")
    story = (consuming(home_down_timeout_s=20.0, heartbeat_s=3600) >> FailOver()).forget()
    story = (story >> FromBroker(OPENED, away)).forget() >> After(0.1)
    began, tries = story.now, 0
    while not story.to_client:
        assert story.now < began + 40.0, "it is tried without end"
        if consume(1) in story.to_broker:
            tries += 1
            story = story.forget() >> FromBroker(OPENED, away)
        elif asks()[:12] in b"".join(story.to_broker):
            story = story.forget() >> forbidden
        else:
            story = story.forget() >> After(0.1)
    assert tries < 15
    assert story.to_client == [CANCEL]
    assert story.now >= began + 19.0


def test_a_move_leaves_a_waiting_consumer_out():
    story = away() >> Leave() >> After(5.0)
    story = (story.forget() >> Handshaken()) << ToOld(on(1, m.ChannelClose(200, b"set up again"))) >> FromOld(CLOSED)
    story = story << ToBroker(REOPENED) << ToOld(LEFT) >> FromBroker(OPENED) >> FromOld(on(0, m.ConnectionCloseOk()))
    story = story << ToBroker(asks()) >> there()
    (story << ToBroker(DONE, consume(1))).done()


def test_a_consumer_that_comes_back_while_its_channel_waits_to_leave_is_asked_to_go_once_more():
    story = (consuming(heartbeat_s=3600) >> FromBroker(deliver(1, 1))).forget() >> Leave() >> After(5.0)
    story = (story.forget() >> Handshaken()) << ToOld(ENDS) >> FromOld(CANCEL, ENDED) << ToBroker(asks())
    story = story >> there() << ToBroker(DONE) << ToOld(consume(1), ENDS)
    (story >> FromOld(consume_ok(1), ENDED) >> BrokerLost() << ToOld(consume(1))).done()


# A queue that lived and died with its node, and is this client's own.


def own_consumer(*numbers, **given):
    story = with_channel(*numbers, **given) >> FromClient(declare(1, b"q", exclusive=False), bind(1, b"q"), consume(1))
    story = story.forget() >> FromBroker(on(1, m.QueueDeclareOk(b"q", 0, 0)), bare(1, m.ident(50, 21)), consume_ok(1))
    return story.forget()


def own(**given):
    return own_consumer(**given) >> FromBroker(CANCEL) << ToBroker(asks())


AGAIN = declare(SCRATCH, b"q", exclusive=False) + bind(SCRATCH, b"q")
BACK = on(SCRATCH, m.ChannelOpenOk(), m.QueueDeclareOk(b"q", 0, 0)) + bare(SCRATCH, m.ident(50, 21))


def declared_again(story):
    story = story << SCRATCH_OVER << ToBroker(on(SCRATCH, m.ChannelOpen()), AGAIN) >> FromBroker(BACK) << ToBroker(DONE)
    story = story >> FromBroker(on(SCRATCH, m.ChannelCloseOk())) >> After(0.1) << ToBroker(asks()) >> there()
    return story << ToBroker(DONE, consume(1))


def test_a_queue_of_the_clients_own_that_died_with_its_node_is_declared_again():
    story = own()
    story.troubled = True
    declared_again(story >> GONE).done()


def test_a_queue_of_the_clients_own_is_not_believed_gone_before_somebody_has_looked():
    story = own() >> GONE << SCRATCH_OVER << LookAround()
    story.troubled = True
    declared_again(story >> After(1.0) << ToBroker(asks()) >> GONE).done()


def test_a_queue_of_the_clients_own_that_somebody_deleted_is_gone():
    story = own() >> GONE << SCRATCH_OVER << LookAround() >> After(1.0) << ToBroker(asks())
    (story >> GONE << SCRATCH_OVER << ToClient(CANCEL) >> FailOver() << ToBroker(REOPENED)).done()


def met(story):
    """A request of another channel meets the absence of the queue."""
    gone = on(2, NO_QUEUE)
    story = (story >> FromClient(on(2, m.BasicGet(0, b"q", False)))).forget()
    return story >> FromBroker(gone) << ToBroker(on(2, m.ChannelCloseOk())) << ToClient(gone)


def test_a_consumer_of_the_clients_own_queue_outlives_an_error_about_it_that_comes_behind_the_cancel():
    story = met(own_consumer(1, 2) >> FromBroker(CANCEL) << ToBroker(asks())) >> GONE << SCRATCH_OVER << LookAround()
    story.troubled = True
    declared_again(story >> After(1.0) << ToBroker(asks()) >> GONE).done()


def test_a_consumer_of_the_clients_own_queue_outlives_an_error_about_it_that_comes_before_the_cancel():
    story = met(own_consumer(1, 2)) >> FromBroker(CANCEL) << ToBroker(asks()) >> GONE << SCRATCH_OVER << LookAround()
    story.troubled = True
    declared_again(story >> After(1.0) << ToBroker(asks()) >> GONE).done()


def test_a_consumer_of_the_clients_own_queue_ends_though_another_channel_has_met_its_absence():
    story = met(own_consumer(1, 2)) >> FromBroker(CANCEL) << ToBroker(asks()) >> GONE << SCRATCH_OVER << LookAround()
    story = story >> After(1.0) << ToBroker(asks()) >> GONE << SCRATCH_OVER << ToClient(CANCEL)
    (story >> FailOver() << ToBroker(REOPENED)).done()
