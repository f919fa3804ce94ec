"""What became of every message, and how long the application waited. Pure: logs in, figures out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from benchmarks.drill.faults import Fault

# A silence that begins later than this after a fault is another one's: the node's return, or the machine's.
EFFECT_S = 3.0


class Entry(NamedTuple):
    """One line that an application told: when (monotonic seconds), what, of which message, with which detail."""

    at_s: float
    kind: str
    number: int
    detail: object


@dataclass(slots=True)
class Verdict:
    """The figures of one client on one way. Times in milliseconds; None where there was nothing to measure."""

    client: str
    mode: str
    failure: str = ""
    faults: int = 0
    disconnects: int = 0
    refused_connects: int = 0
    published: int = 0
    confirmed: int = 0
    nacked: int = 0
    confirmed_but_lost: int = 0
    accepted_but_lost: int = 0
    duplicates_flagged: int = 0
    duplicates_unflagged: int = 0
    replayed: int | None = None
    duplicates_unexplained: int = 0
    longest_confirm_gap_ms: float | None = None
    longest_delivery_gap_ms: float | None = None
    confirm_gap_per_fault_ms: dict[str, float] = field(default_factory=dict)
    delivery_gap_per_fault_ms: dict[str, float] = field(default_factory=dict)
    recovery_ms: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    lost_numbers: list[int] = field(default_factory=list)
    per_fault: list[dict[str, object]] = field(default_factory=list)

    @property
    def promises_kept(self) -> bool:
        """What Sidehop promises: nothing seen, nothing lost, nothing twice without being counted."""
        return not (
            self.disconnects or self.nacked or self.confirmed_but_lost or self.accepted_but_lost
            or self.duplicates_unexplained
        )  # fmt: skip

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def judge(
    client: str,
    mode: str,
    publisher: Sequence[Entry],
    consumer: Sequence[Entry],
    drained: Iterable[tuple[int, bool]],
    faults: Sequence[Fault],
    replayed: int | None,
) -> Verdict:
    """Account for every message of one run.

    `drained` is what was still in the queue at the end, as (number, redelivered). `replayed` is what Sidehop says it
    published again: a duplicate without the redelivered flag is explained only by one of those.
    """
    verdict = Verdict(client, mode, faults=len(faults), replayed=replayed)
    published = {entry.number for entry in publisher if entry.kind == "published"}
    confirmed = {entry.number for entry in publisher if entry.kind == "confirmed"}
    nacked = {entry.number for entry in publisher if entry.kind == "nacked"}
    arrivals = [(entry.number, bool(entry.detail)) for entry in consumer if entry.kind == "delivered"]
    arrived: set[int] = set()
    for number, redelivered in [*arrivals, *drained]:
        if number in arrived:
            verdict.duplicates_flagged += redelivered
            verdict.duplicates_unflagged += not redelivered
        arrived.add(number)
    lost = published - arrived
    verdict.published, verdict.confirmed, verdict.nacked = len(published), len(confirmed), len(nacked)
    verdict.confirmed_but_lost = len(lost & confirmed)
    verdict.accepted_but_lost = len(lost - confirmed - nacked)
    verdict.lost_numbers = sorted(lost & confirmed)[:100]
    if replayed is not None:
        verdict.duplicates_unexplained = max(0, verdict.duplicates_unflagged - replayed)
    told = [(role, entry) for role, log in (("publisher", publisher), ("consumer", consumer)) for entry in log]
    verdict.disconnects = sum(entry.kind == "disconnected" for _, entry in told)
    verdict.refused_connects = sum(entry.kind == "refused" for _, entry in told)
    verdict.reasons = [f"{role}: {entry.detail}" for role, entry in told if entry.kind == "disconnected"][:40]
    _add_waits(verdict, publisher, consumer, faults)
    return verdict


def _add_waits(
    verdict: Verdict, publisher: Sequence[Entry], consumer: Sequence[Entry], faults: Sequence[Fault]
) -> None:
    """The gaps count until the publisher's last publish: after it, silence is no outage."""
    end_s = max((entry.at_s for entry in publisher if entry.kind == "published"), default=0.0)
    confirms = [entry.at_s for entry in publisher if entry.kind == "confirmed" and entry.at_s <= end_s]
    deliveries = [entry.at_s for entry in consumer if entry.kind == "delivered" and entry.at_s <= end_s]
    if not faults or len(confirms) < 2 or len(deliveries) < 2:
        return
    windows = list(zip(faults, [*(fault.at_s for fault in faults[1:]), end_s], strict=True))
    confirm_gaps = [longest_gap(confirms, fault.at_s, until_s) for fault, until_s in windows]
    delivery_gaps = [longest_gap(deliveries, fault.at_s, until_s) for fault, until_s in windows]
    verdict.longest_confirm_gap_ms = _ms(max(length for length, _ in confirm_gaps))
    verdict.longest_delivery_gap_ms = _ms(max(length for length, _ in delivery_gaps))
    verdict.confirm_gap_per_fault_ms = spread([length for length, _ in confirm_gaps])
    verdict.delivery_gap_per_fault_ms = spread([length for length, _ in delivery_gaps])
    recovered_s = [
        max(longest_gap(moments, fault.at_s, until_s, fault.at_s + EFFECT_S)[1] for moments in (confirms, deliveries))
        - fault.at_s
        for fault, until_s in windows
    ]
    verdict.recovery_ms = spread(recovered_s)
    verdict.per_fault = [
        {"kind": fault.kind, "node": fault.node, "on_node": fault.role, "confirm_gap_ms": _ms(confirm[0]),
         "delivery_gap_ms": _ms(delivery[0]), "recovered_ms": _ms(took_s)}
        for fault, confirm, delivery, took_s in zip(faults, confirm_gaps, delivery_gaps, recovered_s, strict=True)
    ]  # fmt: skip


def longest_gap(
    moments: Sequence[float], start_s: float, until_s: float, begins_by_s: float = math.inf
) -> tuple[float, float]:
    """The longest silence that reaches into [start, until] and began in time, as (seconds, when it ended)."""
    before = [moment for moment in moments if moment <= start_s]
    edges = [before[-1] if before else start_s, *(m for m in moments if start_s < m <= until_s), until_s]
    gaps = ((later - earlier, later) for earlier, later in itertools.pairwise(edges) if earlier <= begins_by_s)
    return max(gaps, default=(0.0, start_s))


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, p99 (nearest rank: with fewer than 100 faults that is the longest) and maximum, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return {}

    def rank(share: float) -> float:
        return _ms(ordered[max(0, math.ceil(share * len(ordered)) - 1)])

    return {"p50": rank(0.5), "p99": rank(0.99), "max": _ms(ordered[-1])}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
