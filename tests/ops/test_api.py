"""The admin API over real HTTP: what it tells, to whom, and what it never tells."""

import json

import aiohttp
import pytest

from proxy.ops.api import AdminServer, is_loopback
from proxy.settings.policy import AdminPolicy
from proxy.upstream.endpoint import Rejected
from tests.ops.sidecar import Session, Sidecar


class Admin:
    """A served sidecar and a client that talks to it."""

    def __init__(self, sidecar, server, client):
        self.sidecar, self.server, self.client = sidecar, server, client

    async def ask(self, path, method="GET", **options):
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with self.client.request(method, url, **options) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json else text, response.headers


@pytest.fixture
async def admin(request):
    host = getattr(request, "param", "127.0.0.1")
    sidecar = Sidecar("mq1", "mq2")
    server = AdminServer(AdminPolicy(host=host, port=0), sidecar.vitals)
    await server.start()
    async with aiohttp.ClientSession() as client:
        yield Admin(sidecar, server, client)
    await server.close()


async def test_alive_as_long_as_it_answers(admin):
    admin.sidecar.listener.listening = False
    status, body, _ = await admin.ask("/livez")
    assert (status, body["status"]) == (200, "alive")


async def test_it_tells_which_build_answers_and_whether_that_is_compiled(admin):
    _, body, _ = await admin.ask("/livez")
    assert body["build"] == {"version": "1.2.3", "python": "3.11.7", "compiled": True, "loop": "uvloop"}


async def test_ready_with_a_listener_and_a_usable_broker(admin):
    admin.sidecar.pool.observe("mq2", "connected", 0.0)
    status, body, _ = await admin.ask("/readyz")
    assert (status, body) == (200, {"status": "ready"})


async def test_not_ready_on_the_mere_hope_that_a_broker_is_there(admin):
    status, body, _ = await admin.ask("/readyz")
    assert status == 503
    hope = "is up: no probe or session has reached it yet"
    assert body["reasons"] == [f"no broker is usable: mq1 {hope}; mq2 {hope}"]


async def test_not_ready_tells_every_reason(admin):
    pool = admin.sidecar.pool
    admin.sidecar.listener.listening = False
    for now in (100.0, 200.0, 300.0):
        for probe in pool.probes_due(now):
            pool.probed(probe, False, now, "connection refused")
    status, body, _ = await admin.ask("/readyz")
    assert status == 503
    first, second = body["reasons"]
    assert first == "the listener is not up"
    assert second.startswith("no broker is usable: mq1 is ")
    assert "mq2 is " in second


async def test_not_ready_while_nothing_more_may_be_kept(admin):
    admin.sidecar.pool.observe("mq2", "connected", 0.0)
    budget = admin.sidecar.budget
    admin.sidecar.add(Session("1", retained_bytes=2_000_000))
    budget.look(0.0)
    status, body, _ = await admin.ask("/readyz")
    assert (status, body["reasons"]) == (
        503,
        ["2000000 bytes are kept for clients, listen.retained_bytes_max is 1000000"],
    )


async def test_not_ready_before_discovery_has_answered_tells_its_error():
    sidecar = Sidecar()
    sidecar.vitals.discovery.last_error = "http://etcd:2379: refused"
    assert sidecar.vitals.not_ready(await sidecar.plane.condition(0.0)) == [
        "discovery (etcd) has not answered yet: http://etcd:2379: refused",
    ]
    sidecar.vitals.discovery.synced_at = 1.0
    assert sidecar.vitals.not_ready(await sidecar.plane.condition(2.0)) == ["discovery (etcd) names no broker"]


async def test_endpoints_tell_state_sessions_discovery_and_rejected_entries(admin):
    sidecar = admin.sidecar
    for name in ("mq1", "mq2"):
        sidecar.pool.observe(name, "handshaken", 0.5)
    sidecar.pool.attached("mq1")
    sidecar.pool.observe("mq2", "connect_failed", 1.0)
    sidecar.vitals.rejected = (Rejected("/mq/nodes/mq3", "url: no host"),)
    sidecar.vitals.discovery.stale = True
    status, body, _ = await admin.ask("/api/v1/endpoints")
    assert status == 200
    first, second = body["endpoints"]
    assert first | {"name": "mq1", "address": "mq1:5672", "state": "up", "sessions": 1, "weight": 100} == first
    assert second | {"name": "mq2", "state": "suspect", "cause": "a connection attempt failed"} == second
    assert body["usable"] == 2
    assert body["rejected"] == [{"key": "/mq/nodes/mq3", "reason": "url: no host"}]
    assert body["discovery"] == {
        "source": "etcd",
        "revision": 0,
        "synced_age_s": None,
        "stale": True,
        "errors": 0,
        "last_error": "",
    }


async def test_sessions_come_in_pages(admin):
    for number in range(5):
        admin.sidecar.add(Session(str(number), user="app"))
    status, body, _ = await admin.ask("/api/v1/sessions?limit=2&offset=2")
    assert status == 200
    assert [session["id"] for session in body["sessions"]] == ["2", "3"]
    assert (body["total"], body["next_offset"]) == (5, 4)
    status, body, _ = await admin.ask("/api/v1/sessions?offset=4")
    assert [session["id"] for session in body["sessions"]] == ["4"]
    assert body["next_offset"] is None
    assert body["sessions"][0]["movable"] is True
    assert set(body["sessions"][0]) >= {"client", "user", "vhost", "endpoint", "channels", "failovers", "reasons"}


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=-1", "limit=1001", "offset=1e9", "limit=", "offset=99999999999999"]
)
async def test_nonsense_in_a_query_is_refused_in_json(admin, query):
    status, body, _ = await admin.ask(f"/api/v1/sessions?{query}")
    assert status == 400
    assert "must be a whole number from 0 to" in body["error"]


async def test_a_name_that_is_not_unicode_breaks_no_list(admin):
    admin.sidecar.add(Session("1", name="\udcff"))
    status, body, _ = await admin.ask("/api/v1/sessions")
    assert (status, body["sessions"][0]["name"]) == (200, "\udcff")


async def test_every_answer_is_guarded_and_every_error_is_json(admin):
    for path, method, expected in (
        ("/livez", "GET", 200),
        ("/metrics", "GET", 200),
        ("/", "GET", 200),
        ("/nope", "GET", 404),
        ("/metrics", "POST", 405),
        ("/quitquitquit", "GET", 405),
    ):
        status, body, headers = await admin.ask(path, method)
        assert status == expected
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        if status >= 400:
            assert body["status"] == status
            assert body["error"]


async def test_metrics_are_served_as_prometheus_wants_them(admin):
    for name in ("mq1", "mq2"):
        admin.sidecar.pool.observe(name, "connected", 0.0)
    status, text, headers = await admin.ask("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert "sidehop_endpoints_usable 2.0" in text


async def test_the_page_escapes_what_others_wrote(admin):
    admin.sidecar.vitals.discovery.source = "<script>alert(1)</script>"
    status, text, headers = await admin.ask("/")
    assert status == 200
    assert "mq1:5672" in text
    assert "<script" not in text
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_a_foreign_name_in_the_host_header_is_refused(admin):
    status, body, _ = await admin.ask("/api/v1/sessions", headers={"Host": "evil.example"})
    assert (status, "localhost only" in body["error"]) == (403, True)
    for host in ("localhost:8080", "127.0.0.1", "[::1]:15680", "LOCALHOST"):
        assert (await admin.ask("/livez", headers={"Host": host}))[0] == 200


async def test_quitquitquit_stops_and_a_web_page_cannot_say_it(admin):
    assert (await admin.ask("/quitquitquit", "POST", headers={"Origin": "http://evil.example"}))[0] == 403
    assert admin.sidecar.stopped == []
    assert (await admin.ask("/quitquitquit", "POST"))[0] == 202
    assert admin.sidecar.stopped == ["quitquitquit"]


@pytest.mark.parametrize("admin", ["0.0.0.0"], indirect=True)
async def test_bound_to_more_than_loopback_it_answers_to_any_name_but_cannot_be_ended(admin):
    assert (await admin.ask("/livez", headers={"Host": "10.1.2.3:15680"}))[0] == 200
    assert (await admin.ask("/quitquitquit", "POST"))[0] == 403
    assert admin.sidecar.stopped == []


async def test_an_address_in_use_is_an_error_of_start(admin):
    second = AdminServer(AdminPolicy(port=admin.server.port), admin.sidecar.vitals)
    with pytest.raises(OSError, match="address already in use"):
        await second.start()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("me", False)],
)
def test_what_loopback_is(host, loopback):
    assert is_loopback(host) is loopback
