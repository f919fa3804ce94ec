"""Requests of a client that a broker has not answered yet."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

from proxy.amqp import methods as m
from proxy.amqp.wire import shortstr
from proxy.session.ledger import Load

_CONSUME, _CANCEL = m.method_id(m.BasicConsume), m.method_id(m.BasicCancel)
_OF_QUEUES = frozenset((_CONSUME, _CANCEL))
_BY_TAG = frozenset(m.REPLIES[_CONSUME] + m.REPLIES[_CANCEL])
_DECLARING = frozenset(map(m.method_id, (m.ExchangeDeclare, m.ExchangeBind, m.QueueDeclare, m.QueueBind)))

# What an error is about (RabbitMQ).
_NAMED = re.compile(rb"(?:queue|exchange) '(.*?)' in vhost '", re.DOTALL)


@dataclass(slots=True, eq=False)
class Commit:
    """A transaction on its way. `astray`: its publishes that no queue took, `waiting`: how many of them none has yet.

    `wanted_back`: routes (exchange and routing key as in the frame) on which the client has made a publish mandatory
    itself, so that what comes back there is its own.
    `answer` waits for the last of them. `lost`: there was no room to keep one.
    """

    wanted_back: frozenset[bytes]
    astray: list[bytes] = field(default_factory=list)
    waiting: int = 0
    lost: bool = False
    answer: bytes = b""

    def release(self, load: Load) -> None:
        """What came back is somebody else's to keep, or nobody's."""
        for frames in self.astray:
            load.withhold(-len(frames))


@dataclass(slots=True, eq=False)
class Pending:
    """A request whose answer has not come. After a failover its frame is sent again, behind the channel's replay.

    A hidden one is ours and part of a replay: its answer is swallowed. A silent one is of no interest to the client
    (`nowait`, or ours): the broker is asked for an answer all the same, since only that tells what it agreed to.
    `answered` gets the reply's payload; what it changes in the journal happens only then. `unnamed` is the client's
    own queue.declare where we put a name in, for brokers whose permissions refuse that name. `dirty` is a commit of
    work, whose outcome a loss hides; `commit` keeps what no queue takes of it. `declared_before`: a broker that is lost
    may have made this queue, so that what the cluster takes for another connection's is the client's own.
    """

    request: int
    frame: bytes
    hidden: bool = False
    silent: bool = False
    answered: Callable[[bytes], None] | None = None
    no_ack: bool = False
    dirty: bool = False
    unnamed: bytes = b""
    commit: Commit | None = None
    declared_before: bool = False


def leading_declarations(asked: list[Pending]) -> list[Pending]:
    """Unanswered declarations with nothing before them: what was published behind them, unheard, may need them.

    They are asked before it, though some of it may have come before them: to be there early harms no declaration.
    """
    return list(takewhile(lambda request: request.request in _DECLARING, asked))


def answered(pending: list[Pending], ident: int, frame: bytes) -> Pending | None:
    """Which request a method of the broker answers; None if it answers none.

    A broker answers in the order in which it was asked, but for `basic.consume` and `basic.cancel`: there it is the
    queue that answers, and what was asked right behind may be answered before.
    """
    first = None
    for request in pending:
        if ident in m.REPLIES[request.request]:
            if ident not in _BY_TAG or _same_tag(request, frame):
                return request
            first = first or request
        if request.request not in _OF_QUEUES:
            break
    return first


def refused(pending: list[Pending], close: m.ChannelClose) -> Pending | None:
    """Which request an error answers; None if it is about something that no answer is due for, as a publish.

    Of several of its kind it is the first that names what the error names: the answer to one that is granted may come
    late (`answered`), so that what is still open was not refused before what was.
    """
    alike = [each for each in pending if each.request == m.ident(close.class_id, close.method_id)]
    named = _NAMED.search(close.reply_text)
    about = [each for each in alike if named is not None and shortstr(named[1]) in each.frame]
    return next(iter(about or alike), None)


def _same_tag(request: Pending, frame: bytes) -> bool:
    """Whether consumer and answer have the same name. One that the broker is to name has none yet."""
    payload = request.frame[7:-1]
    method = m.decode(m.BasicConsume, payload) if request.request == _CONSUME else m.decode(m.BasicCancel, payload)
    size = frame[11]
    return method.consumer_tag in (b"", frame[12 : 12 + size])
