"""One publish that no queue took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.amqp import methods as m
from proxy.amqp.frames import HEAD, OVERHEAD_BYTES, Buffer, method_frame
from proxy.session.channel import CONFIRM, Channel
from proxy.session.stamp import unstamped

Route = tuple[bytes, bytes]
# What is called when a publish is taken, or, with True, never will be.
Told = Callable[[bool], None]


@dataclass(slots=True, eq=False)
class Stray:
    """One publish that came back; `number` is its place in the ledger of its channel.

    `asked_back`: its client made it mandatory, and gets it back if no queue will ever take it. `told` is of a
    transaction, which hears what becomes of it.
    `taken`: it was tried again, and some queue may have it since. `astray`: what is tried now has come back as well.
    `over`: it was given up while it was on its way.
    """

    channel: Channel
    number: int
    frames: bytes
    route: Route
    since: float
    asked_back: bool = False
    told: Told | None = None
    taken: bool = False
    astray: bool = False
    over: bool = False

    @property
    def awaited(self) -> bool:
        """Whether its publisher hears of it."""
        asked = self.channel.mode == CONFIRM and self.number > self.channel.confirm_base
        return self.told is not None or self.asked_back or asked

    def given_back(self, *, stamped: bool) -> bytes:
        """It as its client gets it back: `basic.return` and the content, without a mark of ours."""
        header_at = HEAD.unpack_from(self.frames)[2] + OVERHEAD_BYTES
        body_at = header_at + HEAD.unpack_from(self.frames, header_at)[2] + OVERHEAD_BYTES
        back = method_frame(self.channel.number, m.BasicReturn(312, b"NO_ROUTE", *self.route))
        pieces: list[Buffer] = [back, self.frames[header_at:body_at], self.frames[body_at:]]
        return b"".join(unstamped(pieces) if stamped else pieces)
