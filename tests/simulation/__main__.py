"""python -m tests.simulation --seeds 1000 | --seed N"""

from __future__ import annotations

import argparse
import sys
import traceback

from tests.simulation.world import World


def failure_of(seed: int) -> str:
    """Run one seed; what went wrong, or an empty string."""
    world = World(seed)
    try:
        world.run()
    except Exception:
        told = "\n".join(world.story[-40:])
        return f"{told}\n{traceback.format_exc()}\nrepeat it: python -m tests.simulation --seed {seed}\n"
    return ""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only, and say what happened")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    asked = parser.parse_args()
    seeds = range(asked.start, asked.start + asked.seeds) if asked.seed is None else (asked.seed,)
    failed = 0
    for seed in seeds:
        failure = failure_of(seed)
        if failure:
            failed += 1
            if asked.keep_going:
                say(f"seed {seed}: {failure.strip().splitlines()[-3]}")
                continue
            say(failure)
            break
    say(f"{failed} of {len(seeds)} seeds failed" if failed else f"{len(seeds)} seeds, every promise was kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
