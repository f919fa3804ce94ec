"""aio-pika by its plain `connect`: its robust connection would hide the very disconnects the drill counts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, DeliveryError

from benchmarks.drill.clients.application import (
    CONNECT_TIMEOUT_S,
    HEARTBEAT_S,
    REPLY_TIMEOUT_S,
    UNCONFIRMED_MAX,
    Application,
)

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


def publish_plain(application: Application) -> None:
    asyncio.run(_serve(application, _publish_plain_until_stopped, confirms=False))


def consume(application: Application) -> None:
    asyncio.run(_serve(application, _consume_until_stopped))


def ask(application: Application) -> None:
    asyncio.run(_serve(application, _ask_until_stopped, confirms=False))


def answer(application: Application) -> None:
    asyncio.run(_serve(application, _answer_until_stopped, confirms=False))


async def _serve(application: Application, work: Work, *, confirms: bool = True) -> None:
    for host, port in application.attempts():
        url = f"amqp://guest:guest@{host}:{port}/?heartbeat={HEARTBEAT_S}&name={application.name}"
        try:
            connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
        except _GONE as error:
            application.tell("refused", 0, repr(error)[:200])
            continue
        application.tell("connected", 0, f"{host}:{port}")
        await _work_until_lost(application, connection, work, confirms=confirms)


async def _work_until_lost(
    application: Application, connection: AbstractConnection, work: Work, *, confirms: bool
) -> None:
    loss = _Loss(application)
    try:
        connection.close_callbacks.add(loss)
        channel = await connection.channel(publisher_confirms=confirms)
        channel.close_callbacks.add(loss)
        await work(application, channel, loss)
        loss.expected = True
        await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT_S)
    except _GONE as error:
        loss(connection, error)


async def _publish_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    unconfirmed: set[asyncio.Task[None]] = set()

    async def publish_one(number: int) -> None:
        application.tell("published", number)
        try:
            await channel.default_exchange.publish(_message(application, number), application.queue)
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


def _message(application: Application, number: int, reply_to: str | None = None) -> aio_pika.Message:
    return aio_pika.Message(
        application.body(number),
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        reply_to=reply_to,
        correlation_id=str(number),
    )


async def _publish_plain_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    while not loss.seen and not application.stopping:
        await asyncio.sleep(application.pause_s())
        number = next(application.numbers)
        application.tell("published", number)
        await channel.default_exchange.publish(_message(application, number), application.queue)


async def _consume_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    async def on_message(message: AbstractIncomingMessage) -> None:
        application.tell_delivered(message.body, message.redelivered, message.headers)
        try:
            await message.ack()
        except _GONE as error:
            loss(channel, error)

    await _receive_until_stopped(application, channel, loss, on_message)


async def _answer_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    async def on_request(message: AbstractIncomingMessage) -> None:
        application.tell_delivered(message.body, message.redelivered)
        try:
            reply = aio_pika.Message(message.body, correlation_id=message.correlation_id)
            await channel.default_exchange.publish(reply, message.reply_to or "")
            await message.ack()
        except _GONE as error:
            loss(channel, error)

    await _receive_until_stopped(application, channel, loss, on_request)


async def _receive_until_stopped(
    application: Application,
    channel: AbstractChannel,
    loss: _Loss,
    on_message: Callable[[AbstractIncomingMessage], Awaitable[None]],
) -> None:
    await channel.set_qos(prefetch_count=application.prefetch)
    queue = await channel.get_queue(application.queue, ensure=False)
    tag = await queue.consume(on_message, arguments=application.consumer_arguments())
    while not loss.seen and not application.may_end(0):  # noqa: ASYNC110 - a flag set by a signal
        await asyncio.sleep(TICK_S)
    if not loss.seen:
        await queue.cancel(tag)


async def _ask_until_stopped(application: Application, channel: AbstractChannel, loss: _Loss) -> None:
    answers: dict[str, asyncio.Event] = {}

    async def on_reply(message: AbstractIncomingMessage) -> None:
        if answer := answers.get(message.correlation_id or ""):
            answer.set()

    mailbox = await channel.declare_queue(exclusive=True)
    await mailbox.consume(on_reply, no_ack=True)
    while not loss.seen and not application.stopping:
        await asyncio.sleep(application.pause_s())
        number = next(application.numbers)
        answers = {str(number): asyncio.Event()}
        application.tell("published", number)
        request = _message(application, number, mailbox.name)
        await channel.default_exchange.publish(request, application.queue)
        while not await _came(answers[str(number)], loss):
            if loss.seen or application.may_end(1):
                return
            application.tell("unanswered", number)
            await channel.default_exchange.publish(request, application.queue)
        application.tell("confirmed", number)


async def _came(answer: asyncio.Event, loss: _Loss) -> bool:
    """Wait for the answer; False when it is overdue, or the connection is gone and it can't come."""
    until_s = time.monotonic() + REPLY_TIMEOUT_S
    while not answer.is_set() and not loss.seen and time.monotonic() < until_s:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(answer.wait(), 0.1)
    return answer.is_set()
