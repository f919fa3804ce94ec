"""What goes into the life of one seed. Leaving one ingredient out changes no draw of the others.

A seed is one client with two to eight channels, each in a role of its own, on three nodes that fail while it works
and get well when it winds down. Most lives are short, since a bug needs few words and one fault at the wrong moment
rather than many of each: some forty acts of the client on three channels, either in a second, one fault right behind
the other, or in twelve, so that heartbeats run out and moves come to their end. A few are long and do all at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from proxy.session.policy import SessionPolicy
from tests.simulation.roles import (
    CARELESS,
    CONFIRMER,
    CONSUMER,
    HOMEBODY,
    MIXED,
    MODEST,
    OWNER,
    PUBLISHER,
    TRANSACTOR,
)

# How many seeds of a hundred have it.
SHARES = {
    # What the client does, and what it is promised.
    "as_sent": 10, "names": 40, "marks": 40,
    "owner": 50, "transactions": 60, "careless": 50, "modest": 50, "home": 50, "large": 30, "narrow": 40,
    # The shared queues need a majority of the nodes.
    "quorum": 60,
    # What happens to nodes, to connections, and to the session.
    "crash": 95, "leave": 95, "hang": 80, "cut": 95, "slow": 30, "alarm": 30, "operator": 25, "blackout": 20,
    "minority": 50, "delete": 50, "drain": 90, "tear": 40, "homeless": 60,
    # All nodes are down for longer than a session waits; nothing goes wrong, so that sessions move undisturbed.
    "long_blackout": 5, "calm": 25,
}  # fmt: skip
# Of a hundred lives: how many have so many acts of the client, in so many seconds, on so many channels at most.
LENGTHS = (
    (40, 40, 1.0, 3),
    (35, 40, 12.0, 3),
    (20, 120, 3.0, 4),
    (5, 500, 12.0, 8),
)
# Where the time limit is short, only one thing may use it up.
UNRELATED = ("hang", "owner", "careless", "delete", "operator", "slow", "blackout", "minority", "calm", "homeless")
DISTURBING = ("tear", "crash", "leave", "hang", "cut", "operator", "blackout", "minority", "owner")


@dataclass(frozen=True)
class Length:
    """How much the client does until it winds down, in how much time, on how many channels at most."""

    acts: int
    work_s: float
    channels: int


@dataclass(frozen=True)
class Recipe:
    """A seed, and which ingredients to leave out."""

    seed: int
    without: frozenset[str] = frozenset()

    def has(self, ingredient: str) -> bool:
        if ingredient in self.without:
            return False
        if ingredient in UNRELATED and self.has("long_blackout"):
            return False
        if ingredient in DISTURBING and self.has("calm"):
            return False
        return self.rng(ingredient).random() * 100 < SHARES[ingredient]

    def rng(self, part: str) -> random.Random:
        """Chance for one part of the world."""
        return random.Random(f"{self.seed} {part}")

    @property
    def ingredients(self) -> list[str]:
        return [name for name in SHARES if self.has(name)]

    def length(self) -> Length:
        """How long the life is, and how busy."""
        shares, *facts = zip(*LENGTHS, strict=True)
        return Length(*self.rng("length").choices(list(zip(*facts, strict=True)), shares)[0])

    def roles(self) -> tuple[int, ...]:
        """What the channels are for. There is always one that consumes: it looks in the end whether all is there."""
        extra = {"owner": OWNER, "transactions": TRANSACTOR, "careless": CARELESS, "modest": MODEST, "home": HOMEBODY}
        others = [CONFIRMER, PUBLISHER, MIXED, *extra.values()]
        self.rng("roles").shuffle(others)
        left_out = {role for name, role in extra.items() if not self.has(name)}
        used = [role for role in others if role not in left_out][: self.length().channels - 1]
        return (CONSUMER, *sorted(used))

    def policy(self) -> SessionPolicy:
        rng = self.rng("policy")
        parked, unsettled, hold = rng.choice((65536, 8 << 20)), rng.choice((65536, 64 << 20)), rng.choice((4096, 16384))
        return SessionPolicy(
            unroutable="pass"
            if self.rng("pass").random() < 0.1 and not (self.has("homeless") or self.has("home"))
            else "retry",
            publish_guarantee="as_sent" if self.has("as_sent") else "at_least_once",
            failover_timeout_s=8.0 if self.has("long_blackout") else 60.0,
            # A close waits no longer than that for what a queue without a quorum does not confirm.
            close_flush_timeout_s=30.0 if self.has("quorum") else 15.0,
            parked_bytes_max=parked,
            unsettled_bytes_max=unsettled,
            redelivery_hold_bytes_max=self.rng("redelivery").choice((65536, 8 << 20)),
            delivery_hold_bytes_max=hold if self.has("large") else 1 << 20,
            publish_ids=self.has("marks"),
            suppress_duplicates=self.has("names") or self.has("marks"),
            move_spread_s=rng.choice((0.0, 1.0)),
            move_timeout_s=rng.choice((0.1, 5.0)),
        )

    def large_bytes(self) -> int:
        return self.rng("large").choice((6000, 20000, 90000)) if self.has("large") else 0

    def frame_maxima(self) -> list[int]:
        """Of three nodes and of the client: what each takes."""
        if not self.has("narrow"):
            return [131072] * 4
        rng = self.rng("narrow")
        return [rng.choice((131072, 8192, 4096)) for _ in range(3)] + [rng.choice((131072, 4096))]

    def command(self) -> str:
        """What repeats it."""
        without = f" --without {','.join(sorted(self.without))}" if self.without else ""
        return f"python -m tests.simulation --seed {self.seed}{without}"
