"""`python -m benchmarks.curves`: how the cost grows with sessions, channels, unsettled publishes and nodes.

Each curve changes one thing and keeps the rest, against the broker of the throughput rig. What is measured is the
processor time of the proxy, beside HAProxy; the rate is the same at every point where messages are paced.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import rivals, stand
from benchmarks.throughput.rig import Rig

MODES = ("haproxy", rivals.NGINX, "sidehop")
SIZE_BYTES = 100
RATE = 5000
# Of the load generator: beyond what the broker leaves unsettled, so that neither waits for the other.
WINDOW = 2000
# Behind the ports of a stand, one for each node.
NODE_PORTS_AFTER = 120


@dataclass(frozen=True, slots=True)
class Curve:
    """What changes, at which values, and how one point is measured; `y` is its unit."""

    title: str
    x: str
    y: str
    values: Sequence[int]
    measure: Callable[[Rig, stand.Way, int, float], float]


def _paced(rig: Rig, way: stand.Way, seconds: float, sessions: int, channels: int) -> float:
    words = f"paced {way.addresses[0]} {SIZE_BYTES} {seconds} {sessions} {channels} {RATE}"
    return _us_each(rig.run(words, way, seconds, sessions))


def _flood(rig: Rig, way: stand.Way, unsettled: int, seconds: float) -> float:
    words = f"publish {way.addresses[0]} {SIZE_BYTES} {seconds} {unsettled + WINDOW}"
    return _us_each(rig.run(words, way, seconds, 1))


def _opened(rig: Rig, way: stand.Way, nodes: int, seconds: float) -> float:
    del nodes
    return _us_each(rig.run(f"sessions {way.addresses[0]} {SIZE_BYTES} {seconds}", way, seconds, 0))


def _idle(rig: Rig, way: stand.Way, nodes: int, seconds: float) -> float:
    del rig, nodes
    assert way.proxy is not None
    used_s = way.proxy.cpu_s()
    # /proc counts in steps of 10 ms: a share of a percent takes a while to be seen.
    time.sleep(5 * seconds)
    return (way.proxy.cpu_s() - used_s) / (5 * seconds) * 100


def _us_each(measured: tuple[float, str]) -> float:
    used_s, printed = measured
    return used_s / int(printed.split()[0]) * 1e6


PER_MESSAGE = "processor time of the proxy, us/message"
CURVES = {
    "sessions": Curve(
        f"{RATE:,} confirmed publishes a second in all, spread over sessions",
        "sessions", PER_MESSAGE, (1, 10, 100, 1000),
        lambda rig, way, value, seconds: _paced(rig, way, seconds, value, 1),
    ),
    "channels": Curve(
        f"{RATE:,} confirmed publishes a second in one session, spread over channels",
        "channels", PER_MESSAGE, (1, 10, 100, 1000),
        lambda rig, way, value, seconds: _paced(rig, way, seconds, 1, value),
    ),
    "unsettled": Curve(
        "Publish flood with confirms, the broker leaves so many without one",
        "unsettled publishes", PER_MESSAGE, (1, 100, 1000, 10000, 50000), _flood,
    ),
    "nodes": Curve(
        "Sessions that come and go, so many brokers to choose from",
        "brokers", "processor time of the proxy, us/session", (1, 3, 10, 30), _opened,
    ),
    "nodes-idle": Curve(
        "No client at all, so many brokers to watch", "brokers", "% of one core", (1, 3, 10, 30), _idle,
    ),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _arguments(arguments)
    stand.end_on_sigterm()
    modes = asked.modes.split(",")
    notes = [f"medians of {asked.rounds} rounds of {asked.seconds} s; the ways take turns", stand.circumstances()]
    for mode, remedy in rivals.missing_proxies(modes).items():
        modes.remove(mode)
        notes.append(f"{mode} is not installed ({remedy})")
    _say(f"curves: about {minutes(asked, len(modes)):.0f} minutes; --rounds, --seconds and --curves ask less")
    report: dict[str, object] = {"notes": notes}
    try:
        with tempfile.TemporaryDirectory(prefix="sidehop-curves-") as name:
            rig = Rig(Path(name))
            report["curves"] = [_curve(each, modes, rig, Path(name), asked) for each in asked.curves]
    except (stand.StandError, OSError) as error:
        _say(f"the measurement could not go on: {error}")
        return 2
    text = json.dumps(report, indent=1) + "\n"
    if asked.json:
        Path(asked.json).write_text(text)
    else:
        print(text)
    return 0


def _curve(name: str, modes: Sequence[str], rig: Rig, folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    curve = CURVES[name]
    points = []
    for value in curve.values:
        with contextlib.ExitStack() as running:
            nodes = value if name.startswith("nodes") else 1
            ports = stand.Ports(asked.port_base)
            first = asked.port_base + NODE_PORTS_AFTER
            unsettled = value if name == "unsettled" else 0
            endpoints = [running.enter_context(rig.broker(first + n, unsettled)) for n in range(nodes)]
            ways = {mode: running.enter_context(stand.way(mode, folder, ports, endpoints)) for mode in modes}
            found: dict[str, list[float]] = {mode: [] for mode in modes}
            for turn in range(asked.rounds):
                for mode in [*modes[turn % len(modes) :], *modes[: turn % len(modes)]]:
                    found[mode].append(curve.measure(rig, ways[mode], value, asked.seconds))
            for mode, figures in found.items():
                y, low, high = (round(each, 3) for each in (median(figures), min(figures), max(figures)))
                points.append({"mode": mode, "x": value, "y": y, "y_min": low, "y_max": high})
                _say(f"{name} {value:,} {mode}: {y:g} {curve.y}")
    return {"name": name, "title": curve.title, "x": curve.x, "y": curve.y, "points": points}


def minutes(asked: argparse.Namespace, modes: int) -> float:
    """About how long it takes, with what a point takes beyond its own seconds on two cores."""
    seconds = 0.0
    for name in asked.curves:
        each = asked.seconds * (5 if name == "nodes-idle" else 1) + 1
        seconds += len(CURVES[name].values) * (2 + modes * asked.rounds * each)
    return seconds / 60


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--curves", nargs="+", choices=CURVES, default=list(CURVES), help="default: all")
    add("--modes", default=",".join(MODES), help=f"of {','.join(MODES)}; default %(default)s")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=2.0, help="of each measurement; default %(default)s")
    add("--json", metavar="FILE", help="instead of the standard output; benchmarks.charts draws it")
    add("--port-base", type=int, default=stand.DEFAULT_PORT_BASE, help="the first of 150 ports; default %(default)s")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.modes.split(",")) - set(MODES):
        parser.error(f"--modes: {', '.join(sorted(unknown))} unknown; of {', '.join(MODES)}")
    return asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
