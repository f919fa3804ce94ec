"""python -m tests.fuzz --seeds 1000 [--start N] [--minutes M] | --seed N"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count

from tests.fuzz.life import failure_of


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
    asked = parser.parse_args()
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


if __name__ == "__main__":
    sys.exit(main())
