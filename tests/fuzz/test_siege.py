"""A few seconds of a siege. Longer ones: `python -m tests.fuzz --sockets --minutes 60`."""

from __future__ import annotations

from tests.fuzz.siege import failures_of


def test_liars_at_its_sockets_neither_end_nor_fill_it_nor_disturb_another_session(tmp_path):
    siege, failures = failures_of(tmp_path, 6.0)
    assert not failures, failures[0]
    assert siege.confirmed > 10
    assert siege.sessions > 10
