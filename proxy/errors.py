"""What can go wrong, sorted by who must act.

A class exists only where some code branches on it. Incomplete input is a value, not an exception. Any other
exception that leaves the engine is a bug; the driver's outermost frame turns it into the end of that one session.
"""

from __future__ import annotations


class SidehopError(Exception):
    """The common root. Carries the AMQP reply code that belongs on the wire (AMQP 0-9-1 section 1.2)."""

    reply_code = 541

    def __init__(self, reason: str, *, reply_code: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        if reply_code is not None:
            self.reply_code = reply_code


class ClientError(SidehopError):
    """The client broke the protocol or a limit: close the client, keep the broker out of it."""

    reply_code = 501


class BrokerError(SidehopError):
    """The broker broke the protocol or is gone: fail over, keep the client."""


class ConfigError(SidehopError):
    """The operator must change the configuration; raised at start only, the text names the key and what is right."""
