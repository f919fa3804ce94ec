"""python -m tests.simulation --seeds 1000 | --seed N [--without crash,hang]"""

from __future__ import annotations

import argparse
import sys
import traceback

from tests.simulation.recipe import SHARES, Recipe
from tests.simulation.world import World


def failure_of(recipe: Recipe) -> str:
    """Live one life; what went wrong, or an empty string."""
    world = World(recipe)
    try:
        world.run()
    except Exception:
        told = "\n".join(world.shell.story[-40:])
        return f"{told}\n{traceback.format_exc()}\nrepeat it: {recipe.command()}\n"
    return ""


def shrunk(recipe: Recipe) -> Recipe:
    """The same seed with as few ingredients as possible: what it fails without stays out."""
    for ingredient in recipe.ingredients:
        smaller = Recipe(recipe.seed, recipe.without | {ingredient})
        if failure_of(smaller):
            recipe = smaller
    return recipe


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only, and say what happened")
    parser.add_argument("--without", default="", help=f"what to leave out of it: {', '.join(SHARES)}")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for what a failure needs")
    asked = parser.parse_args()
    seeds = range(asked.start, asked.start + asked.seeds) if asked.seed is None else (asked.seed,)
    without = frozenset(asked.without.split(",")) - {""}
    failed = 0
    for seed in seeds:
        recipe = Recipe(seed, without)
        failure = failure_of(recipe)
        if not failure:
            continue
        failed += 1
        if asked.keep_going:
            say(f"seed {seed}: {failure.strip().splitlines()[-3]}")
            continue
        say(failure)
        if not asked.no_shrink:
            small = shrunk(recipe)
            say(failure_of(small))
            say(f"it needs {', '.join(small.ingredients) or 'nothing but the client'}: {small.command()}")
        break
    say(f"{failed} of {len(seeds)} seeds failed" if failed else f"{len(seeds)} seeds, every promise was kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
