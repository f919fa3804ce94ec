"""Applications at work on ordinary client libraries, and an account of what they were promised.

Each has one connection with a channel for each habit: publishing with confirms, publishing without, consuming with
prefetch and late acks, an exclusive server-named queue bound to an exchange, and requests that wait for an answer.
None of them reconnects: whatever its library raises ends it, and `finish` raises that.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter

import aio_pika

from tests.support.clients import PATIENCE_S, AioPikaClient, AmqpClient, Client, PikaClient

PREFETCH = 20
# This many deliveries are always unsettled, so that any moment is one with stale tags.
HELD = 10
WINDOW = 100
PAUSE_S = 0.01
END_PATIENCE_S = 90.0


class Application(ABC):
    """Publishes the numbers 1, 2, 3, ... and receives them. Other threads may read everything at any time."""

    def __init__(self, port: int, name: str, *, movable: bool = False) -> None:
        """`movable`: it holds on to nothing: no exclusive queue, no delivery that it has dealt with."""
        self.port = port
        self.movable = movable
        self.held_max = 0 if movable else HELD
        self.confirmed_queue, self.plain_queue = f"{name}.confirmed", f"{name}.plain"
        self.private_queue = ""
        self.consumer_tag = f"{name}.consumer"
        self.published = self.plain = self.requests = 0
        self.confirmed: set[int] = set()
        self.received: list[tuple[int, int, bool]] = []  # number, tag, redelivered
        self.private: list[int] = []
        self.stopping = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    def start(self) -> None:
        """Returns when it works."""
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        self.require_alive()

    def require_alive(self) -> None:
        if self._error is not None:
            raise AssertionError(f"the application {self.consumer_tag} saw {self._error!r}") from self._error

    def progress(self) -> tuple[int, int, int, int, int]:
        return len(self.confirmed), self.plain, self.requests, len(self.received), len(self.private)

    def wait_progress(self, steps: int, patience_s: float = 60.0) -> None:
        """Until every one of its habits has come this much further than now."""
        goal = [now + steps for now in self.progress()]
        until = time.monotonic() + patience_s
        while any(now < wanted for now, wanted in zip(self.progress(), goal, strict=True)):
            self.require_alive()
            assert time.monotonic() < until, f"{self.consumer_tag} stands at {self.progress()}, wanted {goal}"
            time.sleep(0.02)

    def finish(self) -> None:
        """Stop publishing, receive what is still to come, close politely."""
        self.stopping.set()
        self._thread.join(END_PATIENCE_S)
        self.require_alive()
        missing = self.confirmed - {number for number, _, _ in self.received}
        assert not self._thread.is_alive(), f"{self.consumer_tag} does not end; missing: {sorted(missing)}"

    def require_kept_promises(self) -> None:
        """After `finish`: nothing confirmed is lost, and tags always grow."""
        assert self.confirmed == set(range(1, self.published + 1))
        assert self.confirmed == {number for number, _, _ in self.received}
        tags = [tag for _, tag, _ in self.received]
        assert tags == sorted(set(tags))

    @property
    def unflagged_duplicates(self) -> int:
        """Messages received again that do not say so; each must be a publish that was sent again."""
        return sum(count - 1 for count in Counter(number for number, _, again in self.received if not again).values())

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def _all_received(self) -> bool:
        return self.confirmed <= {number for number, _, _ in self.received}

    @abstractmethod
    def _work(self) -> None: ...


class BlockingApplication(Application):
    """One thread does one thing after the other, as scripts with pika or py-amqp do."""

    client_type: type[Client]

    def _work(self) -> None:
        client = self.client_type(self.port, heartbeat_s=10, connection_name=self.consumer_tag)
        self._confirms, self._plain, self._asking = client.channel(confirms=True), client.channel(), client.channel()
        self._consuming, self._own = client.channel(), client.channel()
        for queue in (self.confirmed_queue, self.plain_queue):
            self._asking.declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        if self.movable:
            self.private_queue = self._own.declare(f"{self.consumer_tag}.private", durable=True)
        else:
            self.private_queue = self._own.declare("", exclusive=True)
        self._own.bind(self.private_queue, "amq.topic", self.consumer_tag)
        self._own.consume(self.private_queue, no_ack=True)
        self._consuming.qos(PREFETCH)
        self._consuming.consume(self.confirmed_queue, tag=self.consumer_tag)
        self._acked = 0
        self._ready.set()
        while not self.stopping.is_set():
            self._step()
            client.serve(PAUSE_S)
            self._take(self.held_max)
        until = time.monotonic() + END_PATIENCE_S
        while not self._all_received() and time.monotonic() < until:
            client.serve()
            self._take(0)
        self._take(0)
        client.close()

    def _step(self) -> None:
        self.published += 1
        body = str(self.published).encode()
        self._confirms.publish(body, self.confirmed_queue)
        self.confirmed.add(self.published)
        self._plain.publish(body, self.plain_queue)
        self.plain += 1
        self._confirms.publish(body, self.consumer_tag, exchange="amq.topic")
        self._asking.count(self.confirmed_queue)
        self.requests += 1

    def _take(self, held: int) -> None:
        """Note what has come and acknowledge all but the last ones: two singly, then several at once."""
        taken = self._consuming.received
        for message in taken[len(self.received) :]:
            assert message.consumer == self.consumer_tag
            self.received.append((int(message.body), message.tag, message.redelivered))
        self.private += [int(message.body) for message in self._own.received[len(self.private) :]]
        while self._acked < len(taken) - held:
            several = self._acked % 3 == 2
            self._acked = len(taken) - held if several else self._acked + 1
            self._consuming.ack(taken[self._acked - 1].tag, multiple=several)


class PikaApplication(BlockingApplication):
    client_type = PikaClient


class AmqpApplication(BlockingApplication):
    client_type = AmqpClient


class AioPikaApplication(Application):
    """Everything at the same time, with many publishes under way."""

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        url = f"amqp://guest:guest@127.0.0.1:{self.port}/?heartbeat=10&name={self.consumer_tag}"
        connection = await aio_pika.connect(url)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def note(_: object, error: BaseException | None = None) -> None:
            if not lost.done():
                lost.set_exception(error or ConnectionError("closed"))

        connection.close_callbacks.add(note)
        confirms, plain, asking, consuming, own = [
            await connection.channel(publisher_confirms=number == 0) for number in range(5)
        ]
        for channel in (confirms, plain, asking, consuming, own):
            channel.close_callbacks.add(note)
        arguments = {"x-queue-type": "quorum"}
        queue = await consuming.declare_queue(self.confirmed_queue, durable=True, arguments=arguments)
        await asking.declare_queue(self.plain_queue, durable=True, arguments=arguments)
        if self.movable:
            private = await own.declare_queue(f"{self.consumer_tag}.private", durable=True)
        else:
            private = await own.declare_queue("", exclusive=True)
        self.private_queue = private.name
        await private.bind("amq.topic", self.consumer_tag)
        await private.consume(self._take_private, no_ack=True)
        await consuming.set_qos(PREFETCH)
        await queue.consume(self._take, consumer_tag=self.consumer_tag)
        self._held: list[aio_pika.abc.AbstractIncomingMessage] = []
        self._ready.set()
        working = asyncio.gather(self._publish(confirms), self._publish_plain(plain), self._ask(asking))
        await asyncio.wait([working, lost], return_when=asyncio.FIRST_COMPLETED)
        if lost.done():
            working.cancel()
            await lost
        await working
        await self._drain()
        connection.close_callbacks.discard(note)
        for channel in (confirms, plain, asking, consuming, own):
            channel.close_callbacks.discard(note)
        await connection.close()
        lost.cancel()

    async def _publish(self, channel: aio_pika.abc.AbstractChannel) -> None:
        topic = await channel.get_exchange("amq.topic", ensure=False)
        room = asyncio.Semaphore(WINDOW)

        async def publish(number: int) -> None:
            message = aio_pika.Message(str(number).encode(), delivery_mode=2)
            await channel.default_exchange.publish(message, self.confirmed_queue, mandatory=False)
            self.confirmed.add(number)
            await topic.publish(message, self.consumer_tag, mandatory=False)
            room.release()

        async with asyncio.TaskGroup() as group:
            while not self.stopping.is_set():
                await room.acquire()
                self.published += 1
                group.create_task(publish(self.published))
                await asyncio.sleep(PAUSE_S)

    async def _publish_plain(self, channel: aio_pika.abc.AbstractChannel) -> None:
        while not self.stopping.is_set():
            message = aio_pika.Message(str(self.plain + 1).encode(), delivery_mode=2)
            await channel.default_exchange.publish(message, self.plain_queue, mandatory=False)
            self.plain += 1
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, channel: aio_pika.abc.AbstractChannel) -> None:
        while not self.stopping.is_set():
            await channel.declare_queue(self.plain_queue, passive=True)
            self.requests += 1
            await asyncio.sleep(PAUSE_S)

    async def _take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        assert message.consumer_tag == self.consumer_tag
        self.received.append((int(message.body), message.delivery_tag, bool(message.redelivered)))
        self._held.append(message)
        if len(self._held) > self.held_max and not self.stopping.is_set():
            await self._held.pop(0).ack()

    async def _take_private(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        self.private.append(int(message.body))

    async def _drain(self) -> None:
        until = time.monotonic() + END_PATIENCE_S
        while not self._all_received() and time.monotonic() < until:
            await self._ack_held()
            await asyncio.sleep(0.02)
        await self._ack_held()

    async def _ack_held(self) -> None:
        if self._held:
            held, self._held = self._held, []
            await held[-1].ack(multiple=True)


APPLICATIONS: dict[str, type[Application]] = {
    PikaClient.name: PikaApplication,
    AmqpClient.name: AmqpApplication,
    AioPikaClient.name: AioPikaApplication,
}


def at_work(port: int, name: str, steps: int, *, movable: bool = False) -> list[Application]:
    """One of each library, which have all come `steps` further in each of their habits."""
    started = [kind(port, f"{name}.{library}", movable=movable) for library, kind in APPLICATIONS.items()]
    for application in started:
        application.start()
    for application in started:
        application.wait_progress(steps)
    return started
