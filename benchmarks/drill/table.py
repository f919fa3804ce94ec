"""The drill's result for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.drill.account import Verdict

_COLUMNS = (
    ("client", "client"),
    ("mode", "way"),
    ("faults", "faults"),
    ("disconnects", "disconnects"),
    ("published", "published"),
    ("confirmed", "confirmed"),
    ("nacked", "nacked"),
    ("confirmed_but_lost", "confirmed but lost"),
    ("accepted_but_lost", "accepted but lost"),
    ("duplicates_flagged", "duplicates, flagged"),
    ("duplicates_unflagged", "duplicates, not flagged"),
    ("replayed", "published again"),
    ("duplicates_unexplained", "unexplained"),
    ("longest_confirm_gap_ms", "longest gap, confirms (ms)"),
    ("longest_delivery_gap_ms", "longest gap, deliveries (ms)"),
)


def markdown(verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    """Two tables: what the client saw; and how long it waited, fault by fault."""
    seen = _table(
        [title for _, title in _COLUMNS],
        [[_cell(getattr(verdict, name)) for name, _ in _COLUMNS] for verdict in verdicts],
    )
    waited = _table(
        ["client", "way", "confirm gap per fault (ms) p50 / p99", "delivery gap per fault (ms) p50 / p99",
         "recovered after (ms) p50 / p99"],
        [
            [verdict.client, verdict.mode, _pair(verdict.confirm_gap_per_fault_ms),
             _pair(verdict.delivery_gap_per_fault_ms), _pair(verdict.recovery_ms)]
            for verdict in verdicts
        ],
    )  # fmt: skip
    failures = [f"{verdict.client} by way of {verdict.mode} was not finished: {' '.join(verdict.failure.split())}"
                for verdict in verdicts if verdict.failure]  # fmt: skip
    return "\n".join([*seen, "", *waited, "", *(f"- {note}" for note in [*notes, *failures]), ""])


def as_json(verdicts: Sequence[Verdict], notes: Sequence[str]) -> dict[str, object]:
    return {"notes": list(notes), "cells": [verdict.as_dict() for verdict in verdicts]}


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:,.0f}" if isinstance(value, float) else str(value)


def _pair(spread: dict[str, float]) -> str:
    return f"{spread['p50']:,.0f} / {spread['p99']:,.0f}" if spread else "-"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(titles), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]
