"""`python -m benchmarks` (`make bench`): the throughput, the curves, and the charts of both, into one folder.

The drill and the footprint have commands of their own. For less than everything: `python -m benchmarks.throughput` and
`python -m benchmarks.curves`, then `python -m benchmarks.charts`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import charts, curves, stand
from benchmarks.throughput import __main__ as throughput

# Enough to see that everything works, and nothing more: the figures mean little.
QUICK = ("--rounds", "1", "--seconds", "0.2")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, default=stand.ROOT / "build" / "bench", help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="about three minutes, no real broker: does it work?")
    parser.add_argument("--port-base", type=int, default=stand.DEFAULT_PORT_BASE)
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    base = ["--port-base", str(asked.port_base)]
    few, no_real = (QUICK, ("--brokers", "fake", "--sizes", "100", "16384")) if asked.quick else ((), ())
    files = ["--json", str(asked.into / "throughput.json"), "--markdown", str(asked.into / "throughput.md")]
    started_s = time.monotonic()
    failed = throughput.main([*base, *few, *no_real, *files])
    failed = curves.main([*base, *few, "--json", str(asked.into / "curves.json")]) or failed
    drawn = charts.draw_folder(asked.into)
    took_min = (time.monotonic() - started_s) / 60
    print(f"{len(drawn)} charts and the tables are in {asked.into}, after {took_min:.0f} minutes", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
