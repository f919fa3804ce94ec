"""Publishes of one channel that no broker has settled yet, kept whole until one has."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from proxy.amqp.frames import HEAD, METHOD, OVERHEAD_BYTES, Buffer, Region
from proxy.amqp.methods import BASIC_PUBLISH
from proxy.amqp.wire import U32
from proxy.session.window import Window

DIRECT_REPLY_TO = b"amq.rabbitmq.reply-to"

# A frame with a publish: the method, a reserved short, exchange, routing key, one octet of bits.
_PUBLISH_BYTES_MIN = OVERHEAD_BYTES + 4 + 2 + 1 + 1 + 1


# What keeping one run or one withheld publish takes beside its bytes: a message of 10 bytes by itself is kept in 300.
RUN_BYTES = 256


class Load:
    """What a session keeps in memory for others, in bytes; the limits of `SessionPolicy` apply to it."""

    __slots__ = ("held_bytes", "kept_bytes", "parked_bytes", "unsettled_bytes", "unsettled_bytes_max", "withheld")

    def __init__(self, unsettled_bytes_max: int = 0) -> None:
        self.held_bytes = 0
        self.kept_bytes = 0
        self.parked_bytes = 0
        self.unsettled_bytes = 0
        self.unsettled_bytes_max = unsettled_bytes_max
        # Publishes that no queue took; their bytes are among the unsettled ones.
        self.withheld = 0

    @property
    def retained_bytes(self) -> int:
        """All of it."""
        return self.held_bytes + self.kept_bytes + self.parked_bytes + self.unsettled_bytes

    def withhold(self, size_bytes: int) -> None:
        """Keep one publish more, or one less for a negative size."""
        sign = 1 if size_bytes > 0 else -1
        self.withheld += sign
        self.unsettled_bytes += size_bytes + sign * RUN_BYTES


class Run:
    """Consecutive publishes as brokers get them: whole frames, no object for each. `size_bytes`: what it takes.

    `asked_back`: it was the client that made them mandatory.
    """

    __slots__ = ("asked_back", "count", "first", "pieces", "size_bytes")

    def __init__(self, first: int, asked_back: int) -> None:
        self.first = first
        self.asked_back = asked_back
        self.count = 0
        self.pieces: list[Buffer] = []
        self.size_bytes = RUN_BYTES


# Of every channel that has published nothing yet: a deque of its own takes 0.7 KiB. Never appended to.
_NO_RUNS: deque[Run] = deque(maxlen=0)


class Ledger:
    """The unsettled publishes of one channel, numbered from 1 in the order in which the client sent them.

    A broker numbers the publishes of each channel it opens from 1 as well (RabbitMQ publisher confirms), so the two
    counts are equal until a failover. After one, the broker's first numbers name what was published again, in order
    but with gaps, and later numbers differ by a constant: `number_of` translates. A plain offset would be wrong.
    """

    __slots__ = (
        "_load",
        "_oldest_last",
        "_opened",
        "_opened_run",
        "_opened_size",
        "_replayed",
        "_runs",
        "_shift",
        "returned_upto",
        "unfinished",
        "window",
    )

    def __init__(self, load: Load) -> None:
        self._load = load
        # The run that was looked into last, taken apart: a broker speaks of publishes in their order.
        self._opened: list[bytes] = []
        self._opened_run: Run | None = None
        self._opened_size = 0
        self._runs = _NO_RUNS
        # The last number of the oldest run, or less: nothing can be given up before that one is settled.
        self._oldest_last = 0
        self._replayed: list[int] = []
        self._shift = 0
        self.window = Window()
        # The newest publish that the present broker has returned.
        self.returned_upto = 0
        # The newest publish is not complete: its content continues with the client's next frames.
        self.unfinished = False

    @property
    def unsettled(self) -> int:
        """How many publishes wait for a confirm."""
        return self.window.open_count

    @property
    def unfinished_bytes(self) -> int:
        """What is kept of the newest publish while it is not complete, with what came in the same chunk before it."""
        return self._runs[-1].size_bytes if self.unfinished else 0

    @property
    def untranslated(self) -> bool:
        """The broker's numbers are the ledger's numbers."""
        return not self._replayed and self._shift == 0

    @property
    def replayed_upto(self) -> int:
        """The last number of what was published again on the present channel; 0 if nothing was."""
        return self._replayed[-1] if self._replayed else 0

    def record(self, buf: Region, start: int, stop: int, count: int, unfinished: bool, asked_back: int) -> None:
        """Keep the publish frames `buf[start:stop]`, in which `count` publishes begin, all of them mandatory by the
        client's wish (`asked_back`) or none.

        A slice that is small beside its chunk is copied, so that one small publish does not keep 256 KiB alive.
        """
        size = stop - start
        piece = buf[start:stop] if size * 4 < len(buf) or size == len(buf) else memoryview(buf)[start:stop]
        if self.unfinished:
            run = self._runs[-1]
        else:
            run = Run(self.window.top + 1, asked_back)
            if self._runs is _NO_RUNS:
                self._runs = deque()
            self._runs.append(run)
            self._load.unsettled_bytes += RUN_BYTES
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
        """A broker has taken (or refused) a publish, or all up to it; returns how many were open.

        One whose content is still on its way cannot be taken, whatever a broker says.
        """
        if self.unfinished and number >= self.window.top:
            if not multiple:
                return 0
            number = self.window.top - 1
        window = self.window
        settled = window.settle_upto(number) if multiple else int(window.settle(number))
        if window.floor >= self._oldest_last:
            self._let_go()
        return settled

    def _let_go(self) -> None:
        """Give up the oldest runs as far as they are settled whole."""
        runs = self._runs
        self._oldest_last = 0
        while runs:
            oldest = runs[0]
            self._oldest_last = oldest.first + oldest.count - 1
            if self._oldest_last > self.window.floor or (self.unfinished and len(runs) == 1):
                return
            runs.popleft()
            self._load.unsettled_bytes -= oldest.size_bytes
            if oldest is self._opened_run:
                self._opened_run = None
                self._opened = []

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
        self._oldest_last = 0

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
            run.size_bytes = cut + RUN_BYTES
        else:
            self._runs.pop()
            self._load.unsettled_bytes -= RUN_BYTES
        self._oldest_last = 0
        self.settle(self.window.floor, multiple=True)
        return as_asked(whole[cut:], run.asked_back)

    def publishes_from(self, number: int) -> Iterator[tuple[int, bytes]]:
        """Open publishes from a number on, in order: their numbers and their frames as the client sent them."""
        for run in self._runs:
            if run.first + run.count <= number:
                continue
            for own, frames in enumerate(self._taken_apart(run), run.first):
                half = self.unfinished and own == self.window.top
                if own >= number and not half and self.window.is_open(own):
                    yield own, as_asked(frames, run.asked_back)

    def kept(self) -> Iterator[Buffer]:
        """Everything that is kept, in pieces of whole frames."""
        for run in self._runs:
            yield from run.pieces

    def replay(self) -> list[Buffer]:
        """All unsettled publishes in order, to be sent first on a fresh channel; renumbers what a confirm means."""
        assert not self.unfinished
        self._replayed = list(self.window.open_numbers())
        self._shift = self.window.top - len(self._replayed)
        self.returned_upto = 0
        pieces: list[Buffer] = []
        for run in self._runs:
            pieces.extend(self._unsettled_of(run))
        return pieces

    def clear(self) -> None:
        """Nobody waits for these publishes any more."""
        self._load.unsettled_bytes -= sum(run.size_bytes for run in self._runs)
        self._runs.clear()
        self._oldest_last = 0
        self._opened_run = None
        self._opened = []
        self.window.reset(self.window.top)
        self.unfinished = False

    def _taken_apart(self, run: Run) -> list[bytes]:
        if run is not self._opened_run or run.size_bytes != self._opened_size:
            whole = b"".join(run.pieces)
            starts = [*publish_starts(whole), len(whole)]
            self._opened = [whole[start:stop] for start, stop in pairwise(starts)]
            self._opened_run, self._opened_size = run, run.size_bytes
        return self._opened

    def _unsettled_of(self, run: Run) -> list[Buffer]:
        last = run.first + run.count - 1
        at = bisect_left(self._replayed, run.first)
        open_here = bisect_left(self._replayed, last + 1) - at
        if open_here == run.count:
            return run.pieces
        publishes = self._taken_apart(run)
        return [publishes[number - run.first] for number in self._replayed[at : at + open_here]]


def forcible(frames: Region, pos: int, stop: int) -> bool:
    """Whether a publish may become mandatory behind its client's back; its method frame is `frames[pos:stop]`.

    Not a reply by direct reply-to: RabbitMQ before 4.2 delivers it and returns it all the same.
    """
    if stop - pos < _PUBLISH_BYTES_MIN:
        return False  # the broker will say what is wrong with it
    return frames[pos + 13] != 0 or frames[pos + 14] <= 20 or frames[pos + 15 : pos + 36] != DIRECT_REPLY_TO


def force_mandatory(frames: bytearray) -> None:
    """Have a publish returned if no queue takes it, where it is `forcible`."""
    stop = _method_end(frames)
    if forcible(bytes(frames[:stop]), 0, stop):
        frames[stop - 2] |= 1


def as_asked(frames: bytes, asked_back: int) -> bytes:
    """The frames of one publish as its client sent them: mandatory if it was the client that asked for it."""
    stop = _method_end(frames)
    if asked_back or not frames[stop - 2] & 1:
        return frames
    copy = bytearray(frames)
    copy[stop - 2] &= ~1
    return bytes(copy)


def _method_end(frames: Region) -> int:
    size: int = HEAD.unpack_from(frames)[2]
    return size + OVERHEAD_BYTES


def publish_starts(frames: Region) -> list[int]:
    """Where a publish begins in a run of whole frames."""
    starts = []
    pos = 0
    while pos < len(frames):
        kind, _, size = HEAD.unpack_from(frames, pos)
        if kind == METHOD and U32.unpack_from(frames, pos + 7)[0] == BASIC_PUBLISH:
            starts.append(pos)
        pos += size + OVERHEAD_BYTES
    return starts
