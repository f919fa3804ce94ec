"""Short conversations, each about one part of the protocol. All that is said is the same each time, until a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.amqp import methods as m
from tests.simulation.client_channel import GET, OK, SHARED, ClientChannel
from tests.simulation.roles import Transactor
from tests.simulation.tape import Script, Tape
from tests.support.engine_frames import (
    ack,
    bare,
    bind,
    consume,
    declare,
    exchange,
    frames_of,
    nack,
    on,
    publish,
    reject,
)

# How long a client waits for what may be lost with a queue that dies with its connection, until it says it again.
PATIENCE_S = 5.0


def opened(tape: Tape, number: int, kind: type[ClientChannel] = ClientChannel) -> ClientChannel:
    """A channel that is about to be open."""
    channel = tape.client.channels[number] = kind(tape.client, number)
    channel.open()
    return channel


def selected(channel: ClientChannel, *, nowait: bool = False) -> None:
    """From here on it wants confirms."""
    channel.confirms, channel.published = True, 0
    if nowait:
        channel.send(on(channel.number, m.ConfirmSelect(True)))
    else:
        channel.ask(on(channel.number, m.ConfirmSelect(False)), OK["select"])


def published(tape: Tape, channel: ClientChannel, body: bytes, key: bytes = b"q1", exchange: bytes = b"") -> bytes:
    """Note a publish, and give its frames to be sent: its content is in several."""
    channel.published += 1
    if channel.confirms:
        channel.unconfirmed[channel.published] = body
    elif not exchange and key in SHARED:
        tape.unconfirmable.add(body)
    if not exchange:
        channel.note_published(key, body)
    return publish(channel.number, body, key=key, exchange=exchange, piece_bytes=2)


def consuming(channel: ClientChannel, queue: bytes, tag: bytes, *, no_ack: bool = False) -> None:
    """Ask for a queue's messages."""
    if no_ack:
        channel.no_ack.add(tag)
    told: Callable[[bytes], None] = lambda _: channel.consumers.update({tag: "on"})  # noqa: E731 - it is an answer
    channel.ask(consume(channel.number, queue, tag, no_ack=no_ack), OK["consume"], told)


def settled(channel: ClientChannel, tags: list[int]) -> None:
    """Ack them one by one."""
    for tag in tags:
        channel.settled([tag])
        channel.send(ack(channel.number, tag))


def confirms(tape: Tape) -> Script:
    """Publishes with confirms, before and behind each other."""
    channel = opened(tape, 1)
    selected(channel)
    yield lambda: not channel.asked
    for body in (b"one", b"two"):
        channel.send(published(tape, channel, body))
    yield lambda: not channel.unconfirmed
    for body in (b"three", b"four", b"five"):
        channel.send(published(tape, channel, body))
    yield lambda: not channel.unconfirmed


def consumes(tape: Tape) -> Script:
    """A consumer with a prefetch that acks several at once, gives one back, refuses another, and acks the rest."""
    bodies = (b"one", b"two", b"three", b"four", b"five")
    channel, plain = opened(tape, 1), opened(tape, 2)
    for body in bodies:
        plain.send(published(tape, plain, body))
    channel.ask(on(1, m.BasicQos(0, 3, False)), OK["qos"])
    consuming(channel, b"q1", b"c")
    yield lambda: len(channel.open_tags) == 3
    two = sorted(channel.open_tags)[:2]
    channel.settled(two)
    channel.send(ack(1, two[1], multiple=True))
    yield lambda: len(channel.open_tags) >= 2
    back, refused = sorted(channel.open_tags)[:2]
    again = {channel.open_tags[back], channel.open_tags[refused]}
    tape.client.account.given_back.update(again)
    channel.settled([back])
    channel.send(reject(1, back, requeue=True))
    channel.settled([refused])
    channel.send(nack(1, refused, requeue=True))
    while again or not set(bodies) <= tape.client.account.settled:
        yield lambda: channel.open_tags
        again -= set(channel.open_tags.values())
        settled(channel, list(channel.open_tags))
    channel.ask(on(1, m.BasicCancel(b"c", False)), OK["cancel"])
    channel.consumers[b"c"] = "ending"
    yield lambda: not channel.asked


def gets(tape: Tape) -> Script:
    """Publishes without confirms, and gets them one by one until there is nothing."""
    channel = opened(tape, 1)
    for body in (b"one", b"two"):
        channel.send(published(tape, channel, body))
    yield lambda: tape.cluster.taken[b"one"] and tape.cluster.taken[b"two"]
    while not {b"one", b"two"} <= tape.client.account.settled:
        channel.ask(on(1, m.BasicGet(0, b"q1", False)), GET)
        yield lambda: not channel.asked and not channel.arriving
        settled(channel, list(channel.open_tags))
    channel.ask(bare(1, m.BASIC_RECOVER, b"\x01"), OK["recover"])
    yield lambda: not channel.asked


def transactions(tape: Tape) -> Script:
    """A commit, a rollback, a commit of what was got; each is done again where a loss has ended its channel."""
    attempt = 0
    for steps in (("publish", True), ("publish", False), ("get", True)):
        done = False
        while not done:
            attempt += 1
            channel = tape.client.channels.get(1)
            if channel is None:
                channel = opened(tape, 1, Transactor)
                channel.tx = True
                channel.ask(bare(1, m.ident(90, 10)), OK["tx"])
            done = yield from _transaction(tape, channel, attempt, *steps)


def _transaction(tape: Tape, channel: Transactor, attempt: int, what: str, commit: bool) -> Iterator[Callable]:
    """One attempt. False if its channel was closed meanwhile."""
    here = lambda: tape.client.channels.get(1) is channel  # noqa: E731 - it is a question that is asked again
    if what == "publish":
        for name in (b"one", b"two"):
            channel.send(published(tape, channel, b"%s%d" % (name, attempt)))
    else:
        channel.ask(on(1, m.BasicGet(0, b"q1", False)), GET)
        yield lambda: not here() or not (channel.asked or channel.arriving)
        if not here():
            return False
        settled(channel, list(channel.open_tags))
    channel._end(commit=commit)
    yield lambda: not here() or not channel.asked
    return here()


def rpc(tape: Tape) -> Script:
    """A request over a shared queue, answered into the requester's exclusive queue, whose name a server gave."""
    asker, server = opened(tape, 1), opened(tape, 2)
    names: list[bytes] = []
    asker.ask(declare(1, b""), OK["declare"], lambda payload: names.append(m.decode(m.QueueDeclareOk, payload).queue))
    consuming(asker, b"", b"r", no_ack=True)
    consuming(server, b"q1", b"s")
    yield lambda: names and not asker.asked and not server.asked
    answers: list[bytes] = []
    answered = lambda: any(tape.client.account.seen[body] for body in answers)  # noqa: E731 - it is asked again
    attempt = 0
    while not answered():
        attempt += 1
        asker.send(published(tape, asker, b"ask%d" % attempt))
        late = tape.soon(PATIENCE_S)
        while not answered() and not late():
            yield lambda late=late: server.open_tags or late() or answered()
            for tag in list(server.open_tags):
                answers.append(b"yes%d" % len(answers))
                server.send(published(tape, server, answers[-1], key=names[0]))
                settled(server, [tag])


def nowait(tape: Tape) -> Script:
    """Everything that can be said without waiting for an answer."""
    channel = opened(tape, 1)
    channel.send(exchange(1, b"e", auto_delete=True, nowait=True))
    channel.send(declare(1, b"own", nowait=True))
    channel.send(bind(1, b"own", b"e", b"k", nowait=True))
    selected(channel, nowait=True)
    channel.consumers[b"c"] = "on"
    channel.send(consume(1, b"own", b"c", nowait=True))
    yield from _heard_of(tape, channel, b"e", b"k")
    channel.send(on(1, m.BasicCancel(b"c", True), m.QueueDelete(0, b"own", False, False, True)))
    channel.send(on(1, m.ExchangeDelete(0, b"e", False, True)))
    channel.open_tags.clear()
    channel.ask(on(1, m.BasicQos(0, 1, False)), OK["qos"])
    yield lambda: not channel.asked
    assert b"own" not in tape.cluster.queues, "a queue that was deleted is there"
    assert b"e" not in tape.cluster.exchanges.auto_delete, "an exchange that was deleted is there"


def topology(tape: Tape) -> Script:
    """An exchange bound to an exchange bound to an exclusive queue; all of them go when the first of them goes."""
    channel = opened(tape, 1)
    for name in (b"e1", b"e2"):
        channel.ask(exchange(1, name, auto_delete=True), m.ident(40, 11))
    channel.ask(on(1, m.ExchangeBind(0, b"e2", b"e1", b"k", False, b"")), m.ident(40, 31))
    channel.ask(on(1, m.ExchangeBind(0, b"e2", b"e1", b"never", False, b"")), m.ident(40, 31))
    channel.ask(declare(1, b"own"), OK["declare"])
    channel.ask(bind(1, b"own", b"e2", b"k"), OK["bind"])
    channel.ask(on(1, m.ExchangeUnbind(0, b"e2", b"e1", b"never", False, b"")), m.ident(40, 51))
    consuming(channel, b"own", b"c")
    yield lambda: not channel.asked
    yield from _heard_of(tape, channel, b"e1", b"k")
    settled(channel, list(channel.open_tags))
    bindings = {(b"e1", b"k", True, b"e2"), (b"e2", b"k", False, b"own")}
    yield lambda: tape.cluster.exchanges.bindings == bindings
    channel.ask(on(1, m.QueueDelete(0, b"own", False, False, False)), OK["delete"])
    channel.consumers[b"c"] = "ending"
    yield lambda: not channel.asked
    assert not tape.cluster.exchanges.bindings, "what was bound to a queue that is deleted is there"


def _heard_of(tape: Tape, channel: ClientChannel, source: bytes, key: bytes) -> Iterator[Callable]:
    """Publish until a message has come back and all is confirmed; one may be lost with its queue."""
    seen, heard, attempt = tape.client.account.seen, False, 0
    while not heard or channel.unconfirmed:
        attempt += 1
        body = b"hear%d" % attempt
        channel.send(published(tape, channel, body, key=key, exchange=source))
        late = tape.soon(PATIENCE_S)
        yield lambda late=late, body=body: late() or (seen[body] and not channel.unconfirmed)
        heard = seen[body]


def channels(tape: Tape) -> Script:
    """Three channels at once, their frames mixed; one is closed while what it has published is on its way."""
    loud, plain, ears = (opened(tape, number) for number in (1, 2, 3))
    selected(loud)
    consuming(ears, b"q1", b"c")
    yield lambda: not (loud.asked or plain.asked or ears.asked)
    queues = [
        frames_of(published(tape, loud, b"loud1") + published(tape, loud, b"loud2")),
        frames_of(published(tape, plain, b"plain1") + published(tape, plain, b"plain2")),
    ]
    while any(queues):
        for frames in queues:
            if frames:
                tape.client.send(frames.pop(0))
    plain.close()
    yield lambda: not loud.unconfirmed and 2 not in tape.client.channels
    bodies = (b"loud1", b"loud2", b"plain1", b"plain2")
    yield lambda: all(tape.client.account.seen[body] for body in bodies)
    settled(ears, list(ears.open_tags))


CONVERSATIONS = (confirms, consumes, gets, transactions, rpc, nowait, topology, channels)


def complete(conversation: Callable[[Tape], Script]) -> Callable[[Tape], Script]:
    """A conversation from the client's first word to its last."""

    def script(tape: Tape) -> Script:
        client = tape.client
        yield lambda: client.state == "running"
        tape.greeting_bytes = tape.carried_bytes
        yield from conversation(tape)
        client.close()
        yield lambda: tape.over

    return script
