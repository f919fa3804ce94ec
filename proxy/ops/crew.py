"""Several processes that serve clients on one address, and answer as one (`listen.workers`).

Each worker has a listener of its own, and the kernel spreads connections over them. So a worker that dies takes its
own sessions with it and nothing else: new clients go to the others until there is another one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TypeVar

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from proxy.net import dialler, server
from proxy.ops.intercom import Intercom, Question
from proxy.ops.merging import Family, cumulative, merged_conditions, merged_loads, merged_metrics
from proxy.ops.telemetry import OfProcess
from proxy.ops.vitals import Condition, Load, SessionPage
from proxy.reports import Report, ReportSink
from proxy.settings import Settings
from proxy.upstream.balance import load_balancer
from proxy.upstream.endpoint import Snapshot

# Answers take milliseconds; a scrape or a probe that asks should hear of the others before its own patience ends.
ANSWER_MAX_S = 4.0
# How often a worker is asked whether it is still there, and for how long it may be too busy to say so.
PULSE_S, SILENCE_MAX_S = 5.0, 30.0
# What a worker needs beyond `net.server.CLOSE_WAIT_S` to close its sessions, and then to end.
END_MAX_S = 5.0
# A worker that dies after SETTLED_S is replaced at once. One that lives shorter is replaced after a pause, which
# doubles each time: whatever kills it again and again must not cost the others their processor.
SETTLED_S = 60.0
PAUSE_BASE_S, PAUSE_MAX_S = 0.5, 30.0
# While the last clients are waited for.
DRAIN_LOOK_S = 0.1

T = TypeVar("T")


class Worker:
    """One worker process, seen from the sidecar. Each has a number that no other has had before.

    `headcount` is how many sessions it had when it was last asked, `counted` what may never fall in the metrics that
    it was last asked for.
    """

    def __init__(self, number: int, process: asyncio.subprocess.Process, intercom: Intercom) -> None:
        self.number = number
        self.pid = process.pid
        self.headcount = 0
        self.counted: list[Family] = []
        self.started_at = asyncio.get_running_loop().time()
        self._process = process
        self._intercom = intercom
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._hearing = asyncio.create_task(self._hear(), name=f"worker {number}")

    @classmethod
    async def start(cls, number: int, settings: Settings) -> Worker:
        """Start a process. Raises `OSError` if the system has no room for one."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "proxy.ops.worker", str(number), str(theirs.fileno())),
                # The code that runs here, wherever it was found.
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # What a terminal sends to its foreground is for us to pass on.
                start_new_session=True,
            )
        worker = cls(number, process, await Intercom.over(ours))
        worker._intercom.say(settings)
        return worker

    @property
    def gone(self) -> bool:
        """Whether it has hung up, which the end of its process does as well."""
        return self._hearing.done()

    def tell(self, snapshot: Snapshot) -> None:
        """Let it know the brokers."""
        self._intercom.say(Question("brokers", snapshot=snapshot))

    async def ask(self, question: Question, kind: type[T], limit_s: float = ANSWER_MAX_S) -> T | None:
        """Wait for its answer. None if it is gone, or too slow."""
        if self.gone:
            return None
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._intercom.say(question)
        try:
            async with asyncio.timeout(limit_s):
                return msgspec.msgpack.decode(await answer, type=kind)
        except (EOFError, TimeoutError):
            return None

    async def over(self) -> str:
        """Wait for the end of the process, and bring it about if it does not answer any more. Returns the reason."""
        reason = ""
        while True:
            gone = self.gone
            with suppress(TimeoutError):
                async with asyncio.timeout(PULSE_S):
                    status = await self._process.wait()
                    return reason or _in_words(status)
            headcount = await self.ask(Question("headcount"), int, SILENCE_MAX_S)
            if headcount is not None:
                self.headcount = headcount
            elif gone or not self.gone:  # hung up for a whole round, or merely silent
                reason = f"it did not answer for {SILENCE_MAX_S:g} s and was killed"
                self.kill()

    async def end(self) -> int:
        """Have it end its sessions, then itself. Returns how many that cut."""
        cut = await self.ask(Question("close"), int, END_MAX_S)
        try:
            async with asyncio.timeout(END_MAX_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        return self.headcount if cut is None else cut

    def kill(self) -> None:
        """End the process without a word."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _hear(self) -> None:
        try:
            while True:
                word = await self._intercom.hear_raw()
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(word)
        except EOFError as gone:
            self._intercom.close()
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(gone)


class Crew:
    """A `Plane` (see `vitals`) that is several processes. A worker that dies is replaced, for ever."""

    def __init__(self, settings: Settings, report: ReportSink, lines_dropped: Callable[[], int]) -> None:
        # Made and thrown away, so that what is wrong with them is told at the start and not by each worker.
        load_balancer(settings.balance.choice.policy, settings.balance.choice, Random())
        server.tls_context(settings.listen)
        dialler.broker_tls(settings.dial)
        self._settings = settings
        self._report = report
        self._itself = OfProcess(lines_dropped)
        self._reservation: asyncio.Server | None = None
        self._snapshot: Snapshot | None = None
        self._first: list[Worker | None] = []
        self._workers: dict[int, Worker] = {}
        self._hired = 0
        self._deaths = 0
        self._inherited: list[Family] = []  # what those have counted that are gone

    @property
    def port(self) -> int:
        """The port that clients connect to, once started."""
        assert self._reservation is not None
        port: int = self._reservation.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Start all workers, and wait until they accept clients. Raises `OSError` where the address is taken."""
        listen = self._settings.listen
        # Bound as if nobody else might be, so that another Sidehop on this address is noticed; then shared with the
        # workers. It does not listen, so it gets no clients.
        self._reservation = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, listen.host, listen.port, start_serving=False
        )
        for each in self._reservation.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._first = await asyncio.gather(*(self._hire() for _ in range(listen.workers)))

    async def run(self) -> None:
        """Replace workers that die."""
        async with asyncio.TaskGroup() as group:
            for worker in self._first:
                group.create_task(self._keep(worker))

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Pass on a whole answer of discovery."""
        del now
        self._snapshot = snapshot
        for worker in self._workers.values():
            worker.tell(snapshot)

    async def headcount(self) -> int:
        """Count the live sessions of all."""
        for worker, answer in await self._ask(Question("headcount"), int):
            if answer is not None:
                worker.headcount = answer
        return sum(worker.headcount for worker in self._workers.values())

    async def drain(self, grace_s: float) -> None:
        """Go on serving until no worker has a client, or the grace is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while await self.headcount():  # noqa: ASYNC110 - workers answer, they do not tell
                    await asyncio.sleep(DRAIN_LOOK_S)

    async def close(self) -> int:
        """End all workers with what is left of their sessions. Returns how many sessions that cut."""
        cut = await asyncio.gather(*(worker.end() for worker in self._workers.values()))
        if self._reservation is not None:
            self._reservation.close()
        return sum(cut)

    async def condition(self, now: float) -> Condition:
        """The worst of all; workers that are not there get no clients, so nobody misses them."""
        del now
        answers = await self._ask(Question("condition"), Condition)
        whole = merged_conditions([(worker.number, answer) for worker, answer in answers if answer is not None])
        whole.troubles += [f"worker {worker.number} does not answer" for worker, answer in answers if answer is None]
        if not answers:
            whole.troubles.append("no worker is running")
        return whole

    async def loads(self, now: float) -> dict[str, Load]:
        """The sums of all."""
        del now
        answers = await self._ask(Question("loads"), dict[str, Load])
        return merged_loads(answer for _, answer in answers if answer is not None)

    async def metrics(self, now: float) -> list[Metric]:
        """Those of all workers, and our own. What counts never falls, though workers come and go."""
        del now
        answers = await self._ask(Question("metrics"), list[Family])
        families = []
        for worker, answer in answers:
            if answer is not None:
                worker.counted = cumulative(answer)
            families.append(worker.counted if answer is None else answer)
        own = [
            *self._itself.collect(),
            GaugeMetricFamily("sidehop_workers", "Worker processes that are running.", len(self._workers)),
            CounterMetricFamily("sidehop_worker_deaths", "Worker processes that died.", self._deaths),
        ]
        whole = merged_metrics([self._inherited, *families, [Family.of(metric) for metric in own]])
        return [family.metric for family in whole]

    async def sessions(self, offset: int, limit: int, now: float) -> SessionPage:
        """Describe some live sessions, worker by worker, oldest first."""
        del now
        whole = SessionPage([], 0)
        for worker in list(self._workers.values()):
            question = Question("sessions", max(0, offset - whole.total), limit - len(whole.sessions))
            if page := await worker.ask(question, SessionPage):
                whole.sessions += page.sessions
                whole.total += page.total
        return whole

    async def _ask(self, question: Question, kind: type[T]) -> list[tuple[Worker, T | None]]:
        """Ask all at once. Leaves out who was replaced meanwhile: what it had counted is inherited already."""
        workers = list(self._workers.values())
        answers = await asyncio.gather(*(worker.ask(question, kind) for worker in workers))
        return [each for each in zip(workers, answers, strict=True) if each[0].number in self._workers]

    async def _keep(self, worker: Worker | None) -> None:
        """Have one worker running, as far as it depends on us."""
        failures = 0
        while True:
            lived_s = await self._bury(worker) if worker is not None else 0.0
            failures = 0 if lived_s >= SETTLED_S else failures + 1
            if failures:
                await asyncio.sleep(min(PAUSE_MAX_S, PAUSE_BASE_S * 2 ** min(failures - 1, 10)))
            worker = await self._hire()

    async def _hire(self) -> Worker | None:
        """Start a worker and wait until it accepts clients. None if it could not be started."""
        self._hired += 1
        number = self._hired
        try:
            worker = await Worker.start(number, _share(self._settings, self.port))
        except OSError as error:
            self._report(Report("worker_died", {"worker": number, "reason": f"it could not be started: {error}"}))
            return None
        self._workers[number] = worker
        if self._snapshot is not None:
            worker.tell(self._snapshot)
        if await worker.ask(Question("headcount"), int, SILENCE_MAX_S) is not None:
            self._report(Report("worker_started", {"worker": number, "pid": worker.pid}))
        return worker

    async def _bury(self, worker: Worker) -> float:
        """Wait for the death of a worker and take over what it leaves. Returns for how long it has lived."""
        reason = await worker.over()
        del self._workers[worker.number]
        self._inherited = merged_metrics([self._inherited, worker.counted])
        self._deaths += 1
        lived_s = asyncio.get_running_loop().time() - worker.started_at
        facts = {"worker": worker.number, "reason": reason, "sessions": worker.headcount, "lived_s": lived_s}
        self._report(Report("worker_died", facts))
        return lived_s


def _share(settings: Settings, port: int) -> Settings:
    """What one worker may do: its part of the limits that are for all of them together."""
    listen, count = settings.listen, settings.listen.workers
    return replace(
        settings,
        listen=replace(
            listen,
            port=port,
            workers=1,
            sessions_max=-(-listen.sessions_max // count),
            retained_bytes_max=listen.retained_bytes_max // count,
        ),
        dial=replace(settings.dial, attachments_max=-(-settings.dial.attachments_max // count)),
    )


def _in_words(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
