"""What the two runs of a suite said, and where they disagree."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Outcomes = dict[str, str]
"""passed, failed or skipped, by the name that runs the test again: `file::class::test`."""

MISSING = "missing"


@dataclass(frozen=True)
class Difference:
    """One test that does not end the same way."""

    test: str
    direct: str
    through: str


@dataclass(frozen=True)
class Comparison:
    """A suite run both ways. `unsteady` are tests that differed once and agreed when they were run again."""

    suite: str
    version: str
    direct: Outcomes
    through: Outcomes
    unsteady: list[Difference] = field(default_factory=list)

    @property
    def differences(self) -> list[Difference]:
        return differences(self.direct, self.through)


def read(report: Path) -> Outcomes:
    """A JUnit report of pytest (family xunit1, which names the file). A test that fails after it passed has failed."""
    outcomes: Outcomes = {}
    for case in ET.parse(report).iter("testcase"):
        file = case.get("file", "")
        module = file.removesuffix(".py").replace("/", ".")
        classes = case.get("classname", "").removeprefix(module).strip(".")
        test = "::".join(part for part in (file, classes.replace(".", "::"), case.get("name", "")) if part)
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        if outcomes.get(test) != "failed":
            outcomes[test] = outcome
    return outcomes


def differences(direct: Outcomes, through: Outcomes) -> list[Difference]:
    """Also a test that is there on one way only."""
    both = ((test, direct.get(test, MISSING), through.get(test, MISSING)) for test in sorted({*direct, *through}))
    return [Difference(test, one, other) for test, one, other in both if one != other]


def surprises_of(comparison: Comparison, reasons: Mapping[str, str]) -> list[str]:
    """What differs without a reason, and reasons for what no longer differs, in words."""
    found = {one.test for one in comparison.differences}
    gone = reasons.keys() - found - {one.test for one in comparison.unsteady}
    return [f"not explained: {comparison.suite}, {test}" for test in sorted(found - reasons.keys())] + [
        f"no longer different, so remove its reason: {comparison.suite}, {test}" for test in sorted(gone)
    ]


def table(comparisons: list[Comparison]) -> str:
    """Markdown: passed / failed / skipped each way, then every difference and every unsteady test."""
    lines = ["| suite | version | directly | through Sidehop | different |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.suite} | {one.version} | {_counts(one.direct)} | {_counts(one.through)} | {len(one.differences)} |"
        for one in comparisons
    ]
    for title, chosen in (
        ("Different", [(one.suite, found) for one in comparisons for found in one.differences]),
        ("Different once, and not again", [(one.suite, found) for one in comparisons for found in one.unsteady]),
    ):
        if chosen:
            lines += ["", f"{title}:", "", *(f"- {suite}, `{found.test}`: {_words(found)}" for suite, found in chosen)]
    return "\n".join(lines)


def _words(found: Difference) -> str:
    return f"{found.direct} directly, {found.through} through Sidehop"


def _counts(outcomes: Outcomes) -> str:
    count = Counter(outcomes.values())
    return f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped"
