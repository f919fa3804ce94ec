"""Queues, exchanges and bindings that died with their broker exist again before anything else happens."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.description import describe
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    FailOver,
    FromBroker,
    FromClient,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    with_channel,
)
from tests.support.engine_frames import bare, bind, consume, consume_ok, declare, exchange, on, publish, shortstr

SCRATCH = 2046
OPEN = on(SCRATCH, m.ChannelOpen())
DONE = on(SCRATCH, m.ChannelClose(200, b"done"))
BIND_OK, EXCHANGE_OK = bare(1, m.ident(50, 21)), bare(1, m.ident(40, 11))
LOCKED = m.ChannelClose(405, b"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x'", 50, 10)
CLASH = m.ChannelClose(406, b"PRECONDITION_FAILED - inequivalent arg", 50, 10)


def declare_ok(channel: int, queue: bytes = b"x") -> bytes:
    return on(channel, m.QueueDeclareOk(queue, 0, 0))


def on_scratch(frame: bytes) -> bytes:
    return frame[:1] + SCRATCH.to_bytes(2, "big") + frame[3:]


def asked(story, *pairs):
    """The client asks, the broker agrees."""
    for request, answer in pairs:
        story = (story >> FromClient(request)).forget()
        if answer:
            story = (story >> FromBroker(answer)).forget()
    return story


def owning(**given):
    """A client with an exclusive queue x."""
    return asked(with_channel(**given), (declare(1), declare_ok(1)))


def test_topology_is_declared_before_the_channels_are_opened():
    story = asked(with_channel(), (exchange(1), EXCHANGE_OK), (declare(1), declare_ok(1)), (bind(1), BIND_OK))
    story = story >> FailOver() << ToBroker(OPEN, *map(on_scratch, (exchange(1), declare(1), bind(1))))
    story = story >> FromBroker(*map(on_scratch, (on(1, m.ChannelOpenOk()), EXCHANGE_OK, declare_ok(1))))
    (story >> FromBroker(on_scratch(BIND_OK)) << ToBroker(DONE, REOPENED)).done()


def test_what_belongs_to_all_is_left_alone():
    story = asked(
        with_channel(),
        (exchange(1, durable=True), EXCHANGE_OK),
        (declare(1, durable=True, exclusive=False), declare_ok(1)),
        (bind(1), BIND_OK),
        (declare(1, passive=True), declare_ok(1)),
    )
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_an_exclusive_queue_goes_with_its_connection_though_it_is_durable():
    story = asked(with_channel(), (declare(1, durable=True), declare_ok(1)))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1, durable=True)))).done()


def test_a_nowait_declaration_is_asked_aloud_and_its_answer_kept_from_the_client():
    story = with_channel() >> FromClient(declare(1, nowait=True)) << ToBroker(declare(1)) >> FromBroker(declare_ok(1))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_a_nowait_declaration_that_the_broker_refuses_does_not_come_back():
    refused = on(1, m.ChannelClose(406, b"PRECONDITION_FAILED - inequivalent arg", 50, 10))
    story = with_channel() >> FromClient(declare(1, nowait=True)) << ToBroker(declare(1)) >> FromBroker(refused)
    (story.forget() >> FailOver()).done()


def test_a_deleted_queue_and_its_bindings_stay_away():
    delete, deleted = on(1, m.QueueDelete(0, b"x", False, False, False)), bare(1, m.ident(50, 41), b"\0\0\0\0")
    story = asked(owning(), (bind(1), BIND_OK), (delete, deleted))
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_deleted_exchange_and_its_bindings_stay_away():
    delete, deleted = on(1, m.ExchangeDelete(0, b"e", False, False)), bare(1, m.ident(40, 21))
    story = asked(owning(), (exchange(1), EXCHANGE_OK), (bind(1), BIND_OK), (delete, deleted))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_a_removed_binding_stays_away():
    unbind, unbound = on(1, m.QueueUnbind(0, b"x", b"e", b"k", b"")), bare(1, m.ident(50, 51))
    story = asked(owning(), (bind(1), BIND_OK), (unbind, unbound))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_exchange_bindings_come_back_after_both_ends():
    tie, tied = on(1, m.ExchangeBind(0, b"e", b"s", b"k", False, b"")), bare(1, m.ident(40, 31))
    story = asked(with_channel(), (exchange(1), EXCHANGE_OK), (exchange(1, b"s"), EXCHANGE_OK), (tie, tied))
    wanted = map(on_scratch, (exchange(1), exchange(1, b"s"), tie))
    (story >> FailOver() << ToBroker(OPEN, *wanted)).done()


def test_a_removed_exchange_binding_stays_away():
    tie, tied = on(1, m.ExchangeBind(0, b"e", b"s", b"k", False, b"")), bare(1, m.ident(40, 31))
    cut, was_cut = on(1, m.ExchangeUnbind(0, b"e", b"s", b"k", False, b"")), bare(1, m.ident(40, 51))
    story = asked(with_channel(), (exchange(1), EXCHANGE_OK), (tie, tied), (cut, was_cut))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(exchange(1)))).done()


def told(story, text, channel=1):
    """The broker refuses something of the client's; it opens its channel anew."""
    refused = on(channel, m.ChannelClose(404, b"NOT_FOUND - " + text, 60, 70))
    story = (story >> FromClient(on(channel, m.BasicGet(0, b"x", no_ack=False)))).forget()
    story = (story >> FromBroker(refused)).forget() >> FromClient(on(channel, m.ChannelCloseOk(), m.ChannelOpen()))
    return (story.forget() >> FromBroker(on(channel, m.ChannelOpenOk()))).forget()


def test_a_queue_that_somebody_else_has_deleted_stays_away_once_the_client_was_told():
    story = asked(owning(), (bind(1), BIND_OK), (declare(1, b"y"), declare_ok(1, b"y")))
    story = told(story, b"no queue 'x' in vhost '/'")
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1, b"y")))).done()


def test_so_does_an_exchange():
    story = told(asked(owning(), (exchange(1), EXCHANGE_OK), (bind(1), BIND_OK)), b"no exchange 'e' in vhost '/'")
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_a_queue_that_nobody_was_told_of_is_declared_again_as_by_a_client_that_reconnects():
    (owning() >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_a_queue_that_is_only_out_of_reach_is_not_forgotten():
    story = told(owning(), b"home node 'mq2' of durable queue 'x' in vhost '/' is down or inaccessible")
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_what_may_have_gone_with_a_broker_is_not_forgotten():
    story = asked(with_channel(1, 2), (declare(1), declare_ok(1)))
    story.troubled = True
    story = told(story, b"no queue 'x' in vhost '/'", channel=2)
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))).done()


def test_a_queue_that_is_about_to_be_back_is_not_forgotten():
    story = (held() >> FromBroker(on(2, m.ChannelOpenOk()), consume_ok(2))).forget()
    story = tried_again(told(story, b"no queue 'x' in vhost '/'", channel=2), on_scratch(declare_ok(1)))
    (story << ToBroker(DONE, REOPENED)).done()


def test_an_auto_delete_exchange_goes_with_its_last_binding():
    delete, deleted = on(1, m.QueueDelete(0, b"x", False, False, False)), bare(1, m.ident(50, 41), b"\0\0\0\0")
    story = asked(owning(), (exchange(1, auto_delete=True), EXCHANGE_OK), (bind(1), BIND_OK), (delete, deleted))
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_an_auto_delete_queue_goes_with_its_last_consumer():
    own = declare(1, exclusive=False, auto_delete=True)
    cancel, cancelled = on(1, m.BasicCancel(b"c", False)), on(1, m.BasicCancelOk(b"c"))
    story = asked(with_channel(), (own, declare_ok(1)), (consume(1, b"x"), consume_ok(1)), (cancel, cancelled))
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_queue_that_another_connection_still_holds_is_waited_for():
    story = owning() >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))
    story = story >> After(0.02) << ToBroker(OPEN, on_scratch(declare(1)))
    (story >> FromBroker(on_scratch(declare_ok(1))) << ToBroker(DONE, REOPENED)).done()


def test_a_clash_is_told_to_the_channel_that_declared_and_to_no_other():
    story = asked(with_channel(1, 2), (declare(1), declare_ok(1)))
    story = story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), CLASH)) << Reported("topology_lost", {"channel": 1})
    story = story << ToBroker(on(SCRATCH, m.ChannelCloseOk()), on(2, m.ChannelOpen())) << ToClient(on(1, CLASH))
    (story >> FromClient(on(1, m.ChannelCloseOk()))).done()


def test_a_clash_does_not_keep_the_rest_from_coming_back():
    story = asked(owning(), (declare(1, b"y"), declare_ok(1, b"y")))
    story = (story >> FailOver()).forget() >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), CLASH))
    (
        story << ToClient(on(1, CLASH)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()), OPEN, on_scratch(declare(1, b"y")))
    ).done()


def test_a_binding_that_cannot_return_is_forgotten():
    story = asked(owning(), (bind(1), BIND_OK))
    story = (story >> FailOver()).forget() >> FromBroker(
        on_scratch(on(1, m.ChannelOpenOk())), on_scratch(declare_ok(1))
    )
    story = (story >> FromBroker(on(SCRATCH, CLASH))).forget()
    story << Sees("forgotten", lambda s: not s.journal.topology.queue_bindings)


def test_an_exchange_that_cannot_return_is_forgotten():
    tie, tied = on(1, m.ExchangeBind(0, b"e", b"s", b"k", False, b"")), bare(1, m.ident(40, 31))
    story = asked(with_channel(), (exchange(1), EXCHANGE_OK), (tie, tied))
    story = (story >> FailOver()).forget() >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), CLASH))
    story.forget() << Sees("forgotten", lambda s: not len(s.journal.topology))


def test_an_exchange_binding_that_cannot_return_is_forgotten():
    tie, tied = on(1, m.ExchangeBind(0, b"e", b"s", b"k", False, b"")), bare(1, m.ident(40, 31))
    story = asked(with_channel(), (exchange(1), EXCHANGE_OK), (tie, tied))
    story = (story >> FailOver()).forget() >> FromBroker(
        on(SCRATCH, m.ChannelOpenOk()), on_scratch(EXCHANGE_OK), on(SCRATCH, CLASH)
    )
    story.forget() << Sees("forgotten", lambda s: not s.journal.topology.exchange_bindings)


def unnamed(**given):
    """A client asks for a queue without a name; returns the story and the name it was given."""
    story = with_channel(**given) >> FromClient(declare(1, b""))
    name = m.decode(m.QueueDeclare, story.to_broker.pop()[7:-1]).queue
    return story, name


def test_a_queue_without_a_name_gets_one_that_can_be_declared_again():
    story, name = unnamed()
    assert name.startswith(b"gen.")
    story = story >> FromBroker(declare_ok(1, name)) << ToClient(declare_ok(1, name))
    (story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1, name)))).done()


def test_the_last_declared_queue_is_meant_where_none_is_named():
    story, name = unnamed()
    story = (story >> FromBroker(declare_ok(1, name))).forget()
    story = story >> FromClient(bind(1, b"", key=b"")) << ToBroker(bind(1, name, key=name)) >> FromBroker(BIND_OK)
    story = story << ToClient(BIND_OK) >> FromClient(consume(1, b"", b"c")) << ToBroker(consume(1, name, b"c"))
    for asks, means in (
        (on(1, m.QueuePurge(0, b"", False)), on(1, m.QueuePurge(0, name, False))),
        (on(1, m.BasicGet(0, b"", False)), on(1, m.BasicGet(0, name, False))),
        (on(1, m.QueueUnbind(0, b"", b"e", b"", b"")), on(1, m.QueueUnbind(0, name, b"e", name, b""))),
        (on(1, m.QueueDelete(0, b"", False, False, False)), on(1, m.QueueDelete(0, name, False, False, False))),
    ):
        story = story >> FromClient(asks) << ToBroker(means)
    story.done()


def test_a_name_that_is_not_allowed_is_left_to_the_broker():
    story, _ = unnamed()
    refused = m.ChannelClose(403, b"ACCESS_REFUSED - configure access to queue refused", 50, 10)
    story = story >> FromBroker(on(1, refused)) << ToBroker(on(1, m.ChannelCloseOk()))
    story = story >> After(0.1) << ToBroker(REOPENED, declare(1, b"")) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromBroker(declare_ok(1, b"amq.gen-1")) << ToClient(declare_ok(1, b"amq.gen-1"))).done()


def test_a_queue_that_its_broker_has_named_is_lost_with_it_and_its_channel_is_told():
    story, _ = unnamed()
    story = (story >> FromClient(on(2, m.ChannelOpen()))).forget() >> FromBroker(on(2, m.ChannelOpenOk()))
    refused = m.ChannelClose(403, b"ACCESS_REFUSED - configure access to queue refused", 50, 10)
    story = (story.forget() >> FromBroker(on(1, refused))).forget() >> After(0.1)
    story = story.forget() >> FromBroker(on(1, m.ChannelOpenOk()), declare_ok(1, b"amq.gen-1"))
    story = story.forget() >> FailOver() << ToBroker(OPEN, on_scratch(declare(1, b"amq.gen-1")))
    reserved = m.ChannelClose(403, b"ACCESS_REFUSED - queue name 'amq.gen-1' contains reserved prefix 'amq.*'", 50, 10)
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), reserved))
    text = b"NOT_FOUND - queue 'amq.gen-1' was lost with its broker: only brokers may give it that name"
    story = story << Reported("topology_lost", {"channel": 1}) << ToClient(on(1, m.ChannelClose(404, text, 50, 10)))
    (story << ToBroker(on(SCRATCH, m.ChannelCloseOk()), on(2, m.ChannelOpen()))).done()


def test_an_auto_delete_queue_that_vanishes_between_declare_and_consume_is_declared_again():
    own = declare(1, exclusive=False, auto_delete=True)
    story = asked(with_channel(), (own, declare_ok(1)), (consume(1, b"x"), consume_ok(1)))
    story = (story >> FailOver()).forget() >> FromBroker(on_scratch(declare_ok(1)))
    story = story << ToBroker(DONE, REOPENED, consume(1, b"x"))
    gone = m.ChannelClose(404, b"NOT_FOUND - no queue 'x'", 60, 20)
    story = (story >> FromBroker(on(SCRATCH, m.ChannelCloseOk()), on(1, m.ChannelOpenOk(), gone))).forget()
    story = story >> After(0.1) << ToBroker(OPEN, on_scratch(own))
    (story >> FromBroker(on_scratch(declare_ok(1))) << ToBroker(DONE, REOPENED, consume(1, b"x"))).done()


def test_waiting_for_a_queue_does_not_spin():
    own = declare(1, exclusive=False, auto_delete=True)
    story = asked(with_channel(), (own, declare_ok(1)), (consume(1, b"x"), consume_ok(1)))
    story = (story >> FailOver()).forget() >> FromBroker(on_scratch(declare_ok(1)))
    gone = m.ChannelClose(404, b"NOT_FOUND - no queue 'x'", 60, 20)
    story = story.forget() >> FromBroker(on(SCRATCH, m.ChannelCloseOk()), on(1, m.ChannelOpenOk(), gone))
    story = (story.forget() >> After(0.1)).forget() >> After(1.0)
    story.forget().done()


def test_a_declared_name_longer_than_a_short_string_cannot_be():
    assert shortstr(bytes(300))[0] == 255


# What another connection holds for longer than it takes to notice the end of ours.


def held(**given):
    """Channel 1 has the exclusive queue x, which the old broker does not let go; 2 has nothing to do with it."""
    story = asked(with_channel(1, 2, **given), (declare(1), declare_ok(1)), (consume(2, b"q"), consume_ok(2)))
    story = (story >> FailOver()).forget()
    for _ in range(20):
        story = (story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))).forget()
        if story.session.journal.attached:
            return story
        story = (story >> After(2.0)).forget()
    raise AssertionError("all channels wait")


def tried_again(story, *answers: bytes):
    """The queue is asked for once more."""
    story = story >> After(2.6) << ToBroker(OPEN, on_scratch(declare(1)))
    return story >> FromBroker(on(SCRATCH, m.ChannelOpenOk()), *answers)


def test_only_the_channels_that_use_a_queue_wait_for_it():
    story = asked(with_channel(1, 2), (declare(1), declare_ok(1)), (consume(2, b"q"), consume_ok(2)))
    story = story >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))
    story = story >> After(0.9) << ToBroker(OPEN, on_scratch(declare(1)))  # for a second all of them wait
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))
    story = story >> After(0.2) << ToBroker(OPEN, on_scratch(declare(1)))
    story = story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))
    story = story << ToBroker(on(SCRATCH, m.ChannelCloseOk()), on(2, m.ChannelOpen()), consume(2, b"q"))
    story << Sees("the reason", lambda s: "[1] wait for" in describe(s)["waiting"] and "x" in describe(s)["waiting"])
    story = tried_again(story, on_scratch(declare_ok(1)))
    (story << ToBroker(DONE, REOPENED)).done()


def test_a_queue_that_stays_away_is_asked_for_again_and_again():
    story = held()
    for _ in range(3):
        story = tried_again(story, on(SCRATCH, LOCKED)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))
    story.done()


def test_what_is_said_on_a_waiting_channel_follows_when_its_queue_is_back():
    story = held() >> FromClient(consume(1, b"x"), publish(1, key=b"x"))
    story = tried_again(story, on_scratch(declare_ok(1)))
    (story << ToBroker(DONE, REOPENED, consume(1, b"x"), HIDDEN_CONFIRMS, publish(1, key=b"x"))).done()


def test_a_channel_waits_that_publishes_to_it_or_asks_for_it():
    story = asked(with_channel(1, 2, 3, 4), (declare(1), declare_ok(1)))
    story = story >> FromClient(publish(2, key=b"x"), publish(3, key=b"y"), on(4, m.BasicGet(0, b"x", False)))
    story = (story.forget() >> FailOver()).forget()
    story = (story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))).forget() >> After(1.1)
    story = story.forget() >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))
    again = on(3, m.ChannelOpen(), m.ConfirmSelect(nowait=True)) + publish(3, key=b"y")
    (story << ToBroker(on(SCRATCH, m.ChannelCloseOk()), again)).done()


def test_a_queue_that_is_never_let_go_costs_its_own_channel_only():
    story = held(failover_timeout_s=10.0)
    for _ in range(2):
        story = (tried_again(story, on(SCRATCH, LOCKED)) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))).forget()
        if not story.session.restoration.missing:
            break
    story << Sees(
        "nothing is waited for", lambda s: s.journal.channels[1].awaits_close_ok and not s.restoration.missing
    )


def test_a_queue_that_its_client_deletes_meanwhile_is_waited_for_no_more():
    story = held()
    story.session.journal.topology.delete_queue(b"x")
    (story >> After(2.6) << ToBroker(REOPENED)).done()


def test_the_loss_of_that_broker_as_well_begins_with_everything():
    story = held() >> FailOver() << ToBroker(OPEN, on_scratch(declare(1)))
    story = story >> FromBroker(on_scratch(declare_ok(1)))
    (story << ToBroker(DONE, REOPENED, on(2, m.ChannelOpen()), consume(2, b"q"))).done()


def test_bindings_wait_with_their_queue_and_other_queues_do_not():
    story = asked(
        with_channel(1, 2), (declare(1), declare_ok(1)), (bind(1), BIND_OK), (declare(2, b"y"), declare_ok(2, b"y"))
    )
    story = (story >> FailOver()).forget()
    story = (story >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))).forget() >> After(1.1)
    story = story.forget() >> FromBroker(on(SCRATCH, m.ChannelOpenOk(), LOCKED))
    story = story << ToBroker(on(SCRATCH, m.ChannelCloseOk()), OPEN, on_scratch(declare(2, b"y")))
    story = story >> FromBroker(on_scratch(declare_ok(2, b"y"))) << ToBroker(DONE, on(2, m.ChannelOpen()))
    story = story >> FromBroker(on(SCRATCH, m.ChannelCloseOk())) >> After(2.6)
    (story << ToBroker(OPEN, on_scratch(declare(1)), on_scratch(bind(1)))).done()


def declared_again():
    """A session whose queue is declared again at its next broker; its channel is not open there yet."""
    story = (with_channel() >> FromClient(declare(1))).forget() >> FromBroker(declare_ok(1))
    story = (story.forget() >> FailOver()).forget()
    return (
        story >> FromBroker(on_scratch(on(1, m.ChannelOpenOk())), on_scratch(declare_ok(1))) << ToBroker(DONE, REOPENED)
    )


def test_a_refusal_after_everything_was_declared_crosses_the_close():
    refused = on(SCRATCH, m.ChannelClose(404, b"NOT_FOUND"))
    story = declared_again() >> FromBroker(refused) << ToBroker(on(SCRATCH, m.ChannelCloseOk()))
    (story >> FromBroker(on(SCRATCH, m.ChannelCloseOk()), on(1, m.ChannelOpenOk()))).done()


def test_a_refusal_of_nothing_is_the_brokers_mistake():
    refused = on(SCRATCH, m.ChannelClose(404, b"NOT_FOUND"))
    story = (declared_again() >> FromBroker(on(SCRATCH, m.ChannelCloseOk()))).forget() >> FromBroker(refused)
    story << Reported("failover_started", {"reason": "broker refused a declaration that nobody made"})
