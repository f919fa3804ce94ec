"""Clients that want to know of it are told when a queue of their own has died with its broker."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.commands import Dial
from tests.session.test_cancellations import CANCEL, GONE, HOME_DOWN, SCRATCH_OVER, own
from tests.session.test_replies import asking
from tests.session.test_topology import (
    BIND_OK,
    CLASH,
    DONE,
    OPEN,
    SCRATCH,
    asked,
    declare_ok,
    on_scratch,
)
from tests.support.engine import (
    REOPENED,
    After,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    ToBroker,
    ToClient,
    with_channel,
)
from tests.support.engine_frames import bind, consume, consume_ok, declare, on, publish

CLOSED, OPENED = m.ChannelCloseOk(), m.ChannelOpenOk()
NOT_THERE = m.ChannelClose(404, b"NOT_FOUND - no queue 'x' in vhost '/'", 50, 10)
SHARED = declare(1, exclusive=False, auto_delete=True)
LOOKED_FOR = on_scratch(declare(1, exclusive=False, auto_delete=True, passive=True))


def lost(channel: int, queue: bytes = b"x") -> bytes:
    return on(channel, m.ChannelClose(404, b"NOT_FOUND - queue '%b' was lost with its broker" % queue, 50, 10))


def sharing(**given):
    """Channel 1 has declared x, 2 consumes from it, 3 has nothing to do with it."""
    story = with_channel(1, 2, 3, **{"lost_queues": "tell"} | given)
    return asked(story, (SHARED, declare_ok(1)), (consume(2, b"x"), consume_ok(2)))


def test_the_users_of_an_exclusive_queue_are_told_at_once_and_nobody_else():
    story = asked(with_channel(1, 2, 3, lost_queues="tell"), (declare(1), declare_ok(1)))
    story = asked(story, (bind(1), BIND_OK), (consume(2, b"x"), consume_ok(2))) >> BrokerLost()
    story = story << Reported("topology_lost", {"channel": 1}) << Reported("channel_given_up", {"cause": "queue_lost"})
    story = story << ToClient(lost(1), lost(2)) << Dial(2, frozenset({"rabbit1:5672"}), True)
    (story >> Handshaken() << ToBroker(on(3, m.ChannelOpen()))).done()


def test_a_queue_that_others_may_use_as_well_is_looked_for_and_not_declared():
    story = sharing() >> FailOver() << ToBroker(OPEN, LOOKED_FOR)
    story = story >> FromBroker(on(SCRATCH, OPENED), on_scratch(declare_ok(1)))
    assert "queues_recreated" not in [report.event for report in story.reports]
    (story << ToBroker(DONE, REOPENED, on(2, m.ChannelOpen()), consume(2, b"x"), on(3, m.ChannelOpen()))).done()


def test_its_users_are_told_when_it_is_gone():
    story = sharing() >> FailOver() << ToBroker(OPEN, LOOKED_FOR) >> FromBroker(on(SCRATCH, OPENED, NOT_THERE))
    story = story << ToClient(lost(1), lost(2)) << Reported("topology_lost", {"channel": 1})
    (story << ToBroker(on(SCRATCH, CLOSED), on(3, m.ChannelOpen()))).done()


def test_its_bindings_are_not_declared_for_a_queue_that_is_gone():
    story = asked(sharing(), (bind(1), BIND_OK)) >> FailOver() << ToBroker(OPEN, LOOKED_FOR, on_scratch(bind(1)))
    story = (story >> FromBroker(on(SCRATCH, OPENED, NOT_THERE))).forget() >> After(5.0)
    story.done()


def test_a_queue_whose_home_is_down_is_waited_for():
    away = NOT_THERE._replace(reply_text=HOME_DOWN)
    story = sharing() >> FailOver() << ToBroker(OPEN, LOOKED_FOR) >> FromBroker(on(SCRATCH, OPENED, away))
    (story << ToBroker(on(SCRATCH, CLOSED)) >> After(0.02) << ToBroker(OPEN, LOOKED_FOR)).done()


def test_a_queue_that_goes_between_the_look_and_the_consumer_is_told_as_well():
    story = (sharing() >> FailOver()).forget() >> FromBroker(on(SCRATCH, OPENED), on_scratch(declare_ok(1)))
    story = (story.forget() >> FromBroker(on(1, OPENED), on(3, OPENED))).forget()
    refused = on(2, m.ChannelClose(404, b"NOT_FOUND - no queue 'x' in vhost '/'", 60, 20))
    story = (story >> FromBroker(on(SCRATCH, CLOSED), on(2, OPENED), refused)).forget() >> After(0.1)
    story = story << ToBroker(OPEN, LOOKED_FOR) >> FromBroker(on(SCRATCH, OPENED, NOT_THERE))
    # Channel 1 is open at the broker, so it is closed there before its client is told.
    story = story << ToBroker(on(SCRATCH, CLOSED), on(1, m.ChannelClose(200, b"set up again"))) << ToClient(lost(2))
    (story >> FromBroker(on(1, CLOSED)) >> After(0.1) << ToClient(lost(1))).done()


def test_a_client_that_is_closing_is_not_told_and_keeps_what_it_has_published():
    story = asked(with_channel(lost_queues="tell"), (declare(1), declare_ok(1))) >> FromClient(publish(1))
    story = (story.forget() >> FromClient(on(0, m.ConnectionClose(200, b"bye")))).forget() >> BrokerLost()
    story = story << Dial(2, frozenset({"rabbit1:5672"}), True)
    assert story.done().journal.channels[1].unsettled == 1


def test_a_queue_that_the_client_does_not_know_of_is_declared_again():
    story, queue = asking(lost_queues="tell")
    story = story.forget() >> FromBroker(on(1, m.QueueDeclareOk(queue, 0, 0))) >> FromBroker(consume_ok(1))
    hidden = m.QueueDeclare(0, queue, False, False, True, True, False, b"")
    (story.forget() >> FailOver() << ToBroker(on(SCRATCH, m.ChannelOpen(), hidden))).done()


def test_a_queue_that_dies_with_another_node_ends_its_consumer_as_a_broker_has_it():
    story = own(lost_queues="tell")
    story.troubled = True
    (story >> GONE << SCRATCH_OVER << ToClient(CANCEL) << Reported("consumer_given_up")).done()


def test_a_channel_that_works_is_closed_at_its_broker_before_its_client_is_told_of_a_clash():
    story = sharing(lost_queues="recreate")
    story = (story >> FailOver()).forget() >> FromBroker(on(SCRATCH, OPENED), on_scratch(declare_ok(1)))
    story = (story.forget() >> FromBroker(on(1, OPENED), on(3, OPENED))).forget()
    refused = on(2, m.ChannelClose(404, b"NOT_FOUND - no queue 'x' in vhost '/'", 60, 20))
    story = (story >> FromBroker(on(SCRATCH, CLOSED), on(2, OPENED), refused)).forget() >> After(0.1)
    story = (story.forget() >> FromBroker(on(SCRATCH, OPENED, CLASH))) << ToBroker(
        on(SCRATCH, CLOSED), on(1, m.ChannelClose(200, b"set up again"))
    )
    story = story.forget() >> FromBroker(on(1, CLOSED)) >> After(0.1)
    story << ToClient(on(1, CLASH))
