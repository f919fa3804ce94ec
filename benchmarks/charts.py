"""Charts of the results as SVG: lines and bars, readable on a light and on a dark page. Pure; nothing to install.

`python -m benchmarks.charts FOLDER` draws what throughput.json and curves.json in the folder hold, beside them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 56, 48
# Told apart without seeing colours too: by their order in the legend and by their dashes.
COLOURS = ("#0b7285", "#e8590c", "#7048e8", "#2b8a3e", "#c2255c", "#868e96")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")
_STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #212529 } .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #ced4da; stroke-width: 1 } .one { stroke: #212529; stroke-width: 1.5 } .page { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e9ecef } .grid { stroke: #495057 } .one { stroke: #e9ecef } .page { fill: #16191d }
  }
"""


@dataclass(frozen=True, slots=True)
class Axes:
    """What a chart is called and what its axes say. `one` draws the line at 1, for ratios; `log_x` for doublings."""

    title: str
    x: str
    y: str
    one: bool = False
    log_x: bool = False


def bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> str:
    """Groups of bars, one of each series; None leaves a gap."""
    top = _ceiling([value for values in series.values() for value in values if value is not None] + [1.0] * axes.one)
    parts = [*_frame(axes, top), *_legend(list(series), dashed=False)]
    step = (WIDTH - LEFT - RIGHT) / max(len(groups), 1)
    bar = step * 0.8 / max(len(series), 1)
    for place, group in enumerate(groups):
        parts.append(_text(LEFT + step * (place + 0.5), HEIGHT - BOTTOM + 16, group, "middle"))
        for number, (name, values) in enumerate(series.items()):
            value = values[place]
            if value is not None:
                x, y = LEFT + step * (place + 0.1) + bar * number, _y(value, top)
                parts.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" height="{HEIGHT - BOTTOM - y:.1f}" '
                    f'fill="{COLOURS[number % len(COLOURS)]}"><title>{escape(name)}, {escape(group)}: {value:g}'
                    "</title></rect>"
                )
    return _page(parts)


def lines(axes: Axes, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One line for each series of points (x, y). With `log_x` every x must be positive."""
    points = [point for each in series.values() for point in each]
    top = _ceiling([y for _, y in points] + [1.0] * axes.one)
    scale = math.log2 if axes.log_x else float
    xs = sorted({x for x, _ in points}) or [1.0]
    low, high = scale(xs[0]), scale(xs[-1])

    def across(x: float) -> float:
        return LEFT + 12 + (scale(x) - low) / ((high - low) or 1.0) * (WIDTH - LEFT - RIGHT - 36)

    parts = [*_frame(axes, top), *_legend(list(series), dashed=True)]
    parts += [_text(across(x), HEIGHT - BOTTOM + 16, f"{x:,.0f}", "middle") for x in xs]
    for number, (name, each) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{_y(y, top):.1f}" for x, y in each)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" {_dash(number)}/>')
        parts += [
            f'<circle cx="{across(x):.1f}" cy="{_y(y, top):.1f}" r="3.5" fill="{colour}">'
            f"<title>{escape(name)}, {x:,.0f}: {y:g}</title></circle>"
            for x, y in each
        ]
    return _page(parts)


def _ceiling(values: Sequence[float]) -> float:
    """The next round number above all values, so that the scale can be read."""
    highest = max(values, default=1.0) or 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 8, 10) if step * power >= highest * 0.999)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _dash(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    return f'stroke-dasharray="{dash}"' if dash else ""


def _frame(axes: Axes, top: float) -> list[str]:
    parts = [_text(LEFT, 20, axes.title, kind="title"), _text(8, TOP - 8, axes.y)]
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 10, axes.x, "end"))
    for part in range(5):
        value = top * part / 4
        parts.append(_rule(value, top, "grid"))
        parts.append(_text(LEFT - 6, _y(value, top) + 4, f"{value:,.4g}", "end"))
    return [*parts, _rule(1.0, top, "one")] if axes.one else parts


def _rule(value: float, top: float, kind: str) -> str:
    y = _y(value, top)
    return f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>'


def _legend(names: Sequence[str], *, dashed: bool) -> list[str]:
    parts, x = [], float(LEFT + 100)
    for number, name in enumerate(names):
        dash = _dash(number) if dashed else ""
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<line x1="{x}" x2="{x + 22}" y1="36" y2="36" stroke="{colour}" stroke-width="4" {dash}/>')
        parts.append(_text(x + 27, 40, name))
        x += 44 + 7 * len(name)
    return parts


def _page(parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n<style>{_STYLE}</style>\n'
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>\n{inside}\n</svg>\n'
    )


def draw_throughput(rows: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The charts of throughput.json's rows, by the names of their files."""
    drawn = {}
    fake = [row for row in rows if row["broker"] == "fake"]
    modes = list(dict.fromkeys(str(row["mode"]) for row in fake if row["mode"] != "direct"))
    for kinds, name, title in (
        (("confirm", "publish", "consume"), "throughput-ratio", "Messages per second, HAProxy = 1"),
        (
            ("confirm-after", "publish-after", "consume-after"),
            "throughput-ratio-after",
            "Messages per second after a failover, HAProxy (which has had none) = 1",
        ),
    ):
        cells = {(row["kind"], row["size_bytes"], row["mode"]): row for row in fake if row["kind"] in kinds}
        groups = list(dict.fromkeys((kind, size) for kind, size, _ in cells))
        labels = [f"{str(kind).removesuffix('-after')} {_bytes(size)}" for kind, size in groups]
        ratios = {
            mode: [_figure(cells.get((*group, mode)), "ratio_to_haproxy") for group in groups]
            for mode in modes
            if mode != "haproxy"
        }
        if any(value is not None for values in ratios.values() for value in values):
            drawn[f"{name}.svg"] = bars(Axes(title, "body", "ratio", one=True), labels, ratios)
    small = {(row["kind"], row["mode"]): row for row in fake if row["kind"] in ("trip", "trip-after")}
    if small:
        kinds = list(dict.fromkeys(str(kind) for kind, _ in small))
        ways = list(dict.fromkeys(str(row["mode"]) for row in fake))
        times = {
            way: [_figure(small.get((kind, way)), each) for kind in kinds for each in ("p50_us", "p99_us")]
            for way in ways
        }
        labels = [f"{kind} {each}" for kind in kinds for each in ("p50", "p99")]
        drawn["round-trip.svg"] = bars(Axes("Round trip of one confirmed publish", "", "us"), labels, times)
    return drawn


def draw_curves(curves: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """The charts of curves.json, by the names of their files."""
    drawn = {}
    for curve in curves:
        series: dict[str, list[tuple[float, float]]] = {}
        for point in curve["points"]:  # type: ignore[attr-defined]
            series.setdefault(point["mode"], []).append((point["x"], point["y"]))
        axes = Axes(str(curve["title"]), str(curve["x"]), str(curve["y"]), log_x=True)
        drawn[f"curve-{curve['name']}.svg"] = lines(axes, series)
    return drawn


def _figure(row: Mapping[str, object] | None, name: str) -> float | None:
    value = row[name] if row else None
    return float(value) if isinstance(value, int | float) else None


def _bytes(size: object) -> str:
    number = int(str(size))
    return f"{number // 1024} KiB" if number >= 1024 else f"{number} B"


def draw_folder(folder: Path) -> list[Path]:
    """Draw what throughput.json and curves.json in the folder hold; return the files that were written."""
    drawn: dict[str, str] = {}
    for name, key, draw in (("throughput", "rows", draw_throughput), ("curves", "curves", draw_curves)):
        source = folder / f"{name}.json"
        if source.exists():
            drawn |= draw(json.loads(source.read_text())[key])
    for name, text in drawn.items():
        (folder / name).write_text(text)
    return [folder / name for name in drawn]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.charts", description=__doc__)
    parser.add_argument("folder", type=Path, help="where throughput.json and curves.json are, and the charts go")
    asked = parser.parse_args()
    written = draw_folder(asked.folder)
    for path in written:
        print(path)
    if not written:
        print(f"{asked.folder} has neither throughput.json nor curves.json", file=sys.stderr)
    return 0 if written else 2


if __name__ == "__main__":
    sys.exit(main())
