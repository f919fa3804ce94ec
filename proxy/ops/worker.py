"""One of several processes that serve clients. `crew.Crew` starts it, tells it what to do, and ends it.

Its command line is its number and the descriptor of its end of the intercom. Signals are for the whole sidecar and
go to the process that was started first: an orchestrator or a terminal may send them to all of a group.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

from proxy.ops.build import this_build
from proxy.ops.intercom import Intercom, Question
from proxy.ops.log import Log
from proxy.ops.merging import Family
from proxy.ops.plane import DataPlane
from proxy.reports import Report
from proxy.settings import Settings


def main(number: int, descriptor: int) -> int:
    """Serve until the sidecar says so, or is gone. Returns the exit code."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=this_build().loop_factory) as runner:
        return runner.run(_run(number, socket.socket(fileno=descriptor)))


async def _run(number: int, end: socket.socket) -> int:
    intercom = await Intercom.over(end)
    try:
        settings = await intercom.hear(Settings)
    except EOFError:  # the sidecar has ended in the meantime
        return 0
    log = Log(settings.log, worker=number)
    log.adopt_libraries()
    try:
        await _serve(DataPlane(settings, log, lambda: log.writer.dropped, number), intercom)
    except Exception as bug:
        log(Report("internal_error", {"stack": bug}))
        return 1
    finally:
        intercom.close()
        log.close()
    return 0


async def _serve(plane: DataPlane, intercom: Intercom) -> None:
    try:
        await plane.start()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(plane.run(), name="plane")
            await _answer(plane, intercom)
            running.cancel()
    finally:
        cut = await plane.close()
    intercom.say(cut)


async def _answer(plane: DataPlane, intercom: Intercom) -> None:
    """Answer questions until one of them is to close, or nobody is left to ask."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            question = await intercom.hear(Question)
        except EOFError:
            return
        if question.about == "close":
            return
        if question.snapshot is not None:
            plane.apply(question.snapshot, loop.time())
        else:
            intercom.say(await _answer_to(question, plane, loop.time()))


async def _answer_to(question: Question, plane: DataPlane, now: float) -> object:
    match question.about:
        case "condition":
            return await plane.condition(now)
        case "loads":
            return await plane.loads(now)
        case "metrics":
            return [Family.of(metric) for metric in await plane.metrics(now)]
        case "sessions":
            return await plane.sessions(question.offset, question.limit, now)
    return await plane.headcount()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
