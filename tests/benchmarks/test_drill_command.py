"""The command of the drill: it explains itself, and refuses a mistake before it starts anything."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.drill.clients.library import LIBRARIES
from benchmarks.stand import StandError

ROOT = Path(__file__).resolve().parents[2]


def drill(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.drill", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_every_way_to_ask_less_of_it() -> None:
    done = drill("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for flag in (
        "--quick",
        "--clients",
        "--workloads",
        "--queues",
        "--modes",
        "--faults",
        "--witnesses",
        "--json",
        "--markdown",
        "--port-base",
    ):
        assert flag in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--clients", "pika,bunny"),
            "--clients: bunny unknown; of pika, aio-pika, amqp, celery, amqplib, librabbitmq",
        ),
        (("--modes", "envoy"), "--modes: envoy unknown; of direct, haproxy, sidehop"),
        (("--faults", "kill9"), "--faults: 'kill9' is not KIND=COUNT with a kind of kill9, sigterm"),
        (("--faults", "earthquake=1"), "--faults: 'earthquake=1' is not KIND=COUNT"),
        (("--rate", "fast"), "argument --rate: invalid int value: 'fast'"),
        (("--rate", "0"), "--rate must be at least 1"),
        (("--prefetch", "-1"), "--prefetch must be at least 1"),
        (("--port-base", "35000"), "argument --port-base: must be 1024 to 32657"),
        (("--queues", "mirrored"), "--queues: mirrored unknown; of quorum, classic, stream"),
        (("--workloads", "confirm,gossip"), "--workloads: gossip unknown; of confirm, plain, get, tx, rpc, reply-to"),
        (("--clients", "amqp", "--workloads", "rpc"), "nothing to do"),
    ],
)
def test_a_mistake_is_named_before_anything_is_started(arguments: tuple[str, ...], told: str) -> None:
    done = drill(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "brokers" not in done.stderr


def test_a_library_that_cannot_be_had_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StandError, match="node is not installed: apt-get install nodejs npm"):
        LIBRARIES["amqplib"].prepare()
    with pytest.raises(StandError, match="no C compiler is installed: apt-get install gcc"):
        LIBRARIES["librabbitmq"].prepare()
