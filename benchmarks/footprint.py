"""`python -m benchmarks.footprint`: what a sidecar costs that does nothing: memory, and the time until it is ready.

Memory idle and with idle sessions (one channel each, against the broker of the throughput rig), start-up from the
process's start to a 200 of /readyz. HAProxy beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import stand
from benchmarks.throughput.rig import Rig

SETTLE_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--starts", type=int, default=5, help="how often the start is timed; the median counts")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--port-base", type=stand.port_base, default=stand.DEFAULT_PORT_BASE)
    asked = parser.parse_args()
    stand.end_on_sigterm()
    ports = stand.Ports(asked.port_base)
    modes = [mode for mode in stand.MODES[1:] if mode != "haproxy" or stand.haproxy_installed()]
    figures = {}
    try:
        with tempfile.TemporaryDirectory(prefix="sidehop-footprint-") as name:
            rig = Rig(Path(name))
            with rig.broker(ports.fake_broker) as address:
                for mode in modes:
                    figures[mode] = _figures(mode, Path(name), ports, address, rig, asked)
    except (stand.StandError, OSError) as error:
        print(f"the measurement could not go on: {error}", file=sys.stderr)
        return 2
    print(stand.circumstances())
    for mode, row in figures.items():
        print(f"{mode:8} " + ", ".join(f"{key} {value:,}" for key, value in row.items()))
    if asked.json:
        report = {"notes": [stand.circumstances()], "sessions": asked.sessions, "figures": figures}
        Path(asked.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _figures(
    mode: str, folder: Path, ports: stand.Ports, address: str, rig: Rig, asked: argparse.Namespace
) -> dict[str, float]:
    starts_s = []
    for _ in range(asked.starts):
        started_s = time.monotonic()
        with stand.way(mode, folder, ports, [address]):
            starts_s.append(time.monotonic() - started_s)
    with stand.way(mode, folder, ports, [address]) as way:
        proxy = way.proxy
        assert proxy is not None
        time.sleep(SETTLE_S)
        idle_kib = proxy.rss_kib()
        started_s = time.monotonic()
        command = [rig.load, "idle", way.addresses[0], str(asked.sessions)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            if holder.stdout.readline() != "ready\n":
                raise stand.StandError(f"{asked.sessions} sessions through {mode} did not come up")
            opened_s = time.monotonic() - started_s
            time.sleep(SETTLE_S)
            busy_kib = proxy.rss_kib()
            holder.communicate("")
    return {
        "ready_after_s": round(median(starts_s), 3),
        "rss_idle_mib": round(idle_kib / 1024, 1),
        "rss_with_sessions_mib": round(busy_kib / 1024, 1),
        "rss_per_session_kib": round((busy_kib - idle_kib) / asked.sessions, 1),
        "sessions_opened_per_s": round(asked.sessions / opened_s),
    }


if __name__ == "__main__":
    sys.exit(main())
