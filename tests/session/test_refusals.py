"""Errors while a channel is set up again: the broker's word on a step of that is ours, any other is the client's."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    FailOver,
    FromBroker,
    FromClient,
    Reported,
    ToBroker,
    ToClient,
    confirming,
    consuming,
    with_channel,
)
from tests.support.engine_frames import ack, bare, consume, consume_ok, declare, nack, on, publish

OPENED, CLOSED = on(1, m.ChannelOpenOk()), on(1, m.ChannelCloseOk())


def close(code: int, text: bytes, class_id: int, method_id: int) -> bytes:
    return on(1, m.ChannelClose(code, text, class_id, method_id))


NO_OTHER = close(404, b"NOT_FOUND - no queue 'other' in vhost '/'", 60, 20)
NO_QUEUE = close(404, b"NOT_FOUND - no queue 'q' in vhost '/'", 60, 20)


def replaying():
    """A consumer that is asked for on the next broker, whose queue has not answered yet."""
    return consuming() >> FailOver() << ToBroker(REOPENED, consume(1)) >> FromBroker(OPENED)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (declare(1, b"x", passive=True, exclusive=False), close(404, b"NOT_FOUND - no queue 'x' in vhost '/'", 50, 10)),
        (declare(1, b"x"), close(405, b"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue", 50, 10)),
        (on(1, m.BasicGet(0, b"x", False)), close(403, b"ACCESS_REFUSED - access to queue 'x' in vhost '/'", 60, 70)),
        (consume(1, b"other", b"d"), NO_OTHER),
    ],
)
def test_an_error_of_the_clients_own_is_told_at_once_while_a_consumer_is_asked_for_again(request_, error):
    story = replaying() >> FromClient(request_) << ToBroker(request_)
    (story >> FromBroker(error) << ToBroker(CLOSED) << ToClient(error)).done()


def test_an_ack_of_nothing_is_the_clients_error_while_a_consumer_is_asked_for_again():
    error = close(406, b"PRECONDITION_FAILED - unknown delivery tag 7", 60, 80)
    story = replaying() >> FromClient(ack(1, 7)) << ToBroker(ack(1, 7))
    (story >> FromBroker(error) << ToBroker(CLOSED) << ToClient(error)).done()


def test_a_publish_in_a_transaction_is_the_clients_error_while_a_consumer_is_asked_for_again():
    error = close(404, b"NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40)
    select = on(1, m.TxSelect())
    story = (consuming() >> FromClient(select)).forget() >> FromBroker(on(1, m.TxSelectOk()))
    story = story.forget() >> FailOver() << ToBroker(REOPENED, select, consume(1))
    story = (story >> FromBroker(OPENED, on(1, m.TxSelectOk())) >> FromClient(publish(1, exchange=b"x"))).forget()
    (story >> FromBroker(error) << ToBroker(CLOSED) << ToClient(error)).done()


@pytest.mark.parametrize("behind", [b"", consume(1, b"other", b"d")])
def test_an_error_of_the_replay_is_not_told(behind):
    error = close(403, b"ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", 60, 20)
    story = (replaying() >> FromClient(behind)).forget()
    story = story >> FromBroker(error) << ToBroker(CLOSED) >> After(1.0)
    (story << ToBroker(REOPENED, consume(1), behind)).done()


def test_an_error_that_names_nothing_is_taken_for_the_first_of_its_kind():
    error = close(541, b"INTERNAL_ERROR", 60, 20)
    story = (replaying() >> FromClient(consume(1, b"other", b"d"))).forget()
    story = story >> FromBroker(error) << ToBroker(CLOSED) >> After(1.0)
    (story << ToBroker(REOPENED, consume(1), consume(1, b"other", b"d"))).done()


def test_a_name_of_ours_may_be_refused_behind_a_consumer_that_is_not_answered():
    """The queue answers the consumer, the channel the declaration: neither waits for the other."""
    error = close(403, b"ACCESS_REFUSED - access to queue 'gen.x' in vhost '/' refused for user 'guest'", 50, 10)
    unnamed = declare(1, b"")
    story = (with_channel() >> FromClient(consume(1), unnamed)).forget() >> FromBroker(error) << ToBroker(CLOSED)
    story = story >> After(0.1) << ToBroker(REOPENED, consume(1), unnamed)
    (story >> FromBroker(OPENED, consume_ok(1)) << ToClient(consume_ok(1))).done()


# Publishes that outlive their exchange.

DELETE, DELETED = on(1, m.ExchangeDelete(0, b"e", False, False)), bare(1, m.ident(40, 21))
NO_EXCHANGE = close(404, b"NOT_FOUND - no exchange 'e' in vhost '/'", 60, 40)
BEFORE, BESIDE, BEHIND = publish(1, b"a", exchange=b"e"), publish(1, b"b"), publish(1, b"c", exchange=b"e")


def bereft(story, *answers):
    """The broker dies with what was published before the deletion, and the next one refuses that."""
    story = (story >> FromClient(BEFORE, BESIDE, DELETE)).forget()
    story = ((story >> FromBroker(*answers)) if answers else story).forget() >> FailOver()
    return (story.forget() >> FromBroker(OPENED, NO_EXCHANGE)).forget()


@pytest.mark.parametrize(("answers", "rest"), [((DELETED,), b""), ((), DELETE)])
def test_what_was_published_before_its_client_deleted_the_exchange_does_not_end_the_channel(answers, rest):
    story = (with_channel() >> FromClient(BESIDE)).forget() >> FromBroker(ack(1, 1))
    story = bereft(story, *answers) << Reported("publishes_dropped", {"cause": "unconfirmed", "count": 1})
    (story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, BESIDE, rest)).done()


def test_a_client_that_waits_for_its_confirm_gets_a_refusal():
    story = (confirming() >> FromClient(BEFORE, DELETE)).forget() >> FromBroker(DELETED)
    story = (story.forget() >> FailOver()).forget() >> FromBroker(OPENED, NO_EXCHANGE)
    story = story << ToBroker(CLOSED) << ToClient(nack(1, 1))
    (story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS)).done()


def test_what_was_published_behind_the_deletion_is_the_clients_error():
    story = bereft(confirming(), DELETED) >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, BESIDE)
    story = story >> FromBroker(OPENED, ack(1, 1)) << ToClient(ack(1, 2)) >> FromClient(BEHIND) << ToBroker(BEHIND)
    (story >> FromBroker(NO_EXCHANGE) << ToBroker(CLOSED) << ToClient(NO_EXCHANGE)).done()


def test_so_it_is_if_the_broker_that_would_have_said_so_is_lost():
    story = (confirming() >> FromClient(BEFORE, DELETE, BEHIND)).forget() >> FromBroker(DELETED)
    story = story.forget() >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, BEFORE, BEHIND)
    story = story >> FromBroker(OPENED, NO_EXCHANGE) << ToBroker(CLOSED) << ToClient(nack(1, 1))
    story = story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, BEHIND)
    (story >> FromBroker(OPENED, NO_EXCHANGE) << ToBroker(CLOSED) << ToClient(NO_EXCHANGE)).done()


def test_so_is_what_meets_a_broker_for_the_first_time():
    story = (confirming() >> FromClient(BEFORE, DELETE)).forget()
    (story >> FromBroker(NO_EXCHANGE) << ToBroker(CLOSED) << ToClient(NO_EXCHANGE)).done()


EXCLUSIVE = declare(1, b"x")
LOCKED = close(405, b"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x' in vhost '/'", 50, 10)


def declared_twice():
    """A broker died before it answered a declaration, and the cluster does not know yet that its connection is gone."""
    story = (with_channel() >> FromClient(EXCLUSIVE)).forget() >> FailOver() << ToBroker(REOPENED, EXCLUSIVE)
    return story >> FromBroker(OPENED, LOCKED) << ToBroker(CLOSED)


def test_a_queue_that_an_unanswered_request_has_made_is_waited_for():
    agreed = on(1, m.QueueDeclareOk(b"x", 0, 0))
    story = declared_twice() >> After(0.1) << ToBroker(REOPENED, EXCLUSIVE)
    story = (story >> FromBroker(OPENED, agreed) << ToClient(agreed)).done()


def test_for_as_long_as_a_failover_may_take():
    story = declared_twice()
    began = story.now
    while not story.session.journal.channels[1].awaits_close_ok and story.now < began + 200.0:
        story = ((story.forget() >> After(5.0)).forget() >> FromBroker(OPENED, LOCKED)).forget()
    assert 60.0 <= story.now - began < 70.0


def test_a_prefetch_behind_a_consumer_that_is_asked_for_again_waits_for_nothing():
    qos = on(1, m.BasicQos(0, 9, False))
    (replaying() >> FromClient(qos) << ToBroker(qos)).done()


def test_a_refusal_comes_before_the_answer_to_a_close_that_the_client_has_asked_for_meanwhile():
    deleted = bare(1, m.ident(40, 21))
    story = (confirming() >> FromClient(BEFORE, DELETE)).forget() >> FromBroker(deleted) << ToClient(deleted)
    story = (story >> FailOver()).forget() >> FromClient(on(1, m.ChannelClose(200, b"bye", 0, 0)))
    story = story.forget() >> FromBroker(OPENED, NO_EXCHANGE) << ToClient(nack(1, 1), CLOSED)
    story.forget()
