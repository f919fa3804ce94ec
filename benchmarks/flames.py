"""`python -m benchmarks.flames`: where Sidehop's processor time goes, as flame graphs of the three main workloads.

`perf` takes the samples (apt-get install linux-perf; it needs root or kernel.perf_event_paranoid below 2). It sees the
kernel, the interpreter, uvloop and the compiled engine by name. What runs as plain Python is one name, however many
functions it is: CPython tells perf about those from 3.12 on only. So build the engine first (`sidehop --version` says).
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from benchmarks import stand
from benchmarks.throughput.rig import KINDS, Rig

WORKLOADS = ("confirm", "consume", "trip")
SIZE_BYTES = 1024
SAMPLES_PER_S = 499
# perf needs a moment to attach, once it has made its file.
ATTACH_S = 1.0
TRIPS_PER_S = 5000
WIDTH, ROW = 1200, 17
# Narrower boxes than this share of the whole can't be seen.
SHARE_MIN = 0.001

Stack = tuple[str, ...]
_PERF_LINE = re.compile(r"^\s+[0-9a-f]+ (.+)$")
_CYTHON = re.compile(r"^__pyx_[a-z]+_(?:\d+[a-z_]*?_)??(?=5proxy)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flames", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", choices=KINDS, default=list(WORKLOADS), help="default: %(default)s")
    parser.add_argument("--size", type=int, default=SIZE_BYTES, metavar="BYTES", help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each workload; default %(default)s")
    parser.add_argument("--into", type=Path, default=stand.ROOT / "build" / "bench", help="default %(default)s")
    parser.add_argument("--port-base", type=int, default=stand.DEFAULT_PORT_BASE)
    asked = parser.parse_args(arguments)
    if shutil.which("perf") is None:
        parser.error("perf is not installed: apt-get install linux-perf")
    stand.end_on_sigterm()
    asked.into.mkdir(parents=True, exist_ok=True)
    print(f"about {len(asked.workloads) * (asked.seconds * 2 + 5):.0f} seconds", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix="sidehop-flames-") as name:
            for workload in asked.workloads:
                stacks = fold(_sampled(workload, Path(name), asked))
                if not stacks:
                    print(f"perf took no sample of {workload}; ask for more --seconds", file=sys.stderr)
                    return 2
                target = asked.into / f"flame-{workload}.svg"
                title = f"{workload}, {asked.size} B: {sum(stacks.values())} samples; {stand.circumstances()}"
                target.write_text(draw(title, stacks))
                print(target)
    except (stand.StandError, OSError) as error:
        print(f"the profile could not go on: {error}", file=sys.stderr)
        return 2
    return 0


def _sampled(workload: str, folder: Path, asked: argparse.Namespace) -> list[str]:
    """What `perf script` says of Sidehop under this workload."""
    rig, ports, data = Rig(folder), stand.Ports(asked.port_base), folder / f"{workload}.data"
    kind, seconds = KINDS[workload], asked.seconds
    with rig.broker(ports.fake_broker) as address, stand.way("sidehop", folder, ports, [address]) as way:
        assert way.proxy is not None
        trips = int(TRIPS_PER_S * seconds)
        words = kind.words.format(address=way.addresses[0], size=asked.size, seconds=seconds, trips=trips)
        # Stacks are unwound from the tables that every library has; frame pointers few have.
        command = ["perf", "record", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "--call-graph", "dwarf,16384"]
        command += ["-p", str(way.proxy.pid), "-o", str(data)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as perf:
            while perf.poll() is None and not data.exists():
                time.sleep(0.05)
            time.sleep(ATTACH_S)
            rig.run(words, way, seconds, kind.sessions)
            perf.send_signal(signal.SIGINT)
            _, complaint = perf.communicate(timeout=60)
        if perf.returncode not in (0, -signal.SIGINT):
            raise stand.StandError(f"perf record: {complaint.strip()[-400:]}")
    told = subprocess.run(
        ["perf", "script", "-i", str(data), "--no-inline", "-F", "comm,ip,sym"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if told.returncode:
        raise stand.StandError(f"perf script: {told.stderr.strip()[-400:]}")
    return told.stdout.splitlines()


def fold(lines: Iterable[str]) -> Counter[Stack]:
    """How often each stack was seen, outermost first. A function that calls itself at once counts as one."""
    stacks: Counter[Stack] = Counter()
    frames: list[str] = []
    for line in [*lines, ""]:
        if found := _PERF_LINE.match(line):
            name = plain(found[1].split("+0x")[0])
            if not frames or frames[-1] != name:
                frames.append(name)
        elif not line.strip() and frames:
            stacks[tuple(reversed(frames))] += 1
            frames = []
    return stacks


def plain(name: str) -> str:
    """The Python name behind Cython's: `__pyx_f_5proxy_7session_6intake_scan` is `proxy.session.intake.scan`."""
    prefix = _CYTHON.match(name)
    if prefix is None:
        return name
    rest, parts = name[prefix.end() :], []
    while length := re.match(r"\d+", rest):
        start, stop = length.end(), length.end() + int(length[0])
        if rest[stop : stop + 1] != "_":  # no length but a number that keeps wrappers apart
            rest = rest[start:]
            break
        parts.append(rest[start:stop])
        rest = rest[stop:].removeprefix("_")
    return ".".join([*parts, rest] if rest else parts)


def draw(title: str, stacks: Counter[Stack]) -> str:
    """The flame graph, outermost function at the top, in the order of names; a box's width is its share of samples."""
    total = sum(stacks.values()) or 1
    boxes: list[tuple[int, float, float, str]] = []
    _lay_out(boxes, list(stacks.items()), 0, 0.0, total)
    height = (max((depth for depth, *_ in boxes), default=0) + 1) * ROW + 36
    parts = []
    for depth, start, count, name in boxes:
        x, width, y = start / total * WIDTH, count / total * WIDTH, 30 + depth * ROW
        kind = "ours" if name.startswith("proxy.") else "rest"
        parts.append(
            f'<g><title>{escape(name)}: {count / total:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{ROW - 1}" class="{kind}"/>'
        )
        if len(shown := name[: int(width / 6.5)]) > 2:
            parts.append(f'<text x="{x + 3:.1f}" y="{y + 12}">{escape(shown)}</text>')
        parts.append("</g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n<style>\n'
        "text { font: 11px monospace; fill: #212529 } .ours { fill: #74c0fc } .rest { fill: #ffd8a8 }\n"
        ".page { fill: #ffffff } .title { font: 13px system-ui, sans-serif }\n"
        "@media (prefers-color-scheme: dark) { .page { fill: #16191d } .title { fill: #e9ecef } }\n</style>\n"
        f'<rect class="page" width="{WIDTH}" height="{height}"/>\n'
        f'<text class="title" x="4" y="18">{escape(title)}</text>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _lay_out(
    boxes: list[tuple[int, float, float, str]], stacks: list[tuple[Stack, int]], depth: int, start: float, total: int
) -> None:
    below: dict[str, list[tuple[Stack, int]]] = {}
    for stack, count in stacks:
        if len(stack) > depth:
            below.setdefault(stack[depth], []).append((stack, count))
    for name, group in sorted(below.items()):
        count = sum(each for _, each in group)
        if count >= total * SHARE_MIN:
            boxes.append((depth, start, count, name))
            _lay_out(boxes, group, depth + 1, start, total)
        start += count


if __name__ == "__main__":
    sys.exit(main())
