"""What every application of the drill is told, and how it tells what it saw."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

HEARTBEAT_S = 10
CONNECT_TIMEOUT_S = 5.0
RECONNECT_PAUSE_S = 0.05
# At most one second of publishes may wait for their confirms; then the publisher waits too.
UNCONFIRMED_MAX = 500
FINISH_S = 30.0
# How long a request is worth waiting for; then it is asked again, as callers do.
REPLY_TIMEOUT_S = 5.0
# An empty queue is asked for a message so often.
POLL_S = 0.01
# Publishes in one transaction.
TRANSACTION_MESSAGES = 10
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to"


@dataclass(slots=True)
class Application:
    """One sender or receiver: its orders, its numbering, and its report."""

    name: str
    brokers: list[tuple[str, int]]
    queue: str
    queue_type: str
    run: str
    rate: int
    prefetch: int
    stopping: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    stop_at_s: float = 0.0
    output: int = 1
    _due_s: float = 0.0
    _offset: int | None = None

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

    def pause_s(self, messages: int = 1) -> float:
        """How long to wait before the next so many, at the wanted rate. Who fell behind doesn't catch up in a burst."""
        self._due_s = max(self._due_s + messages / self.rate, time.monotonic() - 0.01)
        return max(0.0, self._due_s - time.monotonic())

    def wait_turn(self) -> None:
        """Sleep until the next message is due."""
        time.sleep(self.pause_s())

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

    def consumer_arguments(self) -> dict[str, Any]:
        """A reader of a stream begins at its beginning; one that had to reconnect, behind what it has seen."""
        if self.queue_type != "stream":
            return {}
        return {"x-stream-offset": "first" if self._offset is None else self._offset + 1}

    def tell_delivered(self, body: bytes, redelivered: bool | None, headers: Mapping[str, Any] | None = None) -> None:
        if headers and "x-stream-offset" in headers:
            self._offset = int(headers["x-stream-offset"])
        self.tell("delivered", self.number_of(body), bool(redelivered))

    def tell_undone(self, numbers: list[int], reason: str) -> None:
        """A transaction ended with an error of its channel alone: what it said of the outcome is held against it."""
        for number in numbers:
            self.tell("rolled_back" if "rolled back" in reason else "unknown", number, reason[:100])

    def tell(self, kind: str, number: int = 0, detail: object = None) -> None:
        line = json.dumps([round(time.monotonic(), 6), kind, number, detail], separators=(",", ":"))
        os.write(self.output, line.encode() + b"\n")

    def tell_lost(self, error: object) -> None:
        self.tell("disconnected", 0, f"{type(error).__name__}: {error}"[:300])
