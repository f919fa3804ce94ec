"""Messages that come to a client a second time, and what it said of them the first time."""

from __future__ import annotations

from enum import Enum
from itertools import takewhile
from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from proxy.amqp.frames import METHOD, Buffer, frame
from proxy.amqp.wire import U32, U64
from proxy.session.channel import NO_CONTENT, TX, Channel
from proxy.session.identity import identity_of, unmarked
from proxy.session.setup import ACKED, Setup
from proxy.session.uplink import Stage
from proxy.session.window import Window

if TYPE_CHECKING:
    from proxy.session.journal import Journal

# Messages that a session knows: those its client holds, and those it has answered. About 250 bytes each.
HELD_MAX = 65536
ANSWERED_MAX = 65536
# Shadows of one message; a publish is sent again once for each broker that is lost.
SHADOWS_MAX = 16

_DELIVER = U32.pack(m.BASIC_DELIVER)

# A queue, and what a message in it is known by.
Name = tuple[bytes, bytes]


class Answer(Enum):
    """What a client said of a message. `DOUBTED`: two messages have one name, so that it says nothing."""

    TAKEN = "taken"
    REFUSED = "refused"
    AGAIN = "again"
    DOUBTED = "doubted"


class Copies:
    """What the client of a session has been handed, on any of its channels.

    A copy of what it has answered gets that answer. A copy of what it still holds is a shadow: its client does not see
    it, and it will get the answer to the first. So nothing is ever settled at a broker before its client has said so,
    whoever makes a mistake about what is a copy of what.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: set[Name] = set()
        self._shadows: dict[Name, list[tuple[Handed, int]]] = {}
        # The oldest answers come first, and go first.
        self._answers: dict[Name, Answer] = {}
        self._owing: list[Handed] = []

    def known(self, name: Name) -> bool:
        """The client has been handed a message of this name, and it has not been forgotten."""
        return name in self._held or name in self._answers

    def answered(self, name: Name) -> bool:
        """The client has said for good what is to become of a message of this name."""
        return self._answers.get(name, Answer.DOUBTED) is not Answer.DOUBTED

    def hand_over(self, name: Name) -> bool:
        """The client is handed a message; False if it cannot be remembered."""
        if name in self._answers or len(self._held) >= HELD_MAX:
            return False
        self._held.add(name)
        return True

    def drop(self, name: Name, handed: Handed, tag: int) -> bool:
        """A delivery has come; True if it is a copy, so that the client is not to see it."""
        if name in self._held:
            shadows = self._shadows.setdefault(name, [])
            if len(shadows) >= SHADOWS_MAX:
                return False
            shadows.append((handed, tag))
            handed.shadows[tag] = name
            return True
        answer = self._answers.get(name, Answer.DOUBTED)
        if answer is Answer.DOUBTED:
            return False
        handed.shadows[tag] = name
        self._say(handed, tag, answer)
        return True

    def doubt(self, name: Name) -> None:
        """A second message of that name has come: neither is taken for the other from here on."""
        self.answer(name, Answer.AGAIN)
        self._note(name, Answer.DOUBTED)

    def answer(self, name: Name, answer: Answer) -> None:
        """What the client says of what it holds."""
        if name not in self._held:
            return
        self._held.remove(name)
        if answer is not Answer.AGAIN:
            self._note(name, answer)
        for handed, tag in self._shadows.pop(name, ()):
            self._say(handed, tag, answer)

    def lose(self, handed: Handed) -> None:
        """The broker has taken back the shadows of a channel."""
        for tag, name in handed.shadows.items():
            others = self._shadows.get(name)
            if others is None or (handed, tag) not in others:
                continue
            others.remove((handed, tag))
            if not others:
                del self._shadows[name]
        handed.shadows.clear()
        handed.owed.clear()
        if handed in self._owing:
            self._owing.remove(handed)

    def progress(self) -> None:
        """Say what could not be said inside a publish."""
        for handed in self._owing[:]:
            if handed.channel.publish_left != NO_CONTENT:
                continue
            self._owing.remove(handed)
            owed, handed.owed = handed.owed, {}
            for tag, answer in owed.items():
                self._say(handed, tag, answer)

    @property
    def owing(self) -> bool:
        """Something could not be said yet."""
        return bool(self._owing)

    def _note(self, name: Name, answer: Answer) -> None:
        self._answers.pop(name, None)
        self._answers[name] = answer
        if len(self._answers) > ANSWERED_MAX:
            del self._answers[next(iter(self._answers))]

    def _say(self, handed: Handed, tag: int, answer: Answer) -> None:
        """Settle a shadow at its broker. A broker that was asked to close or to recover the channel takes it back."""
        channel = handed.channel
        uplink = channel.uplink
        if channel.publish_left != NO_CONTENT:
            handed.owed[tag] = answer
            self._journal.stirred = True
            if handed not in self._owing:
                self._owing.append(handed)
            return
        del handed.shadows[tag]
        takes_back = any(request.request in (m.CHANNEL_CLOSE, m.BASIC_RECOVER) for request in channel.pending)
        if uplink is None or uplink.stage is not Stage.ATTACHED or takes_back:
            return
        if answer is Answer.TAKEN:
            ident, bits = m.BASIC_ACK, b"\0"
        else:
            ident, bits = m.BASIC_REJECT, b"\1" if answer is Answer.AGAIN else b"\0"
        channel.out.append(frame(METHOD, channel.number, U32.pack(ident) + U64.pack(tag - channel.offset) + bits))
        self._journal.counters.suppressed += answer is not Answer.AGAIN


class Handed:
    """What the client has been handed on one channel and has not answered; `shadows` are copies that it does not see.

    Keys are delivery tags as the client counts; those of brokers that are gone are among them.
    """

    __slots__ = ("_copies", "_held", "channel", "owed", "shadows")

    def __init__(self, channel: Channel, copies: Copies) -> None:
        self.channel = channel
        self._copies = copies
        self._held: dict[int, Name] = {}
        self.shadows: dict[int, Name] = {}
        self.owed: dict[int, Answer] = {}

    def arrived(self, content: list[Buffer]) -> list[Buffer]:
        """A content of the broker is complete, in pieces of one frame each; returns what the client is to see of it."""
        mark = unmarked(content)
        channel = self.channel
        window = channel.window
        tag = window.top
        if content[0][7:11] != _DELIVER or channel.mode == TX:
            return content
        method = bytes(content[0])
        entry = self._consumer(method[12 : 12 + method[11]])
        if entry is None or entry.no_ack != ACKED:
            return content
        identity = identity_of(entry.queue, mark, content)
        if identity is None:
            return content
        copies = self._copies
        name = (identity.queue, identity.what)
        redelivered = method[12 + method[11] + 8]
        if not identity.exact and not redelivered and copies.known(name):
            copies.doubt(name)
        elif not window.is_open(tag):
            # While it arrived the client acknowledged all there is, this one included. A broker takes that once.
            return [] if copies.answered(name) else content
        elif copies.drop(name, self, tag):
            window.settle(tag)
            return []
        if copies.hand_over(name):
            self._held[tag] = name
        return content

    def settle(self, tag: int, *, multiple: bool, answer: Answer) -> None:
        """The client answers a delivery, or all up to it."""
        upto = list(takewhile(lambda held: held <= tag, self._held)) if multiple else [tag]
        for each in upto:
            name = self._held.pop(each, None)
            if name is not None:
                self._copies.answer(name, answer)

    def lose_broker(self, window: Window) -> None:
        """What the client holds is stale from here on. In `window` is open what it has seen of this broker."""
        self._copies.lose(self)
        offset = self.channel.offset
        for tag in [each for each in self._held if each > offset and not window.is_open(each)]:
            self._copies.answer(self._held.pop(tag), Answer.AGAIN)

    def forget(self) -> None:
        """What the client holds is void, and comes again."""
        self._copies.lose(self)
        while self._held:
            self._copies.answer(self._held.popitem()[1], Answer.AGAIN)

    def _consumer(self, tag: bytes) -> Setup | None:
        return next((entry for entry in self.channel.setup if entry.tag == tag), None)
