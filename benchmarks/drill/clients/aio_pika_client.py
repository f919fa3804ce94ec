"""aio-pika by its plain `connect`: its robust connection would hide the very disconnects the drill counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, DeliveryError

from benchmarks.drill.clients.application import CONNECT_TIMEOUT_S, HEARTBEAT_S, UNCONFIRMED_MAX, Application

TICK_S = 0.01
# What the library raises when a connection or channel is gone; RuntimeError is its "channel is closed".
_GONE = (AMQPError, OSError, TimeoutError, RuntimeError)


class _Loss:
    """A channel and its connection often end together, and every open call with them: the client sees that once."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.seen = False
        self.expected = False

    def __call__(self, _: object, error: BaseException | None = None) -> None:
        if not self.seen and not self.expected:
            self.seen = True
            self._application.tell_lost(error or ConnectionResetError("closed"))


Work = Callable[[Application, AbstractChannel, _Loss], Awaitable[None]]


def publish(application: Application) -> None:
    asyncio.run(_serve(application, _publish_until_stopped))


def consume(application: Application) -> None:
    asyncio.run(_serve(application, _consume_until_stopped))


async def _serve(application: Application, work: Work) -> None:
    for host, port in application.attempts():
        url = f"amqp://guest:guest@{host}:{port}/?heartbeat={HEARTBEAT_S}&name={application.name}"
        try:
            connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
        except _GONE as error:
            application.tell("refused", 0, repr(error)[:200])
            continue
        application.tell("connected", 0, f"{host}:{port}")
        await _work_until_lost(application, connection, work)


async def _work_until_lost(application: Application, connection: AbstractConnection, work: Work) -> None:
    loss = _Loss(application)
    try:
        connection.close_callbacks.add(loss)
        channel = await connection.channel(publisher_confirms=True)
        channel.close_callbacks.add(loss)
        await work(application, channel, loss)
        loss.expected = True
        await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT_S)
    except _GONE as error:
        loss(connection, error)


async def _publish_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    unconfirmed: set[asyncio.Task[None]] = set()

    async def publish_one(number: int) -> None:
        message = aio_pika.Message(application.body(number), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        application.tell("published", number)
        try:
            await channel.default_exchange.publish(message, application.queue)
            application.tell("confirmed", number)
        except DeliveryError:
            application.tell("nacked", number)
        except (*_GONE, asyncio.CancelledError) as error:
            loss(channel, error)

    while not loss.seen and not application.may_end(len(unconfirmed)):
        if not application.stopping:
            for _ in range(min(round(application.rate * TICK_S), UNCONFIRMED_MAX - len(unconfirmed))):
                task = asyncio.create_task(publish_one(next(application.numbers)))
                unconfirmed.add(task)
                task.add_done_callback(unconfirmed.discard)
        await asyncio.sleep(TICK_S)
    loss.expected = True
    for task in unconfirmed:
        task.cancel()


async def _consume_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    async def on_message(message: AbstractIncomingMessage) -> None:
        application.tell("delivered", application.number_of(message.body), bool(message.redelivered))
        try:
            await message.ack()
        except _GONE as error:
            loss(channel, error)

    await channel.set_qos(prefetch_count=application.prefetch)
    queue = await channel.get_queue(application.queue, ensure=False)
    tag = await queue.consume(on_message)
    while not loss.seen and not application.may_end(0):  # noqa: ASYNC110 - a flag set by a signal
        await asyncio.sleep(TICK_S)
    if not loss.seen:
        await queue.cancel(tag)
