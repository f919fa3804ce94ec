"""Requests whose answer a broker took with it: asked again, or answered by what the loss itself has done."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.commands import CloseClient
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Sees,
    ToBroker,
    ToClient,
    confirming,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import bare, bind, consume, content, declare, exchange, get_empty, nack, on, publish

OPEN, OPEN_OK = on(1, m.ChannelOpen()), on(1, m.ChannelOpenOk())
CLOSE, CLOSE_OK = on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())
TX_SELECT, TX_SELECT_OK = on(1, m.TxSelect()), on(1, m.TxSelectOk())
COMMIT, COMMIT_OK = bare(1, m.TX_COMMIT), on(1, m.TxCommitOk())
ROLLBACK, ROLLBACK_OK = bare(1, m.TX_ROLLBACK), on(1, m.TxRollbackOk())
SELECT, SELECT_OK = on(1, m.ConfirmSelect(False)), on(1, m.ConfirmSelectOk())
RECOVER, RECOVER_OK = bare(1, m.BASIC_RECOVER, b"\x01"), on(1, m.BasicRecoverOk())


@pytest.mark.parametrize(
    "request_",
    [
        declare(1, b"shared", durable=True, exclusive=False),
        bind(1, b"shared"),
        on(1, m.QueueUnbind(0, b"shared", b"e", b"k", b"")),
        on(1, m.QueuePurge(0, b"shared", False)),
        on(1, m.QueueDelete(0, b"shared", False, False, False)),
        exchange(1, durable=True),
        on(1, m.ExchangeDelete(0, b"e", False, False)),
        on(1, m.ExchangeBind(0, b"d", b"s", b"k", False, b"")),
        on(1, m.ExchangeUnbind(0, b"d", b"s", b"k", False, b"")),
        on(1, m.BasicGet(0, b"shared", False)),
        on(1, m.BasicQos(0, 5, False)),
        consume(1),
        bare(1, m.ACCESS_REQUEST, b"\x05/data\x00"),
    ],
)
def test_an_unanswered_request_is_asked_again(request_):
    story = with_channel() >> FromClient(request_) << ToBroker(request_)
    (story >> FailOver() << ToBroker(REOPENED, request_)).done()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [(CLOSE, CLOSE_OK), (RECOVER, RECOVER_OK), (SELECT, SELECT_OK), (TX_SELECT, TX_SELECT_OK),
     (on(1, m.BasicCancel(b"c", False)), on(1, m.BasicCancelOk(b"c")))],
)  # fmt: skip
def test_what_the_loss_itself_has_done_is_answered_at_once(request_, answer):
    story = (consuming() >> FromClient(request_)).forget() >> BrokerLost()
    story << ToClient(answer)


def test_a_channel_that_was_being_closed_is_not_opened_again():
    story = (with_channel() >> FromClient(CLOSE)).forget()
    (story >> FailOver() << ToClient(CLOSE_OK) >> FromClient(OPEN) << ToBroker(OPEN)).done()


def test_answers_keep_the_order_of_the_requests():
    wanted, cancel = declare(1, b"shared", durable=True, exclusive=False), on(1, m.BasicCancel(b"c", False))
    story = (consuming() >> FromClient(wanted, cancel)).forget()
    (story >> FailOver() << ToBroker(REOPENED, consume(1), wanted, cancel)).done()


def test_a_channel_whose_opening_was_not_answered_is_opened_again():
    (
        running()
        >> FromClient(OPEN)
        << ToBroker(OPEN)
        >> FailOver()
        << ToBroker(OPEN)
        >> FromBroker(OPEN_OK)
        << ToClient(OPEN_OK)
    ).done()


def test_what_was_published_behind_an_unanswered_open_is_published_again():
    a = publish(1, b"a")
    story = running() >> FromClient(OPEN, SELECT, a) << ToBroker(OPEN, SELECT, a)
    (story >> FailOver() << ToBroker(OPEN, HIDDEN_CONFIRMS, a, SELECT)).done()


def test_what_was_published_behind_an_unanswered_declaration_finds_it():
    """nowait, or a client that does not wait: without the exchange, the publish would be refused each time."""
    declarations = exchange(1), declare(1), bind(1)
    told = (exchange(1, nowait=True), declare(1, nowait=True), bind(1, nowait=True))
    a, qos = publish(1, b"a", exchange=b"e", key=b"k"), on(1, m.BasicQos(0, 1, False))
    story = confirming() >> FromClient(*told, qos, a) << ToBroker(*declarations, qos, a)
    (story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, *declarations, a, qos)).done()


def test_a_channel_opened_while_no_broker_is_there_waits():
    story = (running() >> BrokerLost()).forget() >> FromClient(OPEN)
    (story >> Handshaken() << ToBroker(OPEN)).done()


def transactional(**given):
    story = (with_channel(**given) >> FromClient(TX_SELECT)).forget()
    return (story >> FromBroker(TX_SELECT_OK)).forget()


def lost(text: bytes, class_id: int = 0, method_id: int = 0) -> bytes:
    return on(1, m.ChannelClose(541, b"INTERNAL_ERROR - broker connection lost, " + text, class_id, method_id))


def test_a_clean_transaction_goes_on():
    (transactional() >> FailOver() << ToBroker(REOPENED, TX_SELECT)).done()


def test_work_that_is_not_committed_is_honestly_lost():
    story = (transactional() >> FromClient(publish(1))).forget()
    (story >> BrokerLost() << ToClient(lost(b"uncommitted transaction rolled back"))).forget()


def test_an_ack_in_a_transaction_is_work():
    from tests.support.engine_frames import ack

    story = (transactional() >> FromClient(ack(1, 1))).forget()
    (story >> BrokerLost() << ToClient(lost(b"uncommitted transaction rolled back"))).forget()


def test_a_commit_without_an_answer_has_an_unknown_outcome():
    story = (transactional() >> FromClient(publish(1), COMMIT)).forget()
    (story >> BrokerLost() << ToClient(lost(b"transaction outcome unknown", 90, 20))).forget()


def test_a_commit_of_nothing_is_done():
    story = (transactional() >> FromClient(COMMIT)).forget()
    (story >> FailOver() << ToClient(COMMIT_OK) << ToBroker(REOPENED, TX_SELECT)).done()


def test_a_rollback_is_done_by_the_loss():
    story = (transactional() >> FromClient(publish(1), ROLLBACK)).forget()
    (story >> FailOver() << ToClient(ROLLBACK_OK) << ToBroker(REOPENED, TX_SELECT)).done()


def test_work_behind_an_answered_commit_is_not_committed():
    story = (transactional() >> FromClient(publish(1), COMMIT, publish(1))).forget() >> FromBroker(COMMIT_OK)
    story = story << ToClient(COMMIT_OK) << ToBroker(publish(1))
    (story >> BrokerLost() << ToClient(lost(b"uncommitted transaction rolled back"))).forget()


def test_half_a_publish_in_a_transaction_leaves_no_rest_behind():
    from tests.support.engine_frames import frames_of

    method, *rest = frames_of(publish(1))
    story = (transactional() >> FromClient(method)).forget()
    story = (story >> FailOver()).forget() >> FromClient(*rest) >> FromClient(CLOSE_OK)
    (story >> FromClient(OPEN) << ToBroker(OPEN)).done()


def test_a_covered_channel_that_becomes_transactional_is_opened_anew():
    from tests.support.engine_frames import ack

    story = (with_channel() >> FromClient(publish(1))).forget() >> FromClient(TX_SELECT)
    story = story >> FromBroker(ack(1, 1)) << ToClient(TX_SELECT_OK)
    story = story << ToBroker(on(1, m.ChannelClose(200, b"set up again")))
    (story >> FromBroker(CLOSE_OK) >> After(0.1) << ToBroker(REOPENED, TX_SELECT)).done()


def test_a_second_open_ends_the_connection():
    story = with_channel() >> FromClient(OPEN)
    assert m.decode(m.ConnectionClose, story.to_client[-1][7:-1]).reply_code == 504


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (bare(2, m.BASIC_RECOVER, b"\x01"), 504),
        (on(2047, m.ChannelOpen()), 504),
        (b"\x01\0\x01\0\0\0\x04\0\0\0\0\0", 501),
        (b"\x01\0\x01\x7f\xff\xff\xff\0", 501),
        (b"\x05\0\x01\0\0\0\0\xce", 501),
        (b"\x01\0\x01\0\0\0\x02\0\0\xce", 501),
        (content(1, b"m"), 505),
        (publish(1)[:18] + OPEN, 505),
        (bare(0, m.ident(10, 99)), 504),
        (bare(1, m.ident(60, 999)), 503),
        (bare(1, m.ident(50, 10), b"\0\0\xff"), 501),
    ],
)
def test_a_client_that_breaks_the_protocol_hears_why(words, code):
    story = with_channel() >> FromClient(words)
    close = next(f for f in story.to_client if f[7:11] == b"\0\x0a\0\x32")
    assert m.decode(m.ConnectionClose, close[7:-1]).reply_code == code


def test_a_client_error_leaves_the_broker_politely():
    story = with_channel() >> FromClient(OPEN) << ToBroker(on(0, m.ConnectionClose(200, b"client is gone")))
    story = story.forget() >> FromClient(on(0, m.ConnectionCloseOk())) << CloseClient()
    story.done()


def test_a_broker_that_says_what_nobody_asked_for_is_left():
    story = with_channel() >> FromBroker(bare(1, m.ident(50, 11), b"\x01q\0\0\0\0\0\0\0\0"))
    story << Sees("looking", lambda s: s.attachment.searching)


def test_flow_is_answered_here():
    (with_channel() >> FromBroker(on(1, m.ChannelFlow(False))) << ToBroker(on(1, m.ChannelFlowOk(False)))).done()


def test_the_clients_answer_to_flow_goes_nowhere():
    (with_channel() >> FromClient(on(1, m.ChannelFlowOk(True)))).done()


def test_a_refused_publish_of_a_client_that_closes_reaches_it():
    story = with_channel() >> FromClient(SELECT) << ToBroker(SELECT) >> FromBroker(SELECT_OK) << ToClient(SELECT_OK)
    story = (story >> FromClient(publish(1), CLOSE)).forget()
    (story >> FromBroker(nack(1, 1), CLOSE_OK) << ToClient(nack(1, 1), CLOSE_OK)).done()


def test_what_follows_many_unanswered_requests_is_parked_until_half_of_them_are_answered():
    get, empty = on(1, m.BasicGet(0, b"q", no_ack=False)), get_empty(1)
    story = (with_channel() >> FromClient(get * 300)).forget()
    channel = story.session.journal.channels[1]
    assert (len(channel.pending), len(channel.parked)) == (256, 44)
    story = (story >> FromBroker(empty * 127)).forget()
    assert (len(channel.pending), len(channel.parked)) == (129, 44)
    story = (story >> FromBroker(empty)).forget()
    assert (len(channel.pending), len(channel.parked)) == (172, 0)
