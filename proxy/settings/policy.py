"""What the operator decides about the process itself: its log and its admin API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.errors import ConfigError

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """How Sidehop speaks on its standard output.

    `queue_bytes_max` bounds what waits for a slow reader of the log. Lines beyond it are dropped and counted, since
    a log that nobody reads must not stop the relay.
    """

    format: LogFormat = "json"
    level: LogLevel = "info"
    queue_bytes_max: int = 1024 * 1024

    def __post_init__(self) -> None:
        if self.queue_bytes_max < 65536:
            raise ConfigError("log.queue_bytes_max must be at least 65536")


@dataclass(frozen=True, slots=True)
class AdminPolicy:
    """Where health checks, metrics and the API are served. Loopback unless the operator says otherwise.

    Whoever reaches it may read it: it has no login, never shows a secret, and can change nothing but end the process
    (`/quitquitquit`, only while it is bound to loopback).
    """

    host: str = "127.0.0.1"
    port: int = 15680

    def __post_init__(self) -> None:
        if not self.host:
            raise ConfigError("admin.host must not be empty (0.0.0.0 or :: mean every address)")
        if not 0 <= self.port <= 65535:
            raise ConfigError("admin.port must be 0 (any free one) to 65535")
