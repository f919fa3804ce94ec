"""python -m tests.foreign: run the functional tests of client libraries directly and through Sidehop, and compare.

Exit code 0 when they end the same, but for what tests/foreign/expected.py explains; 1 when something else differs, or
an expected difference is gone; 2 when a suite could not be fetched or run. SIDEHOP_TEST_PORT_BASE moves the ports.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.foreign.archive import FetchError
from tests.foreign.expected import EXPECTED
from tests.foreign.outcomes import Comparison, Outcomes, differences, surprises_of, table
from tests.foreign.stand import WAYS, Stand
from tests.foreign.suites import SUITES
from tests.foreign.workshop import CACHE, SuiteError, Workshop


def main() -> int:
    asked = _arguments()
    workshops = [Workshop(SUITES[name]) for name in asked.suite or SUITES]
    comparisons: list[Comparison] = []
    unfinished = False
    try:
        for workshop in workshops:
            workshop.prepare()
    except FetchError as error:
        say(str(error))
        return 2
    if asked.prepare:
        return 0
    with Stand(CACHE / "stand").booted() as stand:
        for workshop in workshops:
            try:
                comparisons.append(_compare(workshop, stand))
            except (SuiteError, AssertionError) as error:
                unfinished = True
                say(f"{workshop.suite.name}: {error}")
    report = table(comparisons)
    sys.stdout.write(report + "\n")
    if asked.markdown:
        asked.markdown.write_text(report + "\n")
    surprises = [surprise for one in comparisons for surprise in surprises_of(one, EXPECTED.get(one.suite, {}))]
    for surprise in surprises:
        say(surprise)
    return 2 if unfinished else 1 if surprises else 0


def _compare(workshop: Workshop, stand: Stand) -> Comparison:
    """Both ways; what differs is run once more, alone, because a busy machine fails a test of a timeout at times."""
    suite = workshop.suite
    outcomes: dict[str, Outcomes] = {}
    for way in WAYS:
        say(f"{suite.name} {way} ...")
        with stand.way(way, tls=suite.needs_tls) as address:
            outcomes[way] = workshop.run(way, address)
    first = differences(*outcomes.values())
    if first:
        for way in WAYS:
            say(f"{suite.name} {way} again: {', '.join(found.test for found in first)}")
            with stand.way(way, tls=suite.needs_tls) as address:
                outcomes[way] |= workshop.run(way, address, [found.test for found in first])
    comparison = Comparison(suite.name, workshop.version, *outcomes.values())
    lasting = {found.test for found in comparison.differences}
    comparison.unsteady.extend(found for found in first if found.test not in lasting)
    return comparison


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.foreign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", action="append", choices=[*SUITES], help="only this one; may be given again")
    parser.add_argument(
        "--prepare", action="store_true", help="only fetch what the suites need, so that they run offline"
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table there as well")
    return parser.parse_args()


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
