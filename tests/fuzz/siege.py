"""A real Sidehop under siege: liars on both sides of its sockets, and one honest session that must not notice."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

from proxy.amqp import methods as m
from tests.fuzz.bends import Bender
from tests.fuzz.broker import Broker
from tests.fuzz.client import Client
from tests.fuzz.stream import Reader
from tests.support.engine_frames import on, publish
from tests.support.ports import free_port
from tests.support.scripted import RawClient, ScriptedBroker
from tests.support.sidehop import Sidehop

LIARS_AT_ONCE = 8
STEPS = 120
RETAINED_BYTES_MAX = 32 * 1024 * 1024
# An idle process takes some 55 MiB; docs/OPERATING.md has the formula.
RSS_BYTES_MAX = 128 * 1024 * 1024 + 2 * RETAINED_BYTES_MAX
# The longest end of a session whose client is gone: a search in vain, then the closes.
END_S = 60.0
ENVIRONMENT = {
    "SIDEHOP_LISTEN__RETAINED_BYTES_MAX": str(RETAINED_BYTES_MAX),
    "SIDEHOP_SESSION__PARKED_BYTES_MAX": "65536",
    "SIDEHOP_SESSION__UNSETTLED_BYTES_MAX": "300000",
    "SIDEHOP_SESSION__PUBLISH_BYTES_MAX": "400000",
    "SIDEHOP_SESSION__HANDSHAKE_TIMEOUT_S": "2",
    "SIDEHOP_SESSION__FAILOVER_TIMEOUT_S": "5",
    "SIDEHOP_SESSION__CLOSE_FLUSH_TIMEOUT_S": "2",
    "SIDEHOP_SESSION__HEARTBEAT_S": "2",
    # Liars are to be used, not left out.
    "SIDEHOP_HEALTH__FALL": "1000000",
    "SIDEHOP_HEALTH__EJECT_MAX_PERCENT": "0",
    "SIDEHOP_BALANCE__POLICY": "round_robin",
    "SIDEHOP_LOG__LEVEL": "warning",
}


class Stream(Reader):
    """What comes through a socket is cut anywhere."""

    def at_rest(self) -> None:
        """Nothing follows from a cut."""


class Siege:
    """`sessions` and `bytes_said` count what was tried; `failures` tell what went wrong, with the seed of the liar."""

    def __init__(self, folder: Path, *, start: int = 0) -> None:
        self._folder = folder
        self._next = start
        self._brokers = 0
        self.sessions = 0
        self.bytes_said = 0
        self.confirmed = 0
        self.slowest_s = 0.0
        self.rss_bytes_max = 0
        self.failures: list[str] = []

    async def lay(self, seconds: float, sessions: int = 10**9) -> None:
        """Attack for so long, or with so many sessions."""
        async with AsyncExitStack() as stack:
            honest = await ScriptedBroker("honest").start()
            stack.push_async_callback(honest.stop)
            ports = [honest.port, free_port(), free_port()]
            nodes = [part for port in ports for part in ("--node", f"127.0.0.1:{port}")]
            proxy = Sidehop(self._folder, free_port(), free_port(), *nodes, env=ENVIRONMENT)
            stack.callback(proxy.kill)
            await asyncio.to_thread(proxy.start)
            # Nobody else listens yet, so that the honest session is at the honest broker.
            good = await RawClient.running(proxy.port)
            for port in ports[1:]:
                server = await asyncio.start_server(self._lie_as_broker, "127.0.0.1", port)
                stack.callback(server.close)
            over = asyncio.Event()
            watch = asyncio.gather(self._work(good, over), self._watch(proxy, over))
            until = time.monotonic() + seconds
            liars = [self._lie_as_clients(proxy.port, until, sessions) for _ in range(LIARS_AT_ONCE)]
            await asyncio.gather(*liars)
            await self._until_alone(proxy)
            over.set()
            await watch
            await good.leave()
            await asyncio.to_thread(proxy.stop)

    async def _until_alone(self, proxy: Sidehop) -> None:
        until = time.monotonic() + END_S
        while len(left := await asyncio.to_thread(proxy.sessions)) > 1:
            if time.monotonic() > until:
                raise AssertionError(f"sessions of liars do not end: {left[1:]}")
            await asyncio.sleep(0.2)

    # The honest session, and who watches.

    async def _work(self, good: RawClient, over: asyncio.Event) -> None:
        await good.open_channel()
        good.say(on(1, m.ConfirmSelect(False)))
        await good.method(m.ConfirmSelectOk)
        while not over.is_set():
            began = time.monotonic()
            good.say(publish(1, b"honest"))
            told = await good.method(m.BasicAck)
            self.confirmed += 1
            if told.delivery_tag != self.confirmed:
                raise AssertionError(f"the honest client published {self.confirmed}, and hears of {told.delivery_tag}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            await asyncio.sleep(0.02)

    async def _watch(self, proxy: Sidehop, over: asyncio.Event) -> None:
        while not over.is_set():
            pages = int(Path(f"/proc/{proxy.pid}/statm").read_text().split()[1])  # noqa: ASYNC240 - it is memory
            self.rss_bytes_max = max(self.rss_bytes_max, pages * 4096)
            if self.rss_bytes_max > RSS_BYTES_MAX:
                raise AssertionError(
                    f"it takes {self.rss_bytes_max} bytes of memory, {RSS_BYTES_MAX} were to be enough"
                )
            await asyncio.sleep(0.2)

    # The liars.

    async def _lie_as_clients(self, port: int, until: float, sessions: int) -> None:
        while time.monotonic() < until and self.sessions < sessions:
            self.sessions += 1
            seed, self._next = self._next, self._next + 1
            rng = random.Random(f"{seed} siege")
            client = Client(rng, strict=False, trusting=False)
            client.reader = Stream("client")
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            await self._lie(rng, client, reader, writer, f"client of seed {seed}")

    async def _lie_as_broker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._brokers += 1
        rng = random.Random(f"{self._brokers} broker of a siege")
        broker = Broker(rng, honest=False, client_honest=False)
        broker.reader = Stream("broker")
        await self._lie(rng, broker, reader, writer, f"broker {self._brokers} of seeds up to {self._next}")

    async def _lie(
        self,
        rng: random.Random,
        liar: Client | Broker,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        who: str,
    ) -> None:
        bender = Bender(rng)
        onset, malice = rng.choice((0, 3, 8, 20, 50, 90)), rng.choice((0.02, 0.1, 0.3, 0.7))
        listening = asyncio.create_task(self._listen(rng, liar, reader, writer, who))
        try:
            for step in range(STEPS):
                frames = liar.speak()
                bent = step >= onset and rng.random() < malice
                await self._say(rng, writer, bender.bend(frames) if bent else b"".join(frames))
                await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)) if rng.random() < 0.99 else 1.0)
                if listening.done():
                    break
        except (OSError, TimeoutError):
            pass
        except Exception:
            self.failures.append(f"{who}\n{traceback.format_exc()}")
        finally:
            if rng.random() < 0.5:
                writer.close()
            else:
                writer.transport.abort()
            listening.cancel()

    async def _listen(
        self,
        rng: random.Random,
        liar: Client | Broker,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        who: str,
    ) -> None:
        try:
            while data := await reader.read(65536):
                answer = liar.hear(data)
                if answer:
                    await self._say(rng, writer, b"".join(answer))
                if rng.random() < 0.005:
                    await asyncio.sleep(1.0)  # it does not read
        except (OSError, TimeoutError):
            pass
        except Exception:
            self.failures.append(f"{who}\n{traceback.format_exc()}")

    async def _say(self, rng: random.Random, writer: asyncio.StreamWriter, said: bytes) -> None:
        """Cut as a network may cut it. One that is not read for long goes away."""
        self.bytes_said += len(said)
        cuts = {0, len(said), *(rng.randrange(len(said)) for _ in range(rng.choice((0, 0, 1, 3))) if said)}
        for at, stop in pairwise(sorted(cuts)):
            writer.write(said[at:stop])
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        async with asyncio.timeout(3):
            await writer.drain()


def failures_of(folder: Path, seconds: float, *, start: int = 0, sessions: int = 10**9) -> tuple[Siege, list[str]]:
    """One siege; what went wrong, and how to try it again. Sockets have a timing of their own: it may need a few."""
    siege = Siege(folder, start=start)
    try:
        asyncio.run(siege.lay(seconds, sessions))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        siege.failures.append(traceback.format_exc())
    return siege, siege.failures
