"""Probes of a real broker: what they see, and how quiet they are."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from random import Random

import pytest

from proxy.upstream.balance import BalancePolicy, load_balancer
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy
from proxy.upstream.probe import Prober

pytestmark = pytest.mark.integration

LOGIN = {"user": "guest", "password": "guest"}
QUICK = {"timeout_s": 2.0, "interval_s": 0.2, "down_interval_s": 0.1, "down_interval_max_s": 0.5}


class Watch:
    """A pool of the cluster's brokers and its prober."""

    def __init__(self, cluster, policy) -> None:
        rng = Random(1)
        self.now = asyncio.get_running_loop().time
        self.changed = asyncio.Event()
        self.downs = []
        self.pool = Pool(
            PoolPolicy(), policy, load_balancer("p2c", BalancePolicy(), rng), rng, lambda report: self.changed.set()
        )
        self.pool.on_down(lambda name, cause: self.downs.append((name, cause)))
        # Every result of a probe moves the time of the next one.
        self.pool.on_due(self.changed.set)
        self.prober = Prober(self.pool, policy, ssl.create_default_context, lambda report: self.changed.set())
        endpoints = [Endpoint(name, "127.0.0.1", cluster.amqp_port(n)) for n, name in enumerate(cluster.names, 1)]
        self.pool.apply(Snapshot(tuple(endpoints)), self.now())

    def saw(self, name, outcome):
        self.pool.observe(name, outcome, self.now())

    def view(self, name):
        return next(view for view in self.pool.views(self.now()) if view.name == name)

    async def until(self, fact):
        async with asyncio.timeout(60):
            while not fact():
                self.changed.clear()
                await self.changed.wait()

    async def until_state(self, name, state):
        await self.until(lambda: self.view(name).state == state)

    async def rounds(self, name, count):
        """Wait for this many more probes to pass."""
        wanted = self.view(name).probes_ok + count
        await self.until(lambda: self.view(name).probes_ok >= wanted)


@contextlib.asynccontextmanager
async def watching(cluster, **policy):
    watch = Watch(cluster, HealthPolicy(**{**QUICK, **policy}))
    task = asyncio.create_task(watch.prober.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("login", [LOGIN, {}], ids=["login", "no-login"])
async def test_a_hung_broker_stays_down_though_it_accepts_connections(cluster, login):
    async with watching(cluster, **login) as watch:
        await asyncio.to_thread(cluster.pause, 1)
        try:
            watch.saw("mq1", "heartbeat_missed")
            before = watch.view("mq1").probes_ok
            await watch.until(lambda: watch.downs)
            assert watch.view("mq1").probes_ok > before, "bare connections did pass"
            assert watch.view("mq1").state == "down"
        finally:
            await asyncio.to_thread(cluster.resume, 1)
        await watch.until_state("mq1", "up" if login else "suspect")
        assert [name for name, _ in watch.downs] == ["mq1"]


async def test_a_killed_broker_is_down_with_the_first_refused_probe_and_up_when_it_is_back(cluster):
    async with watching(cluster, **LOGIN, interval_s=60.0) as watch:
        await watch.rounds("mq2", 1)
        await asyncio.to_thread(cluster.kill9, 2)
        watch.saw("mq2", "lost")
        await watch.until_state("mq2", "down")
        assert watch.view("mq2").probes_failed == 1
        await asyncio.to_thread(cluster.start, 2)
        await watch.until_state("mq2", "up")
        assert watch.view("mq2").cause == "a handshake probe passed"


async def test_a_handshake_probe_leaves_no_warning_and_bare_connections_not_even_a_line(cluster):
    before = len(cluster.log(3))
    async with watching(cluster, **LOGIN) as watch:
        await watch.rounds("mq3", 20)
        watch.saw("mq3", "forced_close")
        await watch.until_state("mq3", "up")
    lines = await asyncio.to_thread(lines_once_closed, cluster, 3, before)
    # The fixture looks whether the broker is up: those connections are in the log as well, and end with a warning.
    assert sum("accepting AMQP connection" in line for line in lines) < 20
    (probe,) = {re.search(r"<[\d.]+>", line)[0] for line in lines if "client-provided name: sidehop" in line}
    assert not [line for line in lines if probe in line and "[info]" not in line]


def lines_once_closed(cluster, n, since):
    """What the broker logged about AMQP connections, once it logged the end of the probe. It writes its log late."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = [line for line in cluster.log(n)[since:].splitlines() if f":{cluster.amqp_port(n)}" in line]
        if any("closing AMQP connection" in line and "sidehop health probe" in line for line in lines):
            return lines
        time.sleep(0.1)
    raise AssertionError("the broker logged no probe that ended")


async def test_the_management_api_is_believed_when_it_says_503_and_only_then(cluster):
    async def state_after_a_while(n, path):
        policy = {"http_port": cluster.http_port(n), "http_path": path}
        async with watching(cluster, **LOGIN, **policy) as watch:
            # Every endpoint is on this host, so all are asked the port of node n.
            rounds = asyncio.create_task(watch.rounds("mq1", 5))
            down = asyncio.create_task(watch.until_state("mq1", "down"))
            done, waiting = await asyncio.wait((rounds, down), return_when=asyncio.FIRST_COMPLETED)
            for task in (*done, *waiting):
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return watch.view("mq1").state

    assert await state_after_a_while(1, "/api/health/checks/port-listener/{port}") == "up"
    assert await state_after_a_while(1, "/api/health/checks/port-listener/1") == "down"
    assert await state_after_a_while(1, "/api/health/checks/no-such-check") == "up"
