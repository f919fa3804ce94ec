"""Exchanges that the client itself has deleted behind publishes that no broker has confirmed yet."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.amqp import methods as m
from proxy.session.channel import Channel
from proxy.session.message import message_of

_NO_EXCHANGE = re.compile(rb"no exchange '(.*)' in vhost '", re.DOTALL)
# Only the latest are remembered.
DELETIONS_MAX = 1024


class Deletions:
    """Until which publish of a channel an exchange was there to route it.

    A broker that dies before it has confirmed such a publish leaves it to nobody: published again, it is refused, and
    its channel is over for what was no mistake.
    """

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted: list[tuple[Channel, bytes, int]] = []

    def note(self, exchange: bytes, channels: Iterable[Channel]) -> None:
        """An exchange is to be deleted, after what these channels have published."""
        noted = [each for each in self._noted if each[0].ledger.window.floor < each[2]]
        noted += [(each, exchange, each.ledger.window.top) for each in channels if each.ledger.unsettled]
        self._noted = noted[-DELETIONS_MAX:]

    def outlived_by(self, channel: Channel, close: m.ChannelClose) -> list[int]:
        """The numbers of what was published before, and again, if it was one of them that a broker has refused."""
        named = _NO_EXCHANGE.search(close.reply_text)
        if named is None or m.ident(close.class_id, close.method_id) != m.BASIC_PUBLISH:
            return []
        upto = max((top for own, name, top in self._noted if own is channel and name == named[1]), default=0)
        if not upto:
            return []
        ledger = channel.ledger
        again = ((number, frames) for number, frames in ledger.publishes_from(1) if number <= ledger.replayed_upto)
        return [n for n, frames in again if n <= upto and message_of(frames).exchange == named[1]]
