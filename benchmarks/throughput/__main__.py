"""`python -m benchmarks.throughput`: messages per second and round trips, direct, through HAProxy, nginx and Sidehop.

Against a broker that costs nothing (so that the proxy is what is measured) and against a real one (so that it is seen
how much of that an application would notice). The machine's other work is in the figures: compare the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import rivals, stand
from benchmarks.throughput import table
from benchmarks.throughput.rig import AFTER, KINDS, SMALL_ONLY, Case, Rig, Sample

MODES = ("direct", "haproxy", rivals.NGINX, "sidehop")
WAYS = (*MODES, stand.ONCE)
SIZES_BYTES = (100, 1024, 16384, 131072)
# The real broker is the bottleneck; two sizes show it, and it has no flood for the consumer.
REAL_KINDS = ("confirm", "publish", "trip", "sessions")
REAL_SIZES_BYTES = (100, 16384)
SMALL_BYTES = (100,)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _arguments(arguments)
    stand.end_on_sigterm()
    modes = asked.modes.split(",")
    notes = [
        f"{asked.rounds} rounds of {asked.seconds} s; medians; the ratio is of neighbours in the same round",
        f"{stand.circumstances()}; the cores are shared by both ends and the proxy",
    ]
    for mode, remedy in rivals.missing_proxies(modes).items():
        modes.remove(mode)
        notes.append(f"{mode} is not installed ({remedy}){': no ratios' if mode == 'haproxy' else ''}")
    _say(
        f"throughput: about {minutes(asked, len(modes)):.0f} minutes; --rounds, --seconds, --kinds and --sizes ask less"
    )
    ports = stand.Ports(asked.port_base)
    samples: list[Sample] = []
    try:
        with tempfile.TemporaryDirectory(prefix="sidehop-bench-") as name:
            folder = Path(name)
            rig = Rig(folder)
            if "fake" in asked.brokers:
                cases = _cases("fake", asked.kinds, asked.sizes)
                with rig.broker(ports.fake_broker) as address:
                    _rounds(asked, modes, rig, cases, [address], ports, folder, samples)
            if "real" in asked.brokers:
                cases = _cases("real", _real_kinds(asked), REAL_SIZES_BYTES)
                with stand.cluster(folder / "brokers", ports) as brokers:
                    # One node only: a queue on another one would measure the brokers' own network.
                    _rounds(asked, modes, rig, cases, list(brokers.endpoints[:1]), ports, folder, samples)
    except (stand.StandError, OSError) as error:
        _say(f"the benchmark could not go on: {error}")
        return 2
    figures = table.rows(samples)
    if asked.json:
        Path(asked.json).write_text(json.dumps({"notes": notes, "rows": figures}, indent=1) + "\n")
    text = table.markdown(figures, notes)
    if asked.markdown:
        Path(asked.markdown).write_text(text)
    print(text)
    return 0


def _cases(broker: str, kinds: Sequence[str], sizes_bytes: Sequence[int]) -> list[Case]:
    return [Case(broker, kind, size) for kind in kinds for size in (SMALL_BYTES if kind in SMALL_ONLY else sizes_bytes)]


def _real_kinds(asked: argparse.Namespace) -> list[str]:
    return [kind for kind in REAL_KINDS if kind in asked.kinds]


def minutes(asked: argparse.Namespace, modes: int) -> float:
    """About how long it takes, from what one measurement takes beyond its own seconds on two cores."""
    cases = len(_cases("fake", asked.kinds, asked.sizes)) if "fake" in asked.brokers else 0
    cases += len(_cases("real", _real_kinds(asked), REAL_SIZES_BYTES)) if "real" in asked.brokers else 0
    return (cases * modes * asked.rounds * (asked.seconds + 0.5) + 40 * ("real" in asked.brokers)) / 60


def _rounds(
    asked: argparse.Namespace,
    modes: list[str],
    rig: Rig,
    cases: list[Case],
    endpoints: list[str],
    ports: stand.Ports,
    folder: Path,
    samples: list[Sample],
) -> None:
    with contextlib.ExitStack() as running:
        ways = {mode: running.enter_context(stand.way(mode, folder, ports, endpoints)) for mode in modes}
        for turn in range(asked.rounds):
            for case in cases:
                # Each round begins with another way, so that none is always first after a pause.
                for mode in [*modes[turn % len(modes) :], *modes[: turn % len(modes)]]:
                    way = ways[mode]
                    sample = rig.measure(case, mode, way, asked.seconds)
                    samples.append(sample)
                    took = f", p50 {sample.p50_us:.0f} us" if sample.p50_us else ""
                    _say(f"{turn + 1}/{asked.rounds} {case.broker} {case.kind} {case.size_bytes} B {mode}: "
                         f"{sample.rate:,.0f}/s{took}")  # fmt: skip


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--modes", default=",".join(MODES), help=f"of {','.join(WAYS)}; default %(default)s")
    add("--brokers", nargs="+", choices=["fake", "real"], default=["fake", "real"])
    add(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        help=f"of these only {', '.join(REAL_KINDS)} against the real broker; "
        f"with {AFTER}: once Sidehop's session has lost its broker. default: all",
    )
    add("--sizes", nargs="+", type=int, default=list(SIZES_BYTES), metavar="BYTES", help="against the fake broker")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=2.0, help="of each measurement; default %(default)s")
    add("--json", metavar="FILE")
    add("--markdown", metavar="FILE")
    add(
        "--port-base",
        type=stand.port_base,
        default=stand.DEFAULT_PORT_BASE,
        help="the first of 107 ports; default %(default)s",
    )
    asked = parser.parse_args(arguments)
    if unknown := set(asked.modes.split(",")) - set(WAYS):
        parser.error(f"--modes: {', '.join(sorted(unknown))} unknown; of {', '.join(WAYS)}")
    return asked


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
