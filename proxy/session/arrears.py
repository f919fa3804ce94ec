"""What the client still holds of brokers that are gone, and what therefore has to wait until it is shown."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from proxy.amqp.frames import Buffer
from proxy.amqp.wire import U32, U64
from proxy.session.ledger import Load
from proxy.session.window import Window

if TYPE_CHECKING:
    from proxy.session.setup import Setup

_DELIVER = U32.pack(m.BASIC_DELIVER)


def _tag_of(deliver: Buffer) -> int:
    return int(U64.unpack_from(deliver, 12 + deliver[11])[0])


class Arrears:
    """The stale deliveries of one channel, and the fresh ones that are kept back so that it holds what it asked for.

    A new broker knows nothing of what the client holds and fills the whole prefetch again. `stale` has the tags that
    the client has seen and not settled. What is kept is whole, is in order, and has the highest tags of the channel's
    window; it is shown as the client settles. The broker's own prefetch bounds it, and `bytes_max` for all channels
    of the client together: beyond that it is shown all the same. `until` is when waiting has taken too long.
    """

    __slots__ = ("_bytes_max", "_kept", "_load", "prefetch", "stale", "until")

    def __init__(self, stale: Window, setup: list[Setup], load: Load, bytes_max: int, until: float) -> None:
        self.stale = stale
        self.until = until
        self.prefetch = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._load = load
        self._bytes_max = bytes_max
        self.review(setup)

    @property
    def kept(self) -> int:
        """How many deliveries wait."""
        return len(self._kept)

    def review(self, setup: list[Setup]) -> None:
        """Find the one limit that all deliveries of the channel count against; 0 if there is none.

        Several consumers with a limit each have none: nobody has noted which of them a stale delivery was for. Neither
        has a channel that reads a stream: its place counts what was shown, and nothing comes again.
        """
        each = shared = 0
        limits: list[int] = []
        for entry in setup:
            if entry.tag:
                if not entry.no_ack:
                    limits.append(each)
                continue
            count = m.decode(m.BasicQos, entry.frame[7:-1]).prefetch_count
            if entry.is_global:
                shared = count
            else:
                each = count
        own = limits[0] if len(limits) == 1 else 0
        limit = min(own, shared) if own and shared else own or shared
        self.prefetch = 0 if any(entry.placed for entry in setup) else limit

    def take(self, pieces: list[Buffer], window: Window, out: list[Buffer]) -> None:
        """Show a complete content, or keep it.

        A message that was returned or asked for counts against no limit, and neither does a delivery without
        acknowledgement. Such a delivery may be what the client waits for, so that nothing may wait before it.
        A reply by direct reply-to is none of the window's numbers.
        """
        if not pieces or pieces[0][7:11] != _DELIVER:
            out.extend(pieces)
        elif _tag_of(pieces[0]) == window.top and self._must_wait(window):
            content = b"".join(pieces)  # the pieces would keep alive the chunks that they are slices of
            self._kept.append((window.top, content))
            self._load.kept_bytes += len(content)
            if self._load.kept_bytes > self._bytes_max:
                self.flush(out)
            else:
                self.release(window, out)
        else:
            self.flush(out)
            out.extend(pieces)

    def _must_wait(self, window: Window) -> bool:
        """Whether the delivery that has just come, whose tag is the highest, may not be shown yet."""
        if not self.prefetch or not window.is_open(window.top):
            return False
        return bool(self._kept) or self.stale.open_count + window.open_count > self.prefetch

    def shown(self, window: Window) -> int:
        """The highest tag that the client has seen."""
        return self._kept[0][0] - 1 if self._kept else window.top

    def settle(self, tag: int, *, multiple: bool) -> None:
        """The client settles what is stale of these."""
        if multiple:
            self.stale.settle_upto(tag)
        else:
            self.stale.settle(tag)

    def release(self, window: Window, out: list[Buffer]) -> None:
        """Show what there is room for."""
        if not self.prefetch or not self.stale.open_count:
            self.flush(out)
            return
        while self._kept and self.stale.open_count + window.open_count - len(self._kept) < self.prefetch:
            self._show(out)

    def flush(self, out: list[Buffer]) -> None:
        """Show everything: something comes that may not overtake it, or it has waited for long enough."""
        while self._kept:
            self._show(out)

    def drop(self, window: Window) -> None:
        """Forget what is kept: the broker will deliver it again."""
        for tag, content in self._kept:
            window.settle(tag)
            self._load.kept_bytes -= len(content)
        self._kept.clear()

    def _show(self, out: list[Buffer]) -> None:
        _, content = self._kept.popleft()
        self._load.kept_bytes -= len(content)
        out.append(content)
