"""What crosses on the wire, comes too late or comes together: the moments that are easy to get wrong."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.description import describe
from proxy.session.window import Window
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    BrokerUp,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    ToBroker,
    ToClient,
    confirming,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import (
    BROKER_START,
    ack,
    bare,
    bind,
    consume,
    consume_ok,
    declare,
    deliver,
    frames_of,
    nack,
    on,
    publish,
)

CLOSE, CLOSE_OK = on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())
NO_EXCHANGE = on(1, m.ChannelClose(404, b"NOT_FOUND - no exchange 'x'", 60, 40))
SHUTDOWN = on(0, m.ConnectionClose(320, b"CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"))
LIMIT = b"NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (1) is reached"
VHOST_DOWN = b"INTERNAL_ERROR - access to vhost 'v' refused for user 'guest': vhost 'v' is down"
QOS = on(1, m.BasicQos(0, 10, False))


def test_a_parked_close_is_answered_when_the_broker_closes_first():
    story = (with_channel() >> FromClient(publish(1))).forget() >> FromClient(CLOSE)
    (story >> FromBroker(NO_EXCHANGE) << ToBroker(CLOSE_OK) << ToClient(NO_EXCHANGE, CLOSE_OK)).done()


def test_a_close_under_way_is_answered_when_the_brokers_close_crosses_it():
    story = with_channel() >> FromClient(CLOSE) << ToBroker(CLOSE)
    (story >> FromBroker(NO_EXCHANGE) << ToBroker(CLOSE_OK) << ToClient(NO_EXCHANGE, CLOSE_OK)).done()


def test_requests_without_a_queue_name_mean_the_last_one_asked_for_not_the_last_one_answered():
    answer = bare(1, m.ident(50, 11), b"\x02q1" + bytes(8))
    story = (
        with_channel() >> FromClient(declare(1, b"q1")) << ToBroker(declare(1, b"q1")) >> FromBroker(answer)
    ).forget()
    asked = FromClient(declare(1, b"q2", nowait=True), bind(1, b""), consume(1, b""))
    said = story >> asked
    bound = m.decode(m.QueueBind, frames_of(b"".join(said.to_broker))[1][7:-1])
    consumed = m.decode(m.BasicConsume, frames_of(b"".join(said.to_broker))[2][7:-1])
    assert (bound.queue, consumed.queue) == (b"q2", b"q2")


def test_what_a_broker_says_after_its_close_is_void():
    story = consuming() >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 1))
    story = (story >> FromBroker(SHUTDOWN, deliver(1, 2))).forget()
    story = (story >> Handshaken("rabbit2:5672")).forget() >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1))
    (story >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 2))).done()


def test_garbage_behind_a_close_is_no_bug_of_ours():
    story = (with_channel() >> FromBroker(SHUTDOWN, bare(0, m.ident(10, 99)))).forget()
    (story >> Handshaken("rabbit2:5672") << ToBroker(REOPENED)).done()


def test_a_protocol_error_in_parked_input_is_the_clients():
    story = (with_channel() >> BrokerLost()).forget() >> FromClient(bare(1, m.ident(60, 999)))
    story = story >> Handshaken("rabbit2:5672")
    close = next(frame for frame in story.to_client if frame[7:11] == b"\0\x0a\0\x32")
    assert m.decode(m.ConnectionClose, close[7:-1]).reply_code == 503
    assert [seen.outcome for seen in story.observed if seen.outcome != "handshaken"] == ["lost"]


@pytest.mark.parametrize(
    "refusal", [m.ConnectionClose(530, LIMIT), m.ConnectionClose(541, b"INTERNAL_ERROR - vhost 'v' is down")]
)
def test_what_one_tenant_has_used_up_is_not_held_against_the_broker(refusal):
    story = ((with_channel() >> BrokerLost()).forget() >> BrokerUp("rabbit2:5672")).forget()
    story = (story >> FromBroker(BROKER_START, on(0, refusal))).forget()
    assert [seen.outcome for seen in story.observed if seen.outcome not in ("handshaken", "lost")] == []


def test_a_failed_vhost_moves_its_clients_and_leaves_the_node_its_name():
    down = on(0, m.ConnectionClose(320, b"CONNECTION_FORCED - vhost 'v' is down"))
    story = (with_channel() >> FromBroker(down)).forget()
    assert story.session.attachment.searching
    assert [seen.outcome for seen in story.observed if seen.outcome != "handshaken"] == []


def test_a_confirmed_publish_behind_an_unconfirmed_one_is_given_up_when_memory_is_short():
    story = confirming(unsettled_bytes_max=100_000) >> FromClient(publish(1, bytes(1000)))
    story = (story.forget() >> FromClient(publish(1, bytes(90_000)))).forget() >> FromBroker(ack(1, 2))
    story = (story.forget() >> FromClient(publish(1, bytes(50_000)))).forget()
    assert (story.reading, story.session.journal.load.unsettled_bytes < 60_000) == (True, True)
    (
        story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1, bytes(1000)), publish(1, bytes(50_000)))
    ).done()


def test_a_broker_that_never_closes_a_channel_is_left():
    story = confirming(failover_timeout_s=20.0, heartbeat_s=3600.0)
    story.troubled = True
    story = ((story >> FromClient(publish(1))).forget() >> FromBroker(nack(1, 1))).forget() >> After(19.0)
    story = story >> After(2.0) << Reported("failover_started", {"reason": "broker did not close a channel"})
    story = (story.forget() >> Handshaken("rabbit2:5672")) << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1))
    assert story.session.journal.channels[1].restart_deadline is None, "what is tried there has its own time"
    story.done()


def test_a_cancel_of_no_consumer_leaves_the_prefetch():
    story = with_channel() >> FromClient(QOS) << ToBroker(QOS) >> FromBroker(bare(1, m.ident(60, 11)))
    story = (story.forget() >> FromClient(on(1, m.BasicCancel(b"", False)))).forget()
    story = (story >> FromBroker(bare(1, m.ident(60, 31), b"\0"))).forget()
    (story >> FailOver() << ToBroker(REOPENED, QOS)).done()


def test_a_rollback_lets_acks_be_given_again_after_a_failover():
    select, rollback = on(1, m.TxSelect()), bare(1, m.TX_ROLLBACK)
    story = ((consuming() >> FromClient(select)).forget() >> FromBroker(on(1, m.TxSelectOk()))).forget()
    story = (
        (story >> FailOver()).forget() >> FromBroker(on(1, m.ChannelOpenOk(), m.TxSelectOk()), consume_ok(1))
    ).forget()
    story = (story >> FromBroker(deliver(1, 1), deliver(1, 2))).forget() >> FromClient(ack(1, 2, multiple=True))
    story = ((story.forget() >> FromClient(rollback)).forget() >> FromBroker(on(1, m.TxRollbackOk()))).forget()
    (story >> FromClient(ack(1, 2, multiple=True)) << ToBroker(ack(1, 2, multiple=True))).done()


def test_everything_can_be_acked_after_a_commit_and_a_failover():
    # After the commit no delivery is open at the broker, which knows no number that was settled: 0 is always right.
    commit = bare(1, m.TX_COMMIT)
    story = ((consuming() >> FromClient(on(1, m.TxSelect()))).forget() >> FromBroker(on(1, m.TxSelectOk()))).forget()
    story = (story >> FromBroker(deliver(1, 1))).forget() >> FromClient(ack(1, 1) + commit)
    story = (story.forget() >> FromBroker(bare(1, m.ident(90, 21)))).forget()
    story = (
        (story >> FailOver()).forget() >> FromBroker(on(1, m.ChannelOpenOk(), m.TxSelectOk()), consume_ok(1))
    ).forget()
    story = (story >> FromBroker(deliver(1, 1))).forget() >> FromClient(ack(1, 2) + commit)
    story = (story.forget() >> FromBroker(bare(1, m.ident(90, 21)))).forget()
    (story >> FromClient(ack(1, 0, multiple=True)) << ToBroker(ack(1, 0, multiple=True))).done()


def test_a_search_uses_the_newest_secret():
    update = on(0, m.ConnectionUpdateSecret(b"fresh", b""))
    story = ((running() >> BrokerLost()).forget() >> FromClient(update)).forget() >> BrokerUp("rabbit2:5672")
    start = m.decode(m.ConnectionStartOk, frames_of(b"".join(story.to_broker)[8:])[0][7:-1])
    assert start.response.endswith(b"\0fresh")


def test_a_block_by_the_new_broker_is_not_taken_back():
    blocked, unblocked = on(0, m.ConnectionBlocked(b"memory")), on(0, m.ConnectionUnblocked())
    story = with_channel() >> FromBroker(blocked) << ToClient(blocked) >> BrokerLost() << ToClient(unblocked)
    story = (story.forget() >> Handshaken("rabbit2:5672")).forget() >> FromBroker(blocked) << ToClient(blocked)
    story = story >> FromBroker(on(1, m.ChannelOpenOk()))
    assert "blocks" in describe(story.session)["waiting"]


def test_a_window_knows_whether_anything_in_a_range_is_open():
    window = Window()
    window.top = 10
    for number in (1, 2, 4, 5, 6):
        window.settle(number)
    ranges = [(1, 2), (3, 3), (4, 6), (4, 7), (2, 3), (7, 10)]
    assert [window.any_open(*each) for each in ranges] == [False, True, False, True, True, True]
