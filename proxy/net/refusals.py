"""Clients that are turned away: what they did wrong in words, and how often that is said."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from proxy.reports import Report, ReportSink

# A stranger that knocks in a loop must not fill the disk.
SAY_EVERY_S = 10.0

_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"}


class Refusals:
    """A sink that passes `session_refused` at most every `SAY_EVERY_S` for each `cause`, and all else at once.

    The next line of a cause says with `left_out` how many were not told.
    """

    def __init__(self, report: ReportSink) -> None:
        self._report = report
        self._told_at: dict[object, float] = {}
        self._left_out: dict[object, int] = {}

    def __call__(self, report: Report) -> None:
        """Pass a report on, or count it."""
        if report.event != "session_refused":
            self._report(report)
            return
        cause = report.facts["cause"]
        now = asyncio.get_running_loop().time()
        if now < self._told_at.get(cause, now - SAY_EVERY_S) + SAY_EVERY_S:
            self._left_out[cause] = self._left_out.get(cause, 0) + 1
            return
        self._told_at[cause] = now
        self._report(Report(report.event, report.facts | {"left_out": self._left_out.pop(cause, 0)}))


def watch_handshakes(context: ssl.SSLContext, refused: Callable[[str], None]) -> None:
    """Have `refused(reason)` called for TLS handshakes that fail: the event loop keeps those to itself."""

    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError):
                raise
            except ssl.SSLError as error:
                refused(_in_words(error))
                raise

    context.sslobject_class = Watched


def _in_words(error: ssl.SSLError) -> str:
    if error.reason in _NO_TLS:
        return "it does not speak TLS; a port with listen.tls_cert is for amqps clients only"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return f"TLS handshake failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
