"""What a person reads when the machine lacks something and the scripts can't help."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "deploy" / "lab"


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder at the head of PATH whose `id` says that this is an ordinary user, and whose `sudo` wants a password."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, script in (("id", "echo 1000"), ("sudo", "exit 1"), ("apt-get", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_nothing_is_asked_of_the_system_when_everything_is_there(programs: Path) -> None:
    done = run([LAB / "packages.sh", "rabbitmq", "etcd", "haproxy"], PATH=f"{programs}:{os.environ['PATH']}")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_rights_the_command_to_run_is_named(programs: Path) -> None:
    done = run([LAB / "packages.sh", "no-such-package"], PATH=f"{programs}:{os.environ['PATH']}")

    assert done.returncode == 77
    assert "apt-get update && apt-get install -y no-such-package" in done.stderr


def test_a_python_that_is_too_old_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "deploy" / "lab").mkdir(parents=True)
    shutil.copy(LAB / "venv.sh", tmp_path / "deploy" / "lab")
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)

    done = run([tmp_path / "deploy" / "lab" / "venv.sh", "try"], PYTHON="/bin/false")

    assert done.returncode == 69
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_rabbitmq_4_without_a_mirror_of_debian_names_the_way_out(programs: Path, tmp_path: Path) -> None:
    path = f"{programs}:{os.environ['PATH']}"

    for environment in ({}, {"RABBITMQ4_MIRROR": "http://127.0.0.1:9/debian"}):
        done = run([LAB / "rabbitmq4.sh", tmp_path / "rabbitmq4"], PATH=path, **environment)

        assert done.returncode == 69
        assert "RABBITMQ4_MIRROR=http://HOST/debian" in done.stderr
        assert not (tmp_path / "rabbitmq4" / "usr").exists()


def test_rabbitmq_4_does_not_go_where_something_else_is(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letter").write_text("dear")

    done = run([LAB / "rabbitmq4.sh", folder])

    assert done.returncode == 69
    assert "not made by this script" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["letter"]


def test_a_root_without_brokers_is_named_with_the_way_to_fill_it(tmp_path: Path) -> None:
    done = run(
        [LAB / "cluster.sh", "start"], CLUSTER_DIR=str(tmp_path / "brokers"), RABBITMQ_ROOT=str(tmp_path / "nothing")
    )

    assert done.returncode == 1
    assert f"deploy/lab/rabbitmq4.sh '{tmp_path}/nothing'" in done.stderr


def test_make_alone_teaches_every_target() -> None:
    shown = run(["make", "--no-print-directory", "-C", ROOT]).stdout

    for target in ("install", "run", "test", "lint", "demo", "bench", "lab", "lab-kill", "lab-start", "lab-stop"):
        assert f"make {target}" in shown
    for variable in ("LISTEN=", "ETCD=", "NODES="):
        assert variable in shown


def test_the_cluster_script_explains_itself() -> None:
    done = run([LAB / "cluster.sh", "help"], CLUSTER_DIR="/nowhere")

    assert done.returncode == 0
    for command in ("start", "kill9", "pause", "partition A B", "CLUSTER_PORT_BASE"):
        assert command in done.stdout
    assert run([LAB / "cluster.sh", "explode"], CLUSTER_DIR="/nowhere").returncode == 64


def test_a_broker_that_is_not_named_is_asked_for() -> None:
    # -n: make prints what it would run, and runs nothing.
    done = run(["make", "-n", "lab-kill"])

    assert done.returncode == 2
    assert "which broker? Say it as in: make lab-kill N=2" in done.stderr
    assert run(["make", "-n", "lab-kill", "N=2"]).stdout.endswith("lab.py kill 2\n")


def test_what_the_benchmark_compiles_with_is_asked_for_like_the_rest(programs: Path, tmp_path: Path) -> None:
    (programs / "cut").symlink_to(shutil.which("cut") or "")
    only_these = tmp_path / "only-these"
    only_these.mkdir()
    for name in ("bash", "env", "dirname", "mkdir", "grep"):
        (only_these / name).symlink_to(shutil.which(name) or "")
    done = run(["bash", LAB / "packages.sh", "compiler"], PATH=f"{programs}:{only_these}")

    assert done.returncode == 77
    assert "apt-get install -y gcc libc6-dev" in done.stderr
