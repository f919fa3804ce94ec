"""One publish that no queue took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.session.channel import CONFIRM, Channel

Route = tuple[bytes, bytes]
# What is called when a publish is taken, or, with True, never will be.
Told = Callable[[bool], None]


@dataclass(slots=True, eq=False)
class Stray:
    """One publish that came back; `number` is its place in the ledger of its channel.

    `told` is of a transaction, which hears what becomes of it.
    `taken`: it was tried again, and some queue may have it since. `astray`: what is tried now has come back as well.
    `over`: it was given up while it was on its way.
    """

    channel: Channel
    number: int
    frames: bytes
    route: Route
    since: float
    told: Told | None = None
    taken: bool = False
    astray: bool = False
    over: bool = False

    @property
    def awaited(self) -> bool:
        """Whether its publisher hears of it."""
        asked = self.channel.mode == CONFIRM and self.number > self.channel.confirm_base
        return self.told is not None or asked
