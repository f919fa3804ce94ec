"""A gateway that answers what a sound etcd would not: proxies, error pages, floods."""

import asyncio
import base64
import contextlib
import itertools
import random

import pytest
from aiohttp import web

from proxy.upstream.discovery.etcd import EtcdDiscovery
from proxy.upstream.discovery.etcd_http import GatewayRegistry
from proxy.upstream.discovery.registry import EtcdPolicy, RegistryError, prefix_end
from tests.support.ports import free_port


@contextlib.asynccontextmanager
async def gateway(routes):
    """Serve handlers by path on loopback."""
    app = web.Application()
    app.add_routes([web.post(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def says(text, status=200):
    async def handler(request):
        return web.Response(text=text, status=status)

    return handler


async def flood(request):
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 1024 * 1024)
    return response


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (says("<html>a proxy's page</html>"), "not etcd's"),
        (says("[]"), "not etcd's"),
        (says('{"header": {"revision": "many"}}'), "not etcd's"),
        (says("<html>bad gateway</html>", 502), "HTTP 502 <html>bad gateway"),
        (says('{"message": "etcdserver: no leader"}', 503), "HTTP 503 etcdserver: no leader"),
        (says("", 307), "HTTP 307"),
        (says("404 page not found", 404), "enable-grpc-gateway"),
        (flood, "is etcd.prefix right"),
    ],
)
async def test_answers_that_are_not_etcds(handler, reason):
    async with gateway({"/v3/kv/range": handler}) as url:
        registry = GatewayRegistry(EtcdPolicy(endpoints=(url,)), 0)
        try:
            with pytest.raises(RegistryError, match=reason) as failed:
                await registry.read()
            assert url in str(failed.value) or handler is flood
        finally:
            await registry.close()


@pytest.mark.parametrize(
    ("lines", "reason", "auth"),
    [
        ('{"result":{"created":true,"canceled":true,"cancel_reason":"etcdserver: permission denied"}}', "denied", True),
        ('{"result":{"created":true}}\n{"result":{"canceled":true,"compact_revision":"7"}}', "revision 7", False),
        ('{"result":{"created":true}}\n{"result":{"canceled":true}}', "canceled by etcd", False),
        ('{"result":{"created":true}}\n{"error":{"message":"etcdserver: no leader"}}', "no leader", False),
        ('{"result":{"created":true}}\nnonsense', "the watch ended|not etcd's", False),
        ('{"result":{"created":true}}', "etcd closed it", False),
    ],
)
async def test_a_watch_that_is_over_says_why(lines, reason, auth):
    async with gateway({"/v3/watch": says(lines + "\n")}) as url:
        registry = GatewayRegistry(EtcdPolicy(endpoints=(url,)), 0)
        try:
            with pytest.raises(RegistryError, match=reason) as ended:
                await (await registry.watch(1)).changes()
            assert ended.value.auth is auth
        finally:
            await registry.close()


async def test_a_watch_line_without_end_is_given_up():
    async with gateway({"/v3/watch": flood}) as url:
        registry = GatewayRegistry(EtcdPolicy(endpoints=(url,)), 0)
        try:
            with pytest.raises(RegistryError, match="longer than"):
                await registry.watch(1)
        finally:
            await registry.close()


async def test_a_watch_that_is_silent_for_ever_is_found_out_by_comparing():
    """Half-open: etcd is well, lists are answered, and the watch's connection leads nowhere."""
    lists, watches = itertools.count(1), itertools.count()

    async def listed(request):
        number = next(lists)
        kvs = [
            {"key": encoded(f"/mq/nodes/mq{each}"), "value": encoded("mq"), "mod_revision": str(each)}
            for each in range(1, number + 1)
        ]
        return web.json_response({"header": {"revision": str(number)}, "kvs": kvs})

    async def silent(request):
        next(watches)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"result":{"created":true}}\n')
        await asyncio.Event().wait()

    answers, failures = asyncio.Queue(), []
    async with gateway({"/v3/kv/range": listed, "/v3/watch": silent}) as url:
        policy = EtcdPolicy(endpoints=(url,), reconcile_s=0.01)
        task = asyncio.create_task(EtcdDiscovery(policy, random.Random(1)).run(answers.put_nowait, failures.append))
        for number in range(1, 4):
            assert len((await answers.get()).endpoints) == number
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert next(watches) >= 2
    assert not failures


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def test_a_password_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(RegistryError, match="password_file"):
        EtcdPolicy(user="me", password_file=str(tmp_path / "missing")).secret()


class Notes(random.Random):
    """Never waits, and notes how long a retry would have waited at most."""

    def __init__(self):
        super().__init__(1)
        self.caps = []

    def uniform(self, a, b):
        if a == 0:
            self.caps.append(b)
        return 0 if a == 0 else b


async def test_watches_that_end_at_once_are_retried_with_growing_waits():
    rng, failed = Notes(), asyncio.Queue()
    ended = says('{"result":{"created":true}}\n')
    async with gateway({"/v3/kv/range": says('{"header":{"revision":"5"}}'), "/v3/watch": ended}) as url:
        policy = EtcdPolicy(endpoints=(url,), retry_base_s=0.5, retry_max_s=5)
        answers = []
        task = asyncio.create_task(EtcdDiscovery(policy, rng).run(answers.append, failed.put_nowait))
        for _ in range(8):
            await failed.get()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert rng.caps[:7] == [0.5, 1, 2, 4, 5, 5, 5]
    assert {answer.revision for answer in answers} == {5}


def test_the_end_of_a_prefix_comes_after_all_of_its_keys_and_before_all_others():
    assert prefix_end(b"/mq/nodes/") == b"/mq/nodes0"
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff\xff") == b"\0"
