"""Simulated time, and wires that cut what they carry into other pieces."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class Clock:
    """Runs what is due, in order; the same seed gives the same order."""

    def __init__(self) -> None:
        self.now = 100.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, call))

    def step(self, until: float) -> bool:
        """Do the next thing; False if nothing is due until then."""
        if not self._heap or self._heap[0][0] > until:
            self.now = max(self.now, until)
            return False
        at, _, call = heapq.heappop(self._heap)
        self.now = at
        call()
        return True


class Wire:
    """One direction of a connection: in order, late, and in pieces of its own choice. `slowness` stretches delays."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        receive: Callable[[bytes], None],
        slowness: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._receive = receive
        self._slowness = slowness
        self._buffer = bytearray()
        self._pumping = False
        self._paused = False
        self._dead = False
        self._ended: Callable[[], None] | None = None

    def send(self, data: bytes) -> None:
        if not self._dead and self._ended is None:
            self._buffer += data
            self._pump_soon()

    @property
    def empty(self) -> bool:
        """Nothing is on its way."""
        return not self._buffer

    def pause(self, paused: bool) -> None:
        self._paused = paused
        self._pump_soon()

    def cut(self) -> None:
        """Nothing more arrives."""
        self._dead = True
        self._buffer.clear()

    def close(self, ended: Callable[[], None]) -> None:
        """What was sent still arrives, then the end does."""
        self._ended = ended
        self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping and not self._dead and not self._paused:
            self._pumping = True
            self._clock.after(self._rng.choice((0.0002, 0.001, 0.004)) * self._slowness(), self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if self._dead or self._paused:
            return
        if self._buffer:
            count = len(self._buffer)
            if self._rng.random() < 0.3:
                count = self._rng.randint(1, count)
            data = bytes(self._buffer[:count])
            del self._buffer[:count]
            self._receive(data)
        if self._buffer:
            self._pump_soon()
        elif self._ended is not None and not self._dead:
            self._dead = True
            self._ended()
