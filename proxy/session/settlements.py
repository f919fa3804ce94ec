"""What the client says of deliveries that are not its present broker's own, or not its first copies."""

from __future__ import annotations

from itertools import takewhile

from proxy.amqp import methods as m
from proxy.amqp.wire import U32, U64
from proxy.session.channel import TX, Channel
from proxy.session.copies import Answer
from proxy.session.journal import Journal


class Settlements:
    """Acks, rejects and nacks on their way to the broker that gave the delivery, or to nobody.

    Tags up to a channel's offset name deliveries of a broker that is gone. Their messages come again, so what is said
    of them must reach nobody.
    """

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def take(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """The client settles a delivery, or all up to it."""
        arrears, handed = channel.arrears, channel.handed
        multiple = ident != m.BASIC_REJECT and bool(bits & 1)
        if arrears is not None:
            shown = arrears.shown(channel.window)
            if multiple and tag == 0:
                tag = channel.window.last_open(shown) or shown
            elif tag > shown:
                arrears.flush(self._journal.client_out)  # nobody has told it that number: the broker has to judge
            arrears.settle(tag, multiple=multiple)
        if multiple and handed is not None and handed.shadows:
            self._pass_one_by_one(channel, ident, tag, bits)
        else:
            self._pass(channel, ident, tag, bits)
        if handed is not None:
            handed.settle(tag or channel.window.top, multiple=multiple, answer=_answer(ident, bits))
        channel.relieve(self._journal.client_out)

    def _pass_one_by_one(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """Together they would include copies that the client has not seen, of what it may hold on another channel."""
        window = channel.window
        upto = tag or window.top
        for each in list(takewhile(lambda number: number <= upto, window.open_numbers())):
            self._pass(channel, ident, each, bits & ~1)
        if tag > window.top:
            self._pass(channel, ident, tag, bits)

    def _pass(self, channel: Channel, ident: int, tag: int, bits: int) -> None:
        """A multiple one goes on only if it settles something, since a broker answers one that does not with 406."""
        window = channel.window
        offset = channel.offset
        if ident != m.BASIC_REJECT and bits & 1:
            # A broker answers 406 to a number that was settled before, whatever is open below it.
            upto = tag or window.last_open(window.top)
            settled = window.settle_upto(upto or window.top)
            # A rollback makes acks undone that the window has settled, so in a transaction the broker has to judge.
            judged = channel.mode == TX and (tag == 0 or tag > offset)
            if not settled and not judged and tag <= window.top:
                self._journal.counters.stale_acks += 1
                return
            tag = tag if judged else upto
        elif tag <= offset and tag != 0:
            self._journal.counters.stale_acks += 1
            return
        else:
            window.settle(tag)
        head = b"\x01" + channel.number.to_bytes(2, "big") + b"\0\0\0\x0d" + U32.pack(ident)
        channel.out.append(head + U64.pack(max(tag - offset, 0)) + bytes((bits, 206)))


def _answer(ident: int, bits: int) -> Answer:
    if ident == m.BASIC_ACK:
        return Answer.TAKEN
    requeue = bits & (1 if ident == m.BASIC_REJECT else 2)
    return Answer.AGAIN if requeue else Answer.REFUSED
