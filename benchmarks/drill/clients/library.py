"""The client libraries of the drill: which roles they play, and how an application on one of them is started."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stand
from benchmarks.drill.clients.application import Application
from benchmarks.drill.workload import Workload

HERE = Path(__file__).parent
# What is fetched and built for libraries of other languages; git ignores it.
WORKSHOP = Path(os.environ.get("LAB_DIR", stand.ROOT / ".lab")).resolve() / "drill"
AMQPLIB = "amqplib@0.10.9"
PREPARE_MAX_S = 180


@dataclass(frozen=True, slots=True)
class Library:
    """A library in Python: `module` is ours, with a function for each role; `needs` is what it imports."""

    name: str
    module: str
    roles: frozenset[str]
    needs: str = "pika"
    streams: bool = True

    def plays(self, workload: Workload, queue_type: str) -> bool:
        """Whether a cell of these makes sense."""
        able = {workload.sender, workload.receiver} <= self.roles and queue_type in workload.queue_types
        return able and (self.streams or queue_type != "stream")

    def prepare(self) -> None:
        """Fetch or build what an application needs. Raises StandError with what is missing, and how to get it."""
        if importlib.util.find_spec(self.needs) is None:
            raise stand.StandError(f"{self.needs} is not installed: pip install {self.needs}")

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "benchmarks.drill.clients", self.name, role, *arguments]

    def play(self, role: str, application: Application) -> None:
        """Returns when the application has ended. In the application's own process."""
        module = importlib.import_module(f"benchmarks.drill.clients.{self.module}")
        getattr(module, role)(application)


class NodeLibrary(Library):
    """amqplib on Node.js, fetched by npm into the workshop."""

    __slots__ = ()

    def prepare(self) -> None:
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                raise stand.StandError(f"{program} is not installed: apt-get install nodejs npm")
        if not (WORKSHOP / "node_modules" / "amqplib").is_dir():
            WORKSHOP.mkdir(parents=True, exist_ok=True)
            _run("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix", str(WORKSHOP), AMQPLIB)

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        modules = f"NODE_PATH={WORKSHOP / 'node_modules'}"
        return ["env", modules, "node", str(HERE / self.module), role, *arguments]


class CLibrary(Library):
    """librabbitmq (rabbitmq-c): a small program of ours, compiled into the workshop."""

    __slots__ = ()

    def prepare(self) -> None:
        source, program = HERE / self.module, WORKSHOP / self.name
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise stand.StandError("no C compiler is installed: apt-get install gcc libc6-dev")
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            WORKSHOP.mkdir(parents=True, exist_ok=True)
            _run(compiler, "-O1", "-Wall", "-Wextra", "-o", str(program), str(source), "-lrabbitmq")

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        return [str(WORKSHOP / self.name), role, *arguments]


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PREPARE_MAX_S)
    except subprocess.CalledProcessError as error:
        hint = "; apt-get install librabbitmq-dev" if "-lrabbitmq" in command else ""
        raise stand.StandError(f"{' '.join(command)}: {error.stderr.strip()[-600:]}{hint}") from error
    except subprocess.TimeoutExpired as error:
        raise stand.StandError(f"{' '.join(command)} took more than {PREPARE_MAX_S} s") from error


_PLAIN = frozenset({"publish", "publish_plain", "consume"})

LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        Library("pika", "pika_client", _PLAIN | {"get", "commit", "ask", "ask_direct", "answer"}),
        Library("aio-pika", "aio_pika_client", _PLAIN | {"ask", "answer"}, needs="aio_pika"),
        Library("amqp", "amqp_client", _PLAIN | {"get", "commit"}, needs="amqp"),
        Library("celery", "celery_client", frozenset({"publish", "consume"}), needs="celery", streams=False),
        NodeLibrary("amqplib", "amqplib_client.js", _PLAIN | {"get", "ask", "ask_direct", "answer"}),
        CLibrary("librabbitmq", "librabbitmq_client.c", _PLAIN, streams=False),
    )
}
