"""`python -m benchmarks.footprint`: what a sidecar costs that does nothing. HAProxy beside it.

Start-up from the process's start to a 200 of /readyz, in seconds and in processor time; then memory, processor time and
wake-ups, idle and with idle sessions: one channel each, heartbeats of 60 s both ways, against the broker of the
throughput rig. Sidehop is found by discovery `static`, probes and all else are as they come.

Run it with the Python of a plain installation (`pip install .`) to measure what users have: what a developer has
installed beside it may be loaded as well, as `rich` is by structlog.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import stand
from benchmarks.throughput.rig import Rig

SETTLE_S = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000, help="two descriptors each; see ulimit -n")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long idleness is watched")
    parser.add_argument("--starts", type=int, default=5, help="how often the start is timed; the median counts")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--port-base", type=stand.port_base, default=stand.DEFAULT_PORT_BASE)
    asked = parser.parse_args()
    stand.end_on_sigterm()
    compileall.compile_dir(stand.ROOT / "proxy", quiet=1)  # as pip does
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
        notes = [stand.circumstances(), f"idleness watched for {asked.seconds:g} s"]
        report = {"notes": notes, "sessions": asked.sessions, "figures": figures}
        Path(asked.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


@contextlib.contextmanager
def _proxy(mode: str, folder: Path, ports: stand.Ports, broker: str) -> Iterator[stand.Way]:
    if mode == "haproxy":
        with stand.haproxy(folder, ports, [broker]) as program:
            yield stand.Way([f"127.0.0.1:{ports.haproxy}"], program)
        return
    registry = stand.Registry(folder / "unused.json", [broker], ports.admin)
    settings = {"SIDEHOP_DISCOVERY__SOURCE": "static", "SIDEHOP_DISCOVERY__STATIC__NODES": broker}
    with stand.sidehop(folder, ports, registry, settings) as program:
        yield stand.Way([f"127.0.0.1:{ports.sidehop}"], program)


def _idleness(proxy: stand.Program, seconds: float, name: str) -> dict[str, float]:
    cpu_s, wakeups = proxy.cpu_s(), proxy.wakeups()
    time.sleep(seconds)
    cpu_s, wakeups = proxy.cpu_s() - cpu_s, proxy.wakeups() - wakeups
    return {
        f"cpu_percent_{name}": round(cpu_s / seconds * 100, 2),
        f"wakeups_per_s_{name}": round(wakeups / seconds, 1),
    }


def _figures(
    mode: str, folder: Path, ports: stand.Ports, address: str, rig: Rig, asked: argparse.Namespace
) -> dict[str, float]:
    starts_s, cpu_s = [], []
    for _ in range(asked.starts):
        started_s = time.monotonic()
        with _proxy(mode, folder, ports, address) as way:
            starts_s.append(time.monotonic() - started_s)
            assert way.proxy is not None
            cpu_s.append(way.proxy.cpu_s())
    with _proxy(mode, folder, ports, address) as way:
        proxy = way.proxy
        assert proxy is not None
        time.sleep(SETTLE_S)
        idle_kib = proxy.rss_kib()
        idle = _idleness(proxy, asked.seconds, "idle")
        started_s = time.monotonic()
        command = [rig.load, "idle", way.addresses[0], str(asked.sessions)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            if holder.stdout.readline() != "ready\n":
                raise stand.StandError(f"{asked.sessions} sessions through {mode} did not come up")
            opened_s = time.monotonic() - started_s
            time.sleep(SETTLE_S)
            busy_kib = proxy.rss_kib()
            idle |= _idleness(proxy, asked.seconds, "with_sessions")
            if holder.poll() is not None:
                raise stand.StandError(f"{mode} did not hold {asked.sessions} sessions")
            holder.communicate("")
    return {
        "ready_after_s": round(median(starts_s), 3),
        "ready_after_cpu_s": round(median(cpu_s), 3),
        "rss_idle_mib": round(idle_kib / 1024, 1),
        "rss_with_sessions_mib": round(busy_kib / 1024, 1),
        "rss_per_session_kib": round((busy_kib - idle_kib) / asked.sessions, 1),
        "sessions_opened_per_s": round(asked.sessions / opened_s),
        **idle,
    }


if __name__ == "__main__":
    sys.exit(main())
