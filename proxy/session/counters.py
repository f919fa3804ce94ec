"""Plain integers that the hot path increments and that metrics read at scrape time.

`+= 1` on a slot costs 18 ns where a bound Prometheus child costs 318 ns, so nothing else is used per message.
"""

from __future__ import annotations


class Counters:
    """What one session did at one endpoint, or the sum of many. Messages and bytes; never decreasing."""

    __slots__ = (
        "bytes_from_broker",
        "bytes_from_client",
        "confirms",
        "deliveries",
        "publishes",
        "replayed_publishes",
        "returns",
        "settles",
        "stale_acks",
        "suppressed",
        "unrouted",
    )

    def __init__(self) -> None:
        self.bytes_from_client = 0
        self.bytes_from_broker = 0
        self.publishes = 0
        self.confirms = 0
        self.returns = 0
        self.deliveries = 0
        self.settles = 0
        self.stale_acks = 0
        self.suppressed = 0
        self.replayed_publishes = 0
        self.unrouted = 0

    def add(self, other: Counters) -> None:
        """Add another count to this one."""
        # Written out: a scrape adds up ten thousand sessions in one go, and a loop over the names takes 4 us each.
        self.bytes_from_client += other.bytes_from_client
        self.bytes_from_broker += other.bytes_from_broker
        self.publishes += other.publishes
        self.confirms += other.confirms
        self.returns += other.returns
        self.deliveries += other.deliveries
        self.settles += other.settles
        self.stale_acks += other.stale_acks
        self.suppressed += other.suppressed
        self.replayed_publishes += other.replayed_publishes
        self.unrouted += other.unrouted

    def take(self) -> Counters:
        """Hand over what was counted and start at zero again."""
        taken = Counters()
        taken.add(self)
        for name in Counters.__slots__:
            setattr(self, name, 0)
        return taken
