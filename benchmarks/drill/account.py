"""What became of every message, and how long the application waited. Pure: logs in, figures out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.drill.faults import Fault
from benchmarks.drill.workload import WORKLOADS
from benchmarks.stand import ONCE

# A silence that begins later than this after a fault is another one's: the node's return, or the machine's.
EFFECT_S = 3.0


class Entry(NamedTuple):
    """One line that an application told: when (monotonic seconds), what, of which message, with which detail."""

    at_s: float
    kind: str
    number: int
    detail: object


class Cell(NamedTuple):
    """What one row of the table is about."""

    client: str
    workload: str
    queue_type: str
    mode: str

    def __str__(self) -> str:
        return f"{self.client}, {self.workload}, {self.queue_type} queue, by way of {self.mode}"


@dataclass(slots=True)
class Verdict:
    """The figures of one cell. Times in milliseconds; None where there was nothing to measure."""

    cell: Cell
    failure: str = ""
    faults: int = 0
    disconnects: int = 0
    refused_connects: int = 0
    published: int = 0
    confirmed: int = 0
    nacked: int = 0
    undone: int = 0
    undone_but_stored: int = 0
    unanswered: int = 0
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
    unexplained_numbers: list[int] = field(default_factory=list)
    per_fault: list[dict[str, Any]] = field(default_factory=list)

    @property
    def promises_kept(self) -> bool:
        """What Sidehop promises: nothing seen, nothing lost, nothing twice without being counted, no false word."""
        return not (
            self.disconnects or self.nacked or self.confirmed_but_lost or self.accepted_but_lost
            or self.duplicates_unexplained or self.undone_but_stored
            or (self.cell.mode == ONCE and (self.duplicates_flagged or self.duplicates_unflagged))
        )  # fmt: skip

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Verdict:
        """What `as_dict` made."""
        cell = Cell(*(figures[name] for name in Cell._fields))
        return cls(cell, **{name: value for name, value in figures.items() if name not in Cell._fields})

    def as_dict(self) -> dict[str, object]:
        return self.cell._asdict() | {name: value for name, value in asdict(self).items() if name != "cell"}


def judge(
    cell: Cell,
    sender: Sequence[Entry],
    receiver: Sequence[Entry],
    drained: Iterable[tuple[int, bool]],
    faults: Sequence[Fault],
    replayed: int | None,
) -> Verdict:
    """Account for every message of one cell.

    `drained` is what was still in the queue at the end, as (number, redelivered); nothing for a stream, whose reader
    has lost what it was not shown, though it be stored. `replayed` is what Sidehop says it published again: a duplicate
    without the redelivered flag is explained only by one of those, or by a request that its asker sent again.
    """
    verdict = Verdict(cell, faults=len(faults), replayed=replayed)
    numbers: dict[str, set[int]] = {}
    for entry in sender:
        numbers.setdefault(entry.kind, set()).add(entry.number)
    none: set[int] = set()
    published, confirmed, nacked = (numbers.get(kind, none) for kind in ("published", "confirmed", "nacked"))
    rolled_back = numbers.get("rolled_back", none)
    arrivals = [(entry.number, bool(entry.detail)) for entry in receiver if entry.kind == "delivered"]
    arrived: set[int] = set()
    unflagged: list[int] = []
    for number, redelivered in [*arrivals, *drained]:
        if number in arrived and redelivered:
            verdict.duplicates_flagged += 1
        elif number in arrived:
            unflagged.append(number)
        arrived.add(number)
    lost = published - arrived
    verdict.published, verdict.confirmed, verdict.nacked = len(published), len(confirmed), len(nacked)
    verdict.undone = len(rolled_back | numbers.get("unknown", none))
    verdict.undone_but_stored = len(rolled_back & arrived)
    verdict.unanswered = sum(entry.kind == "unanswered" for entry in sender)
    verdict.confirmed_but_lost = len(lost & confirmed)
    unsettled = lost - confirmed - nacked if WORKLOADS[cell.workload].accepts else none
    verdict.accepted_but_lost = len(unsettled)
    verdict.lost_numbers = sorted(lost & confirmed | unsettled)[:100]
    verdict.duplicates_unflagged = len(unflagged)
    if replayed is not None:
        verdict.duplicates_unexplained = max(0, len(unflagged) - replayed - verdict.unanswered)
        verdict.unexplained_numbers = unflagged[:100] if verdict.duplicates_unexplained else []
    told = [(role, entry) for role, log in (("sender", sender), ("receiver", receiver)) for entry in log]
    verdict.disconnects = sum(entry.kind == "disconnected" for _, entry in told)
    verdict.refused_connects = sum(entry.kind == "refused" for _, entry in told)
    verdict.reasons = [f"{role}: {entry.detail}" for role, entry in told if entry.kind == "disconnected"][:40]
    _add_waits(verdict, sender, receiver, faults)
    return verdict


def _add_waits(verdict: Verdict, sender: Sequence[Entry], receiver: Sequence[Entry], faults: Sequence[Fault]) -> None:
    """The gaps count until the sender's last publish: after it, silence is no outage."""
    end_s = max((entry.at_s for entry in sender if entry.kind == "published"), default=0.0)
    deliveries = [entry.at_s for entry in receiver if entry.kind == "delivered" and entry.at_s <= end_s]
    confirms = [entry.at_s for entry in sender if entry.kind == "confirmed" and entry.at_s <= end_s]
    settles = WORKLOADS[verdict.cell.workload].settles
    if not faults or len(deliveries) < 2 or (settles and len(confirms) < 2):
        return
    windows = list(zip(faults, [*(fault.at_s for fault in faults[1:]), end_s], strict=True))
    lost_at_s = [entry.at_s for log in (sender, receiver) for entry in log if entry.kind == "disconnected"]
    signs = (confirms, deliveries) if settles else (deliveries,)
    for fault, until_s in windows:
        recovered_s = max(longest_gap(moments, fault.at_s, until_s, fault.at_s + EFFECT_S)[1] for moments in signs)
        confirm_gap_s = longest_gap(confirms, fault.at_s, until_s)[0] if settles else None
        own_gap_s = shortest_silence(fault.witnessed, fault.at_s, until_s)
        beyond_s = None if confirm_gap_s is None or own_gap_s is None else confirm_gap_s - own_gap_s
        verdict.per_fault.append(
            {"kind": fault.kind, "node": fault.node, "on_node": fault.role,
             "disconnects": sum(fault.at_s <= at_s < until_s for at_s in lost_at_s),
             "confirm_gap_ms": _ms(confirm_gap_s), "own_gap_ms": _ms(own_gap_s), "beyond_ms": _ms(beyond_s),
             "delivery_gap_ms": _ms(longest_gap(deliveries, fault.at_s, until_s)[0]),
             "recovered_ms": _ms(recovered_s - fault.at_s)}
        )  # fmt: skip
    verdict.confirm_gap_per_fault_ms = waits(verdict.per_fault, "confirm_gap_ms")
    verdict.delivery_gap_per_fault_ms = waits(verdict.per_fault, "delivery_gap_ms")
    verdict.recovery_ms = waits(verdict.per_fault, "recovered_ms")
    verdict.longest_confirm_gap_ms = verdict.confirm_gap_per_fault_ms.get("max")
    verdict.longest_delivery_gap_ms = verdict.delivery_gap_per_fault_ms.get("max")


def waits(per_fault: Iterable[dict[str, Any]], name: str) -> dict[str, float]:
    """One of the waits of several faults: its median, p99 and maximum; empty if none of them has it."""
    return spread([fault[name] for fault in per_fault if fault.get(name) is not None])


def longest_gap(
    moments: Sequence[float], start_s: float, until_s: float, begins_by_s: float = math.inf
) -> tuple[float, float]:
    """The longest silence that reaches into [start, until] and began in time, as (seconds, when it ended)."""
    before = [moment for moment in moments if moment <= start_s]
    edges = [before[-1] if before else start_s, *(m for m in moments if start_s < m <= until_s), until_s]
    gaps = ((later - earlier, later) for earlier, later in itertools.pairwise(edges) if earlier <= begins_by_s)
    return max(gaps, default=(0.0, start_s))


def shortest_silence(witnessed: Sequence[Sequence[float]], start_s: float, until_s: float) -> float | None:
    """How long a queue by itself confirmed nothing: by way of the node that was hurt least; None if nobody looked."""
    began = [moments for moments in witnessed if moments and moments[0] < start_s]
    ended_s = max((moments[-1] for moments in began), default=start_s)
    return min((longest_gap(moments, start_s, min(until_s, ended_s))[0] for moments in began), default=None)


def spread(figures: Sequence[float]) -> dict[str, float]:
    """Median, p99 (nearest rank: with fewer than 100 figures that is the largest) and maximum."""
    ordered = sorted(figures)
    if not ordered:
        return {}

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return {"p50": rank(0.5), "p99": rank(0.99), "max": ordered[-1]}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
