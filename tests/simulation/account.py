"""What the client holds the cluster to: which messages must be there, which must not, which it has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.simulation.cluster import Violation


@dataclass
class Account:
    """Message bodies, all different. `wanted` must be taken by the cluster, `unwanted` must not (rolled back)."""

    wanted: set[bytes] = field(default_factory=set)
    unwanted: set[bytes] = field(default_factory=set)
    confirmed: set[bytes] = field(default_factory=set)
    settled: set[bytes] = field(default_factory=set)
    seen: Counter[bytes] = field(default_factory=Counter)
    seen_fresh: Counter[bytes] = field(default_factory=Counter)
    # How often the client has given one back, to see it again; and what it took without saying for which consumer.
    given_back: Counter[bytes] = field(default_factory=Counter)
    unknown: set[bytes] = field(default_factory=set)

    def arrived(self, body: bytes, *, redelivered: bool) -> None:
        self.seen[body] += 1
        self.seen_fresh[body] += not redelivered

    def check_safety(self, taken: Counter[bytes]) -> None:
        """What holds even if the connection had to end."""
        found(
            "a confirmed message was lost",
            (body for body in self.confirmed if body in self.wanted and not taken[body]),
        )
        found("a message was taken that was rolled back", (body for body in self.unwanted if taken[body]))

    def check_delivery(self, taken: Counter[bytes], replayed: int, *, all_seen: bool) -> None:
        """What holds when everything has come to its end."""
        self.check_safety(taken)
        found("a message accepted under at_least_once was lost", (b for b in self.wanted if not taken[b]))
        if all_seen:
            found("a message was never delivered", (b for b in self.wanted if not self.seen[b]))
        extra = sum(count - 1 for count in self.seen_fresh.values() if count > 1)
        if extra > replayed:
            raise Violation(f"{extra} duplicates are neither flagged nor counted, {replayed} publishes were replayed")

    def check_once(self, bodies: Iterable[bytes]) -> None:
        """Nothing is seen more often than its client wants."""
        known = (body for body in bodies if body not in self.unknown)
        found("a copy was shown", (body for body in known if self.seen[body] > 1 + self.given_back[body]))


def found(complaint: str, bodies: object) -> None:
    names = [body[:30] for body in bodies]
    if names:
        raise Violation(f"{complaint}: {names[:5]}")
