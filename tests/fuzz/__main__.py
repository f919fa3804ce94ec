"""python -m tests.fuzz --seeds 1000 [--start N] [--minutes M] | --seed N | --sockets [--start N] [--minutes M]"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from tests.fuzz.life import failure_of
from tests.fuzz.siege import failures_of

ROUND_S = 120.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="run for so long, however many seeds that are")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--sockets", action="store_true", help="besiege a real Sidehop through its sockets")
    asked = parser.parse_args()
    if asked.sockets:
        return besiege(asked.start, (asked.minutes or 1.0) * 60)
    until = time.monotonic() + asked.minutes * 60 if asked.minutes is not None else None
    ran = failed = 0
    for seed in count(asked.start) if asked.seed is None else (asked.seed,):
        if asked.seed is None and (ran >= asked.seeds if until is None else time.monotonic() >= until):
            break
        ran += 1
        failure = failure_of(seed)
        if not failure:
            continue
        failed += 1
        say(f"seed {seed}: {failure.strip().splitlines()[-3]}" if asked.keep_going else failure)
        if not asked.keep_going:
            break
    say(f"{failed} of {ran} seeds failed" if failed else f"{ran} seeds, nothing broke")
    return 1 if failed else 0


def besiege(start: int, seconds: float) -> int:
    """In rounds of a few minutes, each with a fresh process."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        with tempfile.TemporaryDirectory(prefix="sidehop-siege-") as folder:
            siege, failures = failures_of(Path(folder), min(left, ROUND_S), start=start)
        say(
            f"seeds {start} to {start + siege.sessions - 1}: {siege.bytes_said} bytes said, at most"
            f" {siege.rss_bytes_max >> 20} MiB, {siege.confirmed} honest publishes confirmed, the slowest in"
            f" {siege.slowest_s:.2f} s, {len(failures)} failures"
        )
        for failure in failures:
            say(failure)
        if failures:
            return 1
        start += siege.sessions
    return 0


if __name__ == "__main__":
    sys.exit(main())
