"""The thresholds that a session obeys. Code receives this, never the settings file or the environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.errors import ConfigError

PublishGuarantee = Literal["at_least_once", "as_sent"]
ForcedClose = Literal["pass", "recover"]
Unroutable = Literal["retry", "pass"]
LostQueues = Literal["recreate", "tell"]
DirectReplyTo = Literal["native", "emulated"]


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What a client is promised and what it may cost. Times are seconds, sizes are bytes.

    `publish_guarantee`: `at_least_once` asks the broker for confirms behind the back of publishers that use none, and
    publishes again what was not confirmed when a broker dies; `as_sent` does nothing the client did not ask for.
    `unroutable`: `retry` withholds the confirm of what no queue takes while a broker is down, and publishes it again
    for `failover_timeout_s`; `pass` believes a broker that confirms what it drops.
    `direct_reply_to`: `emulated` gives a client that consumes from `amq.rabbitmq.reply-to` a queue of its own, which
    survives a failover; `native` leaves it to the broker, whose reply addresses do not.
    `lost_queues`: the client's own exclusive, auto-delete and non-durable queues that died with a broker are declared
    again, empty (`recreate`), or the channels that use one are closed with 404 (`tell`).
    `heartbeat_s` is the interval on the broker leg: a hung broker is left after two intervals without a byte.
    `close_flush_timeout_s` bounds how long a close waits for confirms that only we know of; it is longer than it takes
    to notice a hung broker, so that what was accepted can still go elsewhere.
    `publish_bytes_max` bounds publishes that have begun and not ended, which no broker can confirm.
    `forced_close` says what a `connection.close 320` by an operator means: `recover` (another node, at most once a
    minute) or `pass` (told to the client). Shutdown and maintenance of a node are always recovered from.
    `redelivery_hold_timeout_s`: how long a client that holds deliveries of a broker that is gone is kept to its
    prefetch; 0: not at all. Deliveries beyond `redelivery_hold_bytes_max` for each client are shown all the same.
    `publish_ids`: each publish gets a header by which a copy of it is known.
    `suppress_duplicates`: a copy of what the client has settled is settled for it and not shown.
    `move_spread_s`: sessions leave a draining broker at random times within it. `move_timeout_s`: how long a channel
    goes without its consumers while the client settles what it holds; after that it stays for the time being.
    `home_down_timeout_s`: how long a consumer waits for a queue that is out of reach before its client is told.
    """

    publish_guarantee: PublishGuarantee = "at_least_once"
    unroutable: Unroutable = "retry"
    direct_reply_to: DirectReplyTo = "native"
    lost_queues: LostQueues = "recreate"
    failover_timeout_s: float = 60.0
    heartbeat_s: float = 5.0
    client_heartbeat_s: int = 60
    forced_close: ForcedClose = "recover"
    parked_bytes_max: int = 8 * 1024 * 1024
    unsettled_bytes_max: int = 64 * 1024 * 1024
    publish_bytes_max: int = 256 * 1024 * 1024
    delivery_hold_bytes_max: int = 1024 * 1024
    frame_max_bytes: int = 131072
    channel_max: int = 2047
    handshake_timeout_s: float = 10.0
    close_flush_timeout_s: float = 15.0
    retry_base_s: float = 0.05
    retry_max_s: float = 2.0
    nack_hold_s: float = 30.0
    redelivery_hold_timeout_s: float = 300.0
    redelivery_hold_bytes_max: int = 8 * 1024 * 1024
    publish_ids: bool = False
    suppress_duplicates: bool = False
    move_spread_s: float = 5.0
    move_timeout_s: float = 30.0
    home_down_timeout_s: float = 3600.0

    def flush_limit_s(self, *, well: bool) -> float:
        """How long an end waits for confirms that only we know of: briefly if all brokers are well."""
        return self.close_flush_timeout_s if well else self.failover_timeout_s

    @property
    def forces_mandatory(self) -> bool:
        """Whether confirmed publishes become mandatory behind the client's back."""
        return self.unroutable == "retry"

    def __post_init__(self) -> None:
        _need(self.failover_timeout_s > 0, "failover_timeout_s must be above 0")
        _need(1 <= self.heartbeat_s <= 3600, "heartbeat_s must be 1 to 3600 (5 to 20 is advised)")
        _need(0 <= self.client_heartbeat_s <= 65535, "client_heartbeat_s must be 0 (off) to 65535")
        _need(self.parked_bytes_max >= 65536, "parked_bytes_max must be at least 65536")
        _need(self.unsettled_bytes_max >= 65536, "unsettled_bytes_max must be at least 65536")
        _need(self.publish_bytes_max >= 65536, "publish_bytes_max must be at least 65536")
        _need(self.delivery_hold_bytes_max >= 4096, "delivery_hold_bytes_max must be at least 4096")
        _need(4096 <= self.frame_max_bytes <= 2**31 - 1, "frame_max_bytes must be at least 4096 (AMQP 0-9-1 4.2.3)")
        _need(3 <= self.channel_max <= 65535, "channel_max must be 3 to 65535")
        _need(self.handshake_timeout_s > 0, "handshake_timeout_s must be above 0")
        _need(self.close_flush_timeout_s >= 0, "close_flush_timeout_s must be 0 or more")
        _need(0 < self.retry_base_s <= self.retry_max_s, "retry_base_s must be above 0 and at most session.retry_max_s")
        _need(self.nack_hold_s >= 0, "nack_hold_s must be 0 or more")
        _need(self.redelivery_hold_timeout_s >= 0, "redelivery_hold_timeout_s must be 0 (off) or more")
        _need(self.redelivery_hold_bytes_max >= 65536, "redelivery_hold_bytes_max must be at least 65536")
        _need(self.move_spread_s >= 0, "move_spread_s must be 0 or more")
        _need(self.move_timeout_s > 0, "move_timeout_s must be above 0")
        _need(self.home_down_timeout_s >= 0, "home_down_timeout_s must be 0 or more")


def _need(fact: bool, text: str) -> None:
    if not fact:
        raise ConfigError(f"session.{text}")
