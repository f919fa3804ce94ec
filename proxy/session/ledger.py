"""Publishes of one channel that no broker has settled yet, kept whole until one has."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from proxy.amqp.frames import HEAD, METHOD, OVERHEAD_BYTES, Buffer
from proxy.amqp.methods import BASIC_PUBLISH
from proxy.amqp.wire import U32
from proxy.session.window import Window


class Load:
    """What a session keeps in memory for others, in bytes; the limits of `SessionPolicy` apply to it."""

    __slots__ = ("kept_bytes", "parked_bytes", "unsettled_bytes")

    def __init__(self) -> None:
        self.kept_bytes = 0
        self.parked_bytes = 0
        self.unsettled_bytes = 0


class Run:
    """Consecutive publishes as the client sent them: whole frames, no object for each."""

    __slots__ = ("count", "first", "pieces", "size_bytes")

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self.pieces: list[Buffer] = []
        self.size_bytes = 0


class Ledger:
    """The unsettled publishes of one channel, numbered from 1 in the order in which the client sent them.

    A broker numbers the publishes of each channel it opens from 1 as well (RabbitMQ publisher confirms), so the two
    counts are equal until a failover. After one, the broker's first numbers name what was published again, in order
    but with gaps, and later numbers differ by a constant: `number_of` translates. A plain offset would be wrong.
    """

    __slots__ = ("_load", "_replayed", "_runs", "_shift", "unfinished", "window")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._runs: deque[Run] = deque()
        self._replayed: list[int] = []
        self._shift = 0
        self.window = Window()
        # The newest publish is not complete: its content continues with the client's next frames.
        self.unfinished = False

    @property
    def unsettled(self) -> int:
        """How many publishes wait for a confirm."""
        return self.window.open_count

    @property
    def untranslated(self) -> bool:
        """The broker's numbers are the ledger's numbers."""
        return not self._replayed and self._shift == 0

    def record(self, buf: bytes, start: int, stop: int, count: int, unfinished: bool) -> None:
        """Keep the publish frames `buf[start:stop]`, in which `count` publishes begin.

        A slice that is small beside its chunk is copied, so that one small publish does not keep 256 KiB alive.
        """
        size = stop - start
        piece = buf[start:stop] if size * 4 < len(buf) or size == len(buf) else memoryview(buf)[start:stop]
        if self.unfinished:
            run = self._runs[-1]
        else:
            run = Run(self.window.top + 1)
            self._runs.append(run)
        run.pieces.append(piece)
        run.count += count
        run.size_bytes += size
        self._load.unsettled_bytes += size
        self.window.top += count
        self.unfinished = unfinished

    def number_of(self, tag: int) -> int:
        """The ledger's number behind a broker's confirm tag."""
        return self._replayed[tag - 1] if 0 < tag <= len(self._replayed) else tag + self._shift

    def settle(self, number: int, multiple: bool) -> int:
        """A broker has taken (or refused) a publish, or all up to it; returns how many were open."""
        settled = self.window.settle_upto(number) if multiple else int(self.window.settle(number))
        floor = self.window.floor
        runs = self._runs
        while runs and runs[0].first + runs[0].count - 1 <= floor:
            if self.unfinished and len(runs) == 1:
                break
            self._load.unsettled_bytes -= runs.popleft().size_bytes
        return settled

    def compact(self) -> None:
        """Give up what is settled behind an older publish that is not: for when memory is short."""
        kept: deque[Run] = deque()
        for run in self._runs:
            last = run.first + run.count - 1
            unfinished = self.unfinished and run is self._runs[-1]
            if unfinished or self.window.any_open(run.first, last):
                kept.append(run)
            else:
                self._load.unsettled_bytes -= run.size_bytes
        self._runs = kept

    def take_unfinished(self) -> bytes:
        """Take back the publish whose content is not complete; it counts as never sent. Empty if there is none."""
        if not self.unfinished:
            return b""
        self.unfinished = False
        run = self._runs[-1]
        whole = b"".join(run.pieces)
        cut = publish_starts(whole)[-1]
        self.window.top -= 1
        run.count -= 1
        self._load.unsettled_bytes -= len(whole) - cut
        if run.count:
            run.pieces = [whole[:cut]]
            run.size_bytes = cut
        else:
            self._runs.pop()
        self.settle(self.window.floor, multiple=True)
        return whole[cut:]

    def replay(self) -> list[Buffer]:
        """All unsettled publishes in order, to be sent first on a fresh channel; renumbers what a confirm means."""
        assert not self.unfinished
        self._replayed = list(self.window.open_numbers())
        self._shift = self.window.top - len(self._replayed)
        pieces: list[Buffer] = []
        for run in self._runs:
            pieces.extend(self._unsettled_of(run))
        return pieces

    def clear(self) -> None:
        """Nobody waits for these publishes any more."""
        self._load.unsettled_bytes -= sum(run.size_bytes for run in self._runs)
        self._runs.clear()
        self.window.reset(self.window.top)
        self.unfinished = False

    def _unsettled_of(self, run: Run) -> list[Buffer]:
        last = run.first + run.count - 1
        at = bisect_left(self._replayed, run.first)
        open_here = bisect_left(self._replayed, last + 1) - at
        if open_here == run.count:
            return run.pieces
        whole = b"".join(run.pieces)
        starts = [*publish_starts(whole), len(whole)]
        numbers = self._replayed[at : at + open_here]
        return [whole[starts[n - run.first] : starts[n - run.first + 1]] for n in numbers]


def publish_starts(frames: bytes) -> list[int]:
    """Where a publish begins in a run of whole frames."""
    starts = []
    pos = 0
    while pos < len(frames):
        kind, _, size = HEAD.unpack_from(frames, pos)
        if kind == METHOD and U32.unpack_from(frames, pos + 7)[0] == BASIC_PUBLISH:
            starts.append(pos)
        pos += size + OVERHEAD_BYTES
    return starts
