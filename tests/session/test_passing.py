"""What passes untouched, and the few methods that have no place behind a proxy."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from tests.support.engine import (
    REOPENED,
    BrokerUp,
    FailOver,
    FromBroker,
    FromClient,
    Reported,
    ToBroker,
    ToClient,
    consuming,
    greeted,
    running,
    with_channel,
)
from tests.support.engine_frames import (
    bare,
    bind,
    consume,
    consume_ok,
    declare,
    deliver,
    exchange,
    frames_of,
    get_empty,
    nack,
    on,
    reject,
)

COUNT = b"\0\0\0\3"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (on(1, m.ChannelFlow(True)), on(1, m.ChannelFlowOk(True))),
        (on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())),
        (bare(1, m.ACCESS_REQUEST, b"\x05/data\x00"), bare(1, m.ident(30, 11), b"\0\1")),
        (exchange(1), bare(1, m.ident(40, 11))),
        (on(1, m.ExchangeDelete(0, b"e", False, False)), bare(1, m.ident(40, 21))),
        (on(1, m.ExchangeBind(0, b"d", b"s", b"k", False, b"")), bare(1, m.ident(40, 31))),
        (on(1, m.ExchangeUnbind(0, b"d", b"s", b"k", False, b"")), bare(1, m.ident(40, 51))),
        (declare(1), on(1, m.QueueDeclareOk(b"x", 0, 0))),
        (declare(1, passive=True), on(1, m.QueueDeclareOk(b"x", 7, 1))),
        (bind(1), bare(1, m.ident(50, 21))),
        (on(1, m.QueuePurge(0, b"x", False)), bare(1, m.ident(50, 31), COUNT)),
        (on(1, m.QueueDelete(0, b"x", False, False, False)), bare(1, m.ident(50, 41), COUNT)),
        (on(1, m.QueueUnbind(0, b"x", b"e", b"k", b"")), bare(1, m.ident(50, 51))),
        (on(1, m.BasicQos(0, 5, False)), bare(1, m.ident(60, 11))),
        (consume(1), consume_ok(1)),
        (on(1, m.BasicCancel(b"c", False)), on(1, m.BasicCancelOk(b"c"))),
        (on(1, m.BasicGet(0, b"q", False)), get_empty(1)),
        (bare(1, m.BASIC_RECOVER, b"\x01"), on(1, m.BasicRecoverOk())),
        (on(1, m.ConfirmSelect(False)), on(1, m.ConfirmSelectOk())),
        (on(1, m.TxSelect()), on(1, m.TxSelectOk())),
        (bare(1, m.TX_COMMIT), on(1, m.TxCommitOk())),
        (bare(1, m.TX_ROLLBACK), on(1, m.TxRollbackOk())),
    ],
)
def test_a_request_and_its_answer_pass_as_they_are(request_, answer):
    (with_channel() >> FromClient(request_) << ToBroker(request_) >> FromBroker(answer) << ToClient(answer)).done()


@pytest.mark.parametrize("settle", [nack(1, 1, requeue=True), nack(1, 1, multiple=True), reject(1, 1)])
def test_what_a_consumer_refuses_passes_as_it_is(settle):
    story = (consuming() >> FromBroker(deliver(1, 1))).forget() >> FromClient(settle) << ToBroker(settle)
    assert story.done().journal.channels[1].window.open_count == 0


def test_a_passive_declaration_is_not_declared_again():
    story = (with_channel() >> FromClient(declare(1, passive=True))).forget()
    story = (story >> FromBroker(on(1, m.QueueDeclareOk(b"x", 7, 1)))).forget()
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_flow_that_was_not_answered_is_asked_again():
    flow = on(1, m.ChannelFlow(True))
    story = with_channel() >> FromClient(flow) << ToBroker(flow)
    (story >> FailOver() << ToBroker(REOPENED, flow)).done()


def test_a_recover_that_a_broker_would_refuse_is_asked_again():
    """RabbitMQ knows no recover without requeueing (540), and the loss does not make it right."""
    recover = bare(1, m.BASIC_RECOVER, b"\0")
    story = with_channel() >> FromClient(recover) << ToBroker(recover)
    (story >> FailOver() << ToBroker(REOPENED, recover)).done()


def test_a_broker_that_challenges_is_left():
    """The answer to a challenge cannot be given again to the next broker."""
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    challenge = bare(0, m.CONNECTION_SECURE, b"\0\0\0\1?")
    (story >> FromBroker(challenge) << Reported("failover_attempt_failed", {"endpoint": "rabbit1:5672"})).done()


def test_an_answer_to_a_challenge_that_nobody_gave_is_an_error():
    story = running() >> FromClient(bare(0, m.ident(10, 21), b"\0\0\0\1!"))
    closes = [frame for frame in frames_of(b"".join(story.to_client)) if frame[7:11] == b"\0\x0a\0\x32"]
    assert m.decode(m.ConnectionClose, closes[0][7:-1]).reply_code == 504
