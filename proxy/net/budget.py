"""What a process keeps for all its sessions together, and who has to wait when that is much.

Each session has limits of its own (`SessionPolicy`), but many sessions at their limits are more than a container has.
So what is kept is added up now and then, and whenever more was read than what is free: nothing is counted per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.reports import Report, ReportSink

# Above three quarters of the limit clients wait, until it is half. The last quarter is for what is on its way.
HIGH, LOW = 0.75, 0.5
# What is read may be kept twice, by the engine and in a socket's output; and a sum for each chunk would be too dear.
FILL_FACTOR, STEPS_MAX = 2, 64
# How often it is added up without that. While clients wait for room, they should not wait for us.
LOOK_S, LOOK_PRESSED_S = 1.0, 0.1
# Adding up takes some 4 us for each session, and may take no more than a twentieth of all time.
LOOK_PAUSE_S = 80e-6
# At the limit, confirms get this long to make room before a publish that cannot be confirmed is given up for it.
FULL_PATIENCE_S = 10.0
# It is told to be over when nobody has had to wait for this long: under a steady load it comes and goes many times.
CALM_S = 10.0


class Retainer(Protocol):
    """A session as the budget sees it."""

    @property
    def retained_bytes(self) -> int:
        """What is kept for it."""
        ...

    @property
    def unfinished_bytes(self) -> int:
        """The part of it that are publishes which have begun and not ended."""
        ...

    def press(self, share_bytes: int | None) -> None:
        """Wait with whatever would keep more than this; None: go on."""
        ...

    def overdraw(self, reason: str) -> None:
        """End the client with an error that says why."""
        ...


class Budget:
    """`limit_bytes` is `listen.retained_bytes_max`; `retained_bytes` is what was kept when it was last looked at.

    `pressed`: clients that keep more than a fair share are not read, nor are brokers whose client takes nothing, so
    that all have to wait for their peers and nothing is lost. The share shrinks to nothing at the limit, where new
    clients are refused (`full`). A client of which nothing is kept is always read: it can go on, one step at a time.
    """

    def __init__(self, limit_bytes: int, sessions: Callable[[], Sequence[Retainer]], report: ReportSink) -> None:
        self.limit_bytes = limit_bytes
        self.retained_bytes = 0
        self.pressed = False
        self._sessions = sessions
        self._report = report
        self._full_since: float | None = None
        # What was read since it was last added up, and when that is so much that it has to be added up again.
        self.unseen_bytes = 0
        self.credit_bytes = 0
        self._seen_bytes = 0
        self._pressed_at: float | None = None  # when it was last so; None: that was long ago
        self._told_full = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def read_bytes(self) -> int:
        """What was read from clients and brokers since the start."""
        return self._seen_bytes + self.unseen_bytes

    @property
    def full(self) -> bool:
        """The limit is reached."""
        return self._full_since is not None

    def start(self) -> None:
        """Look from here on, until `stop`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.look(loop.time()), self.start)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self, now: float) -> float:
        """Add up, and have wait whoever has to. Returns in how many seconds it has to be done again."""
        sessions = self._sessions()
        retained = self.retained_bytes = sum(each.retained_bytes for each in sessions)
        high = self.limit_bytes * HIGH
        self._seen_bytes += self.unseen_bytes
        self.unseen_bytes = 0
        self.credit_bytes = max(int(high - retained) // FILL_FACTOR, self.limit_bytes // STEPS_MAX)
        pause_s = LOOK_PAUSE_S * len(sessions)
        was_pressed = self.pressed
        self.pressed = retained >= high or (was_pressed and retained > self.limit_bytes * LOW)
        self._note_limit(now)
        if self.pressed:
            free = max(0.0, 1 - retained / self.limit_bytes) / (1 - HIGH)
            share_bytes = int(min(1.0, free) * high / max(1, len(sessions)))
            if self._pressed_at is None:
                self._tell("memory_high")
            self._pressed_at = now
            for each in sessions:
                each.press(share_bytes)
            self._make_room(sessions, now)
            return max(LOOK_PRESSED_S, pause_s)
        if was_pressed:
            for each in sessions:
                each.press(None)
        if self._pressed_at is not None and now >= self._pressed_at + CALM_S:
            self._pressed_at = None
            self._told_full = False
            self._tell("memory_eased")
        return max(LOOK_S, pause_s)

    def _note_limit(self, now: float) -> None:
        if self.retained_bytes < self.limit_bytes:
            self._full_since = None
            return
        if self._full_since is None:
            self._full_since = now
        if not self._told_full:
            self._told_full = True  # once in each time of pressure, however often the limit is touched
            self._tell("memory_full")

    def _make_room(self, sessions: Sequence[Retainer], now: float) -> None:
        """Half a publish cannot be confirmed, and its rest is not read: if that is all there is, one has to go."""
        if self._full_since is None or now < self._full_since + FULL_PATIENCE_S:
            return
        largest = max(sessions, key=lambda each: each.unfinished_bytes, default=None)
        if largest is not None and largest.unfinished_bytes:
            self._full_since = now
            largest.overdraw(f"all clients together fill listen.retained_bytes_max ({self.limit_bytes} bytes)")

    def _tell(self, event: str) -> None:
        facts: dict[str, object] = {"retained_bytes": self.retained_bytes, "limit_bytes": self.limit_bytes}
        self._report(Report(event, facts))
