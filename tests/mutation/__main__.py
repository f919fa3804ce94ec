"""python -m tests.mutation [--seeds N] [--blind] [--only WORD]: plant each bug in a copy; see which test notices."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutation.mutants import MUTANTS
from tests.mutation.plantation import Plantation


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many lives a bug may survive in the simulation")
    parser.add_argument("--blind", action="store_true", help="without the stories: what the simulation finds by itself")
    parser.add_argument("--only", default="", help="only bugs whose description has this in it")
    asked = parser.parse_args()
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        plantation = Plantation(Path(folder), asked.seeds, stories=not asked.blind)
        for mutant in MUTANTS:
            if asked.only not in mutant.breaks:
                continue
            killer, took_s = plantation.killer_of(mutant)
            survivors += not killer
            say(f"{took_s:6.1f} s  {killer or 'SURVIVED':70}  {mutant.breaks}")
    say(f"{survivors} survived" if survivors else "every bug was noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
