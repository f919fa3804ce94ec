"""The account of two runs of a suite, and where its tests come from. The suites themselves run by hand."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.foreign.archive import Archive, FetchError, unpack
from tests.foreign.expected import EXPECTED
from tests.foreign.outcomes import Comparison, Difference, differences, read, surprises_of, table
from tests.foreign.suites import SUITES

REPORT = """<testsuites><testsuite>
<testcase classname="t.test_a" name="test_well[1-a]" file="t/test_a.py" />
<testcase classname="t.test_a.TestIn" name="test_ill" file="t/test_a.py"><failure>no</failure></testcase>
<testcase classname="t.test_a" name="test_not" file="t/test_a.py"><skipped /></testcase>
<testcase classname="t.test_a" name="test_leaks" file="t/test_a.py" />
<testcase classname="t.test_a" name="test_leaks" file="t/test_a.py"><error>at its end</error></testcase>
</testsuite></testsuites>"""


def test_a_report_is_read_by_names_that_run_the_tests_again(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)

    assert read(report) == {
        "t/test_a.py::test_well[1-a]": "passed",
        "t/test_a.py::TestIn::test_ill": "failed",
        "t/test_a.py::test_not": "skipped",
        "t/test_a.py::test_leaks": "failed",
    }


def test_a_test_that_ran_on_one_way_only_is_a_difference() -> None:
    assert differences({"a": "passed", "b": "failed"}, {"b": "failed"}) == [Difference("a", "passed", "missing")]


def test_what_differs_without_a_reason_and_a_reason_without_a_difference_are_told() -> None:
    comparison = Comparison("one", "1.0", {"a": "passed", "b": "passed"}, {"a": "failed", "b": "passed"})

    assert surprises_of(comparison, {"a": "because"}) == []
    assert surprises_of(comparison, {}) == ["not explained: one, a"]
    assert surprises_of(comparison, {"a": "because", "b": "was so"}) == [
        "no longer different, so remove its reason: one, b"
    ]


def test_the_table_counts_and_names() -> None:
    shown = table([Comparison("one", "1.0", {"a": "passed", "b": "skipped"}, {"a": "failed", "b": "skipped"})])

    assert "| one | 1.0 | 1 passed, 0 failed, 1 skipped | 0 passed, 1 failed, 1 skipped | 1 |" in shown
    assert "- one, `a`: passed directly, failed through Sidehop" in shown


def test_an_archive_with_another_content_is_refused_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "suite.tar.gz"
    file.write_bytes(b"as it was")
    right = hashlib.sha256(b"as it was").hexdigest()
    assert Archive(file.name, right, "suite==1").fetch(tmp_path) == file

    file.write_bytes(b"changed")
    with pytest.raises(FetchError, match=right):
        Archive(file.name, right, "suite==1").fetch(tmp_path)
    assert not file.exists()


def test_only_the_tests_are_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "suite.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("suite-1/suite/library.py", "suite-1/tests/test_it.py"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())

    unpack(file, ("tests/",), tmp_path / "out")

    assert [path.name for path in (tmp_path / "out").rglob("*.py")] == ["test_it.py"]


def test_an_expected_difference_is_of_a_suite_that_runs() -> None:
    assert EXPECTED.keys() - SUITES.keys() == set()
    assert all(reason for reasons in EXPECTED.values() for reason in reasons.values())
