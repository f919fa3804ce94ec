"""Medians over the rounds, their spread, and the ratio to HAProxy in the same round. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.throughput.rig import Case, Sample

Row = dict[str, object]


def rows(samples: Sequence[Sample]) -> list[Row]:
    """One row per case and way, in the order of first appearance. Rates are messages per second."""
    grouped: dict[tuple[Case, str], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((sample.case, sample.mode), []).append(sample)
    return [_row(case, mode, group, grouped.get((case, "haproxy"), [])) for (case, mode), group in grouped.items()]


def _row(case: Case, mode: str, group: Sequence[Sample], haproxy: Sequence[Sample]) -> Row:
    # The n-th sample of every way is of the n-th round, so each ratio compares neighbours in time.
    ratios = [own.rate / other.rate for own, other in zip(group, haproxy, strict=False)]
    return {
        "broker": case.broker,
        "kind": case.kind,
        "size_bytes": case.size_bytes,
        "mode": mode,
        "rate": round(median(sample.rate for sample in group)),
        "rate_min": round(min(sample.rate for sample in group)),
        "rate_max": round(max(sample.rate for sample in group)),
        "ratio_to_haproxy": round(median(ratios), 3) if ratios else None,
        "cpu_us_per_message": _median([sample.cpu_us for sample in group]),
        "p50_us": _median([sample.p50_us for sample in group]),
        "p99_us": _median([sample.p99_us for sample in group]),
        "rounds": len(group),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 3) if known else None


def markdown(table: Sequence[Row], notes: Sequence[str]) -> str:
    titles = ["broker", "what", "size (B)", "way", "messages/s, median (min - max)", "to HAProxy"]
    titles += ["proxy CPU (us/message)", "p50 (us)", "p99 (us)"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in table:
        rates = f"{row['rate']:,} ({row['rate_min']:,} - {row['rate_max']:,})"
        cells = [row["broker"], row["kind"], row["size_bytes"], row["mode"], rates]
        cells += [row[name] for name in ("ratio_to_haproxy", "cpu_us_per_message", "p50_us", "p99_us")]
        lines.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])
