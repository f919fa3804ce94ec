"""What every application of the drill is told, and how it tells what it saw."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

HEARTBEAT_S = 10
CONNECT_TIMEOUT_S = 5.0
RECONNECT_PAUSE_S = 0.05
# At most one second of publishes may wait for their confirms; then the publisher waits too.
UNCONFIRMED_MAX = 500
FINISH_S = 30.0


@dataclass(slots=True)
class Application:
    """One publisher or consumer: its orders, its numbering, and its report."""

    name: str
    brokers: list[tuple[str, int]]
    queue: str
    run: str
    rate: int
    prefetch: int
    stopping: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    stop_at_s: float = 0.0

    def obey_signals(self) -> None:
        """SIGTERM asks for a polite end."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        if not self.stopping:
            self.stopping, self.stop_at_s = True, time.monotonic() + FINISH_S

    def attempts(self) -> Iterator[tuple[str, int]]:
        """The brokers in turn, for ever, until the application is asked to end."""
        for broker in itertools.cycle(self.brokers):
            if self.stopping:
                return
            yield broker
            time.sleep(RECONNECT_PAUSE_S)

    def body(self, number: int) -> bytes:
        return f"{self.run} {number}".encode()

    def number_of(self, body: bytes) -> int:
        """The number a body carries. A message of another run is a defect of the drill, so it ends the application."""
        run, _, number = body.decode().partition(" ")
        if run != self.run:
            raise ValueError(f"a message of run {run!r} in the queue of run {self.run!r}")
        return int(number)

    def may_end(self, unconfirmed: int) -> bool:
        """True when the end was asked for and every confirm is here, or will not come."""
        return self.stopping and (not unconfirmed or time.monotonic() > self.stop_at_s)

    def tell(self, kind: str, number: int = 0, detail: object = None) -> None:
        line = json.dumps([round(time.monotonic(), 6), kind, number, detail], separators=(",", ":"))
        os.write(1, line.encode() + b"\n")

    def tell_lost(self, error: object) -> None:
        self.tell("disconnected", 0, f"{type(error).__name__}: {error}"[:300])
