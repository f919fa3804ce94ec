"""The client libraries of the drill: which roles they play, and how an application on one of them is started."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.drill.clients.application import Application
from benchmarks.drill.workload import Workload


@dataclass(frozen=True, slots=True)
class Library:
    """A library in Python, with a module of ours that has a function for each of its roles."""

    name: str
    module: str
    roles: frozenset[str]

    def plays(self, workload: Workload) -> bool:
        return {workload.sender, workload.receiver} <= self.roles

    def command(self, role: str, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "benchmarks.drill.clients", self.name, role, *arguments]

    def play(self, role: str, application: Application) -> None:
        """Returns when the application has ended. In the application's own process."""
        module = importlib.import_module(f"benchmarks.drill.clients.{self.module}")
        getattr(module, role)(application)


_PLAIN = frozenset({"publish", "publish_plain", "consume"})

LIBRARIES = {
    library.name: library
    for library in (
        Library("pika", "pika_client", _PLAIN | {"get", "commit", "ask", "ask_direct", "answer"}),
        Library("aio-pika", "aio_pika_client", _PLAIN | {"ask", "answer"}),
        Library("amqp", "amqp_client", _PLAIN | {"get", "commit"}),
    )
}
