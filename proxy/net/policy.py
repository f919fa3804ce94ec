"""What the operator decides about sockets: where to listen, how to dial."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import ConfigError

# More processes than any machine has use for: a typing error is more likely.
WORKERS_MAX = 64
RETAINED_BYTES_MIN = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ListenPolicy:
    """Where clients connect. Loopback unless the operator says otherwise.

    `workers` is how many processes serve them; each gets its share of the limits, which are for all together.
    `sessions_max` bounds sockets, and the memory of idle sessions; `retained_bytes_max` what is kept for all clients
    together: publishes, input, deliveries, and what waits in sockets.
    """

    host: str = "127.0.0.1"
    port: int = 5672
    workers: int = 1
    backlog: int = 1024
    sessions_max: int = 10000
    retained_bytes_max: int = 1024 * 1024 * 1024
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    shutdown_grace_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError("listen.port must be 0 (any free one) to 65535")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(f"listen.workers must be 1 (one process does everything) to {WORKERS_MAX}")
        if self.sessions_max < 1 or self.backlog < 1:
            raise ConfigError("listen.sessions_max and listen.backlog must be at least 1")
        if self.retained_bytes_max < self.workers * RETAINED_BYTES_MIN:
            each = f" for each of the {self.workers} listen.workers" if self.workers > 1 else ""
            raise ConfigError(f"listen.retained_bytes_max must be at least {RETAINED_BYTES_MIN}{each}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("listen.tls_cert and listen.tls_key go together")
        if self.tls_client_ca and not self.tls_cert:
            raise ConfigError("listen.tls_client_ca needs listen.tls_cert and listen.tls_key")
        if self.shutdown_grace_s < 0:
            raise ConfigError("listen.shutdown_grace_s must be 0 or more")


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """How brokers are dialled. `attachments_max` bounds the handshakes and replays under way at one endpoint at once.

    `spread_s` delays each attempt after a broker's death by a random time up to it, so that a thousand sessions do
    not knock at the same instant. TLS applies to endpoints that discovery marks as `amqps`.
    """

    connect_timeout_s: float = 3.0
    attachments_max: int = 64
    spread_s: float = 0.05
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_verify: bool = True

    def __post_init__(self) -> None:
        if self.connect_timeout_s <= 0:
            raise ConfigError("dial.connect_timeout_s must be above 0")
        if self.attachments_max < 1:
            raise ConfigError("dial.attachments_max must be at least 1")
        if self.spread_s < 0:
            raise ConfigError("dial.spread_s must be 0 or more")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("dial.tls_cert and dial.tls_key go together")
