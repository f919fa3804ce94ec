"""python -m tests.simulation --seeds 100000 --jobs 2 [--keep-going] | --seed N [--without crash,hang]

What a seed covers is told in `recipe.py`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator
from functools import partial

from tests.simulation.recipe import SHARES, Recipe
from tests.simulation.world import World

# What a process is given at a time, and how often progress is told.
BLOCK_SEEDS = 20
PROGRESS_S = 30.0


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


def failures_of(without: frozenset[str], block: range) -> tuple[int, list[tuple[Recipe, str]]]:
    """How many lives a block has, and those that went wrong."""
    recipes = [Recipe(seed, without) for seed in block]
    return len(block), [(recipe, failure) for recipe in recipes if (failure := failure_of(recipe))]


def lives(seeds: range, without: frozenset[str], jobs: int) -> Iterator[tuple[int, list[tuple[Recipe, str]]]]:
    """Blocks of lives, as they end, in as many processes as asked for."""
    blocks = [seeds[at : at + BLOCK_SEEDS] for at in range(0, len(seeds), BLOCK_SEEDS)]
    live = partial(failures_of, without)
    if jobs == 1:
        yield from map(live, blocks)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(live, blocks)


def run(seeds: range, asked: argparse.Namespace) -> int:
    """How many seeds failed; the first one is the last unless asked otherwise."""
    done = failed = 0
    began = told = time.monotonic()
    for count, failures in lives(seeds, frozenset(asked.without.split(",")) - {""}, asked.jobs):
        done += count
        failed += len(failures)
        for recipe, failure in failures:
            if not asked.keep_going:
                explain(recipe, failure, shrink=not asked.no_shrink)
                return failed
            say(f"seed {recipe.seed}: {failure.strip().splitlines()[-3]}; repeat it: {recipe.command()}")
        now = time.monotonic()
        if now >= told + PROGRESS_S:
            told = now
            say(f"{done} of {len(seeds)} seeds, {failed} failed, {done / (now - began):.1f} a second")
    return failed


def explain(recipe: Recipe, failure: str, *, shrink: bool) -> None:
    """What went wrong, and what it takes to go wrong."""
    say(failure)
    if shrink:
        small = shrunk(recipe)
        say(failure_of(small))
        say(f"it needs {', '.join(small.ingredients) or 'nothing but the client'}: {small.command()}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="run this seed only, and say what happened")
    parser.add_argument("--without", default="", help=f"what to leave out of it: {', '.join(SHARES)}")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes to use")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for what a failure needs")
    asked = parser.parse_args()
    first, count = (asked.start, asked.seeds) if asked.seed is None else (asked.seed, 1)
    seeds = range(first, first + count)
    failed = run(seeds, asked)
    say(f"{failed} of {len(seeds)} seeds failed" if failed else f"{len(seeds)} seeds, every promise was kept")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
