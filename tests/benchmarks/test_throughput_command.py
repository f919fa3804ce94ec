"""The command of the throughput: it explains itself, and refuses a mistake before it starts anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.throughput.rig import AFTER, KINDS, SMALL_ONLY

ROOT = Path(__file__).resolve().parents[2]


def throughput(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.throughput", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_every_kind_and_every_way_to_ask_less_of_it() -> None:
    done = throughput("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (*KINDS, "--modes", "--brokers", "--kinds", "--sizes", "--rounds", "--seconds", "--json", "nginx"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--modes", "direct,envoy"], "envoy unknown; of direct, haproxy, nginx, sidehop"),
        (["--kinds", "publishes"], "invalid choice: 'publishes'"),
        (["--rounds", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_mistake_is_refused_with_what_would_be_right(arguments, told) -> None:
    done = throughput(*arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_after_a_failover_the_same_is_asked_for_and_no_kind_is_asked_for_in_sizes_by_mistake() -> None:
    after = [name for name in KINDS if name.endswith(AFTER)]
    assert after == ["confirm-after", "publish-after", "consume-after", "trip-after", "trip64-after"]
    assert all(KINDS[name] == KINDS[name.removesuffix(AFTER)] for name in after)
    assert set(SMALL_ONLY) <= set(KINDS)
