"""Celery: a producer that sends tasks with confirms, and a worker that acknowledges each task when it is done.

The worker keeps its own connections, with an exclusive mailbox and events, as in production; it reconnects by itself,
so its disconnects are counted by what it logs.
"""

from __future__ import annotations

import logging
import os

from amqp.exceptions import AMQPError, MessageNacked
from celery import Celery, Task
from kombu import Exchange, Producer, Queue
from kombu.exceptions import KombuError

from benchmarks.drill.clients.application import CONNECT_TIMEOUT_S, HEARTBEAT_S, Application

CONFIRM_TIMEOUT_S = 60.0
TASK = "drill.record"


def _celery(application: Application, brokers: list[tuple[str, int]]) -> Celery:
    app = Celery("drill", broker=";".join(f"amqp://guest:guest@{host}:{port}//" for host, port in brokers))
    queue_arguments = {"x-queue-type": application.queue_type}
    app.conf.update(
        task_queues=[Queue(application.queue, Exchange(""), application.queue, queue_arguments=queue_arguments)],
        task_default_queue=application.queue,
        task_default_delivery_mode="persistent",
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=application.prefetch,
        worker_hijack_root_logger=False,
        broker_heartbeat=HEARTBEAT_S,
        broker_connection_timeout=CONNECT_TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "confirm_publish": True,
            "confirm_timeout": CONFIRM_TIMEOUT_S,
            "client_properties": {"connection_name": application.name},
        },
    )
    return app


def publish(application: Application) -> None:
    for broker in application.attempts():
        app = _celery(application, [broker])
        try:
            with app.connection_for_write() as connection:
                connection.connect()
                application.tell("connected", 0, f"{broker[0]}:{broker[1]}")
                _publish_until_stopped(application, app, app.amqp.Producer(connection))
        except ConnectionRefusedError as error:
            application.tell("refused", 0, repr(error)[:200])
        except (AMQPError, KombuError, OSError) as error:
            application.tell_lost(error)


def _publish_until_stopped(application: Application, app: Celery, producer: Producer) -> None:
    while not application.stopping:
        application.wait_turn()
        number = next(application.numbers)
        application.tell("published", number)
        try:
            app.send_task(TASK, [application.run, number], queue=application.queue, producer=producer, retry=False)
            application.tell("confirmed", number)
        except MessageNacked:
            application.tell("nacked", number)


class _Losses(logging.Handler):
    """What the worker says when its connection is gone, and when it can't have another one."""

    def __init__(self, application: Application) -> None:
        super().__init__(logging.WARNING)
        self._application = application

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "onnection to broker lost" in text:
            error = record.exc_info[1] if record.exc_info else None
            self._application.tell_lost(error or ConnectionResetError(text[:200]))
        elif "annot connect" in text:
            self._application.tell("refused", 0, text[:200])


def consume(application: Application) -> None:
    # Celery greets on standard output, which is where the drill reads.
    application.output = os.dup(1)
    os.dup2(2, 1)
    app = _celery(application, application.brokers)

    @app.task(name=TASK, bind=True)
    def record(task: Task, run: str, number: int) -> None:
        redelivered = task.request.delivery_info.get("redelivered")
        application.tell_delivered(f"{run} {number}".encode(), redelivered)

    logging.getLogger("celery.worker.consumer.consumer").addHandler(_Losses(application))
    application.tell("connected", 0, "worker")
    app.worker_main(["worker", "--pool=solo", "--loglevel=INFO", f"--hostname={application.name}@drill"])
