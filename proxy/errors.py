"""What can go wrong, sorted by who must act.

A class exists only where some code branches on it. Incomplete input is a value, not an exception. Any other
exception that leaves the engine is a bug; the driver's outermost frame turns it into the end of that one session.
"""

from __future__ import annotations

# Reply codes as RabbitMQ names them at the start of a reply text.
_NAMES = {
    501: "FRAME_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    506: "RESOURCE_ERROR",
    505: "UNEXPECTED_FRAME",
    530: "NOT_ALLOWED",
    541: "INTERNAL_ERROR",
}


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

    @property
    def reply_text(self) -> str:
        """What the client is told, beginning as RabbitMQ's texts do."""
        return f"{_NAMES.get(self.reply_code, 'ERROR')} - {self.reason}"


class BrokerError(SidehopError):
    """The broker broke the protocol or is gone: fail over, keep the client."""


class ConfigError(SidehopError):
    """The operator must change the configuration; raised at start only, the text names the key and what is right."""
