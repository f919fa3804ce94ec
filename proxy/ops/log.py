"""The only place that logs. Reports come in, one line each goes out on standard output, and nobody waits for it.

A pipe that nobody empties would stop the event loop with the first line that does not fit. So lines are queued, within
limits, and a thread of their own writes them; what does not fit is dropped and counted, never waited for.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from proxy.reports import EVENTS, Report
from proxy.settings.policy import LogPolicy
from proxy.settings.redaction import without_userinfo

# Control characters (C0, DEL, C1), the line ends of Unicode, and what makes text run the other way. A client chooses
# its name and a broker its words: no terminal shall obey them, and no line pretend to be two.
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Lines that come within this time are written together: a thread that wakes for each would cost more than the line.
GATHER_S = 0.01


class LineWriter:
    """Write lines to a file descriptor from a thread, so that a full pipe stops nobody.

    `dropped` counts the lines that did not fit below `queue_bytes_max`, or that came after the reader had gone.
    """

    def __init__(self, descriptor: int, queue_bytes_max: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._queue_bytes_max = queue_bytes_max
        self._queue_bytes = 0
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # A daemon: at exit, a pipe that stays full must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line with its line end. Never blocks."""
        with self._changed:
            if self._closing or self._queue_bytes + len(line) > self._queue_bytes_max:
                self.dropped += 1
                return
            self._lines.append(line)
            self._queue_bytes += len(line)
            if len(self._lines) == 1:
                self._changed.notify()

    @property
    def has_room(self) -> bool:
        """Whether at least half of the queue is free."""
        return self._queue_bytes * 2 <= self._queue_bytes_max

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can. Here because structlog calls it after each line."""

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, then end; give up after `timeout_s` if nobody reads."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                self._changed.wait_for(lambda: self._closing, GATHER_S)
                lines = list(self._lines)
                self._lines.clear()
            if not lines:
                return
            try:
                for batch in _batches(lines):
                    self._write_all(batch)
            except OSError:  # the reader is gone, so the lines are
                with self._changed:
                    self.dropped += len(lines)
            with self._changed:
                # Only now, so that what the pipe holds back counts against the limit.
                self._queue_bytes -= sum(map(len, lines))

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process may have made the shared terminal or pipe non-blocking
                select.select([], [self._descriptor], [])


def _batches(lines: list[bytes]) -> Iterator[bytes]:
    """Join lines to what a pipe takes in one piece: where several processes share it, none shall split another's."""
    batch: list[bytes] = []
    room = select.PIPE_BUF
    for line in lines:
        if batch and len(line) > room:
            yield b"".join(batch)
            batch, room = [], select.PIPE_BUF
        batch.append(line)
        room -= len(line)
    yield b"".join(batch)


class Log:
    """The report sink of the process. `writer` tells what was lost on the way; `facts` go into every line."""

    def __init__(self, policy: LogPolicy, descriptor: int = 1, **facts: object) -> None:
        self.writer = LineWriter(descriptor, policy.queue_bytes_max)
        self._dropped_reported = 0
        render = _json if policy.format == "json" else _console(os.isatty(descriptor))

        def line_of(_: WrappedLogger, level: str, event: EventDict) -> bytes:
            facts = {key: _readable(value) for key, value in event.items() if key != "event"}
            return render({"timestamp": _timestamp(), "level": level, "event": event["event"], **facts})

        # One processor, since each costs a copy or a walk of its own, and every session's life has two lines.
        logger: WrappedLogger = structlog.wrap_logger(
            structlog.BytesLogger(self.writer),  # type: ignore[arg-type] # it needs write and flush only
            processors=[line_of],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[policy.level]),
            cache_logger_on_first_use=True,
        ).bind(**facts)
        self._emit: dict[str, Callable[..., object]] = {level: getattr(logger, level) for level in _LEVELS}

    def __call__(self, report: Report) -> None:
        """Log one report at the level that the catalogue gives its event."""
        if self.writer.dropped > self._dropped_reported and self.writer.has_room:
            lines, self._dropped_reported = self.writer.dropped - self._dropped_reported, self.writer.dropped
            self(Report("log_lines_dropped", {"lines": lines}))
        self._emit[EVENTS[report.event][0]](report.event, **report.facts)

    def adopt_libraries(self) -> None:
        """Turn what libraries log with the standard `logging` at warning or above into reports of ours."""
        root = logging.getLogger()
        root.addHandler(_Adopted(self))
        root.setLevel(logging.WARNING)

    def close(self) -> None:
        """Write what is queued and end; lines that come later are lost."""
        self.writer.close()


class _Adopted(logging.Handler):
    def __init__(self, report: Callable[[Report], None]) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, object] = {"library": record.name, "reason": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            facts["stack"] = record.exc_info[1]
        self._report(Report("library_complained", facts))


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _readable(value: object) -> object:
    """An exception becomes its stack, no URL shows its password, seconds are cut to micros."""
    if isinstance(value, str):
        return without_userinfo(value)
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, BaseException):
        return without_userinfo("".join(traceback.format_exception(value)))
    return value


def _json(event: dict[str, object]) -> bytes:
    try:
        line = orjson.dumps(event, default=_unknown, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # a lone surrogate or a huge number, as a client's name may hold
        return orjson.dumps({key: ascii(value) for key, value in event.items()})
    # orjson escapes C0 only. The others can stand nowhere but in strings, where JSON has another way to say them.
    return line if line.isascii() and b"\x7f" not in line else _COMMANDS.sub(_in_json, line.decode()).encode()


def _unknown(value: object) -> object:
    return list(value) if isinstance(value, set | frozenset | deque) else without_userinfo(repr(value))


def _in_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _printable(text: str) -> str:
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


def _console(colours: bool) -> Callable[[dict[str, object]], bytes]:
    renderer = structlog.dev.ConsoleRenderer(colors=colours)

    def render(event: dict[str, object]) -> bytes:
        for key, value in event.items():
            if not isinstance(value, str):  # the renderer shows its repr, which is printable
                continue
            if key == "stack":  # set in, so that none of its lines looks like one of the log
                event[key] = "\n".join("    " + _printable(line) for line in value.rstrip("\n").split("\n"))
            else:
                event[key] = _printable(value)
        return str(renderer(None, "", event)).encode(errors="backslashreplace")

    return render
