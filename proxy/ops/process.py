"""One sidecar from start to end: its parts are made here, introduced to each other, started, and ended in order."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import asdict
from random import Random

from proxy.errors import ConfigError
from proxy.ops.api import AdminServer
from proxy.ops.build import Build, this_build
from proxy.ops.log import Log
from proxy.ops.plane import DataPlane
from proxy.ops.vitals import Plane, Vitals
from proxy.reports import Report, ReportSink
from proxy.settings import Settings
from proxy.upstream.discovery import load_discovery
from proxy.upstream.endpoint import Snapshot

# Log, admin API, registry, epoll and what a library opens for a moment, beside two sockets for each session.
_OTHER_DESCRIPTORS = 256


def run(settings: Settings) -> str:
    """Run a sidecar until it is stopped. Returns why it could not go on, empty after an orderly end.

    Raises `ConfigError` for what shows only when the parts start.
    """
    build = this_build()
    log = Log(settings.log)
    log.adopt_libraries()
    _allow_descriptors(2 * settings.listen.sessions_max + _OTHER_DESCRIPTORS)
    try:
        with asyncio.Runner(loop_factory=build.loop_factory) as runner:
            return runner.run(_run(settings, log, build))
    finally:
        log.close()


async def _run(settings: Settings, log: Log, build: Build) -> str:
    sidecar = Sidecar(settings, log, lambda: log.writer.dropped, build)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.signalled, number.name)
    return await sidecar.run()


class Sidecar:
    """All parts of one running sidecar.

    It is made to outlive its application: asked to stop, it goes on accepting and serving until the last session has
    gone or `listen.shutdown_grace_s` is over, since an orchestrator tells application and sidecar at the same time,
    and the application still has work to finish. A second signal ends it at once.
    """

    def __init__(self, settings: Settings, report: ReportSink, lines_dropped: Callable[[], int], build: Build) -> None:
        self._settings = settings
        self._report = report
        self._plane = _plane(settings, report, lines_dropped)
        self._discovery = load_discovery(settings.discovery, report, Random())
        self._vitals = Vitals(build=build, plane=self._plane, discovery=self._discovery.status, stop=self.stop)
        self._admin = AdminServer(settings.admin, self._vitals)
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._stop_reason = ""
        self._signals = 0

    def stop(self, reason: str) -> None:
        """End as soon as the sessions are over or the grace period is."""
        if not self._stopping.is_set():
            self._stop_reason = reason
            self._stopping.set()

    def signalled(self, name: str) -> None:
        """Take a signal: the first one stops, the next one does so at once."""
        self._signals += 1
        self.stop(name)
        if self._signals > 1:
            self._hurried.set()

    async def run(self) -> str:
        """Serve until stopped. Returns why it could not, empty after an orderly end. Raises `ConfigError`."""
        try:
            if reason := await self._start():
                return reason
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._discovery.run(self._publish), name="discovery"),
                    group.create_task(self._plane.run(), name="plane"),
                ]
                await self._serve(group)
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failures:
            wrong, bugs = failures.split(ConfigError)
            if wrong is not None:
                raise _first(wrong) from failures
            self._report(Report("internal_error", {"stack": bugs}))
            return "a part of it failed; the log has the stack"
        finally:
            cut = await self._plane.close()
            await self._admin.close()
        self._report(Report("stopped", {"reason": self._stop_reason, "sessions_cut": cut}))
        return ""

    async def _start(self) -> str:
        """Bind both addresses; what is wrong with one of them is told in words."""
        listen, admin = self._settings.listen, self._settings.admin
        try:
            await self._plane.start()
        except OSError as error:
            return _cannot_bind(listen.host, listen.port, error, "--listen")
        try:
            await self._admin.start()
        except OSError as error:
            return _cannot_bind(admin.host, admin.port, error, "--admin")
        self._report(
            Report(
                "started",
                {
                    "listen": f"{listen.host}:{self._plane.port}",
                    "admin": f"{admin.host}:{self._admin.port}",
                    "discovery": self._settings.discovery.source,
                    "balance": self._settings.balance.choice.policy,
                    "pid": os.getpid(),
                    **asdict(self._vitals.build),
                },
            )
        )
        return ""

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        await self._stopping.wait()
        grace_s = self._settings.listen.shutdown_grace_s
        facts = {"reason": self._stop_reason, "sessions": await self._plane.headcount(), "grace_s": grace_s}
        self._report(Report("stopping", facts))
        drained = group.create_task(self._plane.drain(grace_s), name="drain")
        hurried = group.create_task(self._hurried.wait(), name="second signal")
        await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
        hurried.cancel()

    def _publish(self, snapshot: Snapshot) -> None:
        self._vitals.rejected = snapshot.rejected
        self._plane.apply(snapshot, asyncio.get_running_loop().time())


def _plane(settings: Settings, report: ReportSink, lines_dropped: Callable[[], int]) -> Plane:
    if settings.listen.workers == 1:
        return DataPlane(settings, report, lines_dropped)
    # Only here, since hardly anybody needs it.
    from proxy.ops.crew import Crew

    return Crew(settings, report, lines_dropped)


def _cannot_bind(host: str, port: int, error: OSError, flag: str) -> str:
    return f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}; choose another address with {flag}"


def _first(group: BaseExceptionGroup[ConfigError]) -> ConfigError:
    each = group.exceptions[0]
    return _first(each) if isinstance(each, BaseExceptionGroup) else each


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit, which is 1024 on many systems and would end at 500 sessions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
