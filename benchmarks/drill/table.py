"""The drill's result for people (Markdown) and for programs (JSON).

`python -m benchmarks.drill.table A.json B.json ...` puts the results of several drills into one Markdown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.drill.account import Verdict, waits

# The figures that add up over cells.
_SUMS = (
    ("faults", "faults"),
    ("disconnects", "disconnects"),
    ("published", "published"),
    ("confirmed", "confirmed"),
    ("nacked", "nacked"),
    ("undone", "undone"),
    ("unanswered", "unanswered"),
    ("confirmed_but_lost", "confirmed but lost"),
    ("accepted_but_lost", "accepted but lost"),
    ("duplicates_flagged", "duplicates, flagged"),
    ("duplicates_unflagged", "duplicates, not flagged"),
    ("replayed", "published again"),
    ("duplicates_unexplained", "unexplained"),
)
_WAITS = (
    ("confirm_gap_ms", "gap of confirms per fault (ms) p50 / p99 / longest"),
    ("beyond_ms", "beyond the queue's own (ms) p50 / p99 / longest"),
    ("delivery_gap_ms", "gap of deliveries per fault (ms) p50 / p99 / longest"),
    ("recovered_ms", "recovered after (ms) p50 / p99 / longest"),
)


def markdown(verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    """Every cell; what they add up to for each way; and what each kind of fault did on each way."""
    cells = _table(
        ["client", "workload", "queue", "way", *(title for _, title in (*_SUMS, *_WAITS))],
        [[*verdict.cell, *_figures([verdict])] for verdict in verdicts],
    )
    modes = list(dict.fromkeys(verdict.cell.mode for verdict in verdicts))
    ways = _table(
        ["way", *(title for _, title in (*_SUMS, *_WAITS))],
        [[mode, *_figures([verdict for verdict in verdicts if verdict.cell.mode == mode])] for mode in modes],
    )
    suffered = [(fault, verdict.cell.mode) for verdict in verdicts for fault in verdict.per_fault]
    kinds = _table(
        ["fault", "way", "faults", "disconnects", *(title for _, title in _WAITS)],
        [
            [kind, mode, *_effects([fault for fault, way in suffered if (fault["kind"], way) == (kind, mode)])]
            for kind in dict.fromkeys(fault["kind"] for fault, _ in suffered)
            for mode in modes
        ],
    )
    failures = [f"{verdict.cell} was not finished: {' '.join(verdict.failure.split())}"
                for verdict in verdicts if verdict.failure]  # fmt: skip
    texts = [f"- {note}" for note in (*notes, *failures)]
    return "\n".join([*cells, "", *ways, "", *kinds, "", *texts, ""])


def as_json(verdicts: Sequence[Verdict], notes: Sequence[str]) -> dict[str, object]:
    return {"notes": list(notes), "cells": [verdict.as_dict() for verdict in verdicts]}


def _figures(verdicts: Sequence[Verdict]) -> list[str]:
    sums = [_sum(getattr(verdict, name) for verdict in verdicts) for name, _ in _SUMS]
    return [*sums, *_waited([fault for verdict in verdicts for fault in verdict.per_fault])]


def _effects(faults: Sequence[dict[str, Any]]) -> list[str]:
    return [str(len(faults)), _sum(fault["disconnects"] for fault in faults), *_waited(faults)]


def _waited(faults: Sequence[dict[str, Any]]) -> list[str]:
    spreads = [waits(faults, name) for name, _ in _WAITS]
    return [
        " / ".join(f"{spread[rank]:,.0f}" for rank in ("p50", "p99", "max")) if spread else "-" for spread in spreads
    ]


def _sum(figures: Iterable[int | None]) -> str:
    """The sum of the figures that there are; a dash if there are none."""
    known = [figure for figure in figures if figure is not None]
    return str(sum(known)) if known else "-"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(titles), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def together(results: Sequence[Path]) -> str:
    """One Markdown for several results in JSON, each with its notes."""
    told = [json.loads(path.read_text()) for path in results]
    verdicts = [Verdict.from_dict(cell) for each in told for cell in each["cells"]]
    notes = [f"{path.stem}: {'; '.join(each['notes'])}" for path, each in zip(results, told, strict=True)]
    return markdown(verdicts, notes)


if __name__ == "__main__":
    sys.stdout.write(together([Path(name) for name in sys.argv[1:]]))
