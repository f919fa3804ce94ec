"""The admin API: health for the orchestrator, metrics for Prometheus, and answers for a person with curl.

It reads and changes nothing, but for `/quitquitquit`. It has no login, so two things protect what it tells: it is
bound to loopback unless the operator decides otherwise, and there it answers only to loopback names, since a web page
could otherwise point its own name at 127.0.0.1 and read along (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

import orjson
from aiohttp import web

from proxy.net.census import SessionView
from proxy.ops.page import CONTENT_POLICY, render_page
from proxy.ops.telemetry import Telemetry
from proxy.ops.vitals import Vitals
from proxy.settings.policy import AdminPolicy
from proxy.upstream.endpoint import DiscoveryStatus, Rejected
from proxy.upstream.member import EndpointView

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SESSIONS_PAGE = 100
SESSIONS_PAGE_MAX = 1000
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "sidehop"}


class AdminServer:
    """Serve the API of one sidecar. `start` raises OSError if the address is in use."""

    def __init__(self, policy: AdminPolicy, vitals: Vitals) -> None:
        self._policy = policy
        self._vitals = vitals
        self._telemetry = Telemetry(vitals)
        self._loopback = is_loopback(policy.host)
        application = web.Application(middlewares=[self._answer])
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/endpoints", self._endpoints),
                web.get("/api/v1/sessions", self._sessions),
                web.post("/quitquitquit", self._quit),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        self.port = policy.port

    async def start(self) -> None:
        """Bind and serve. `port` is the real one afterwards."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._policy.host, self._policy.port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop serving."""
        await self._runner.cleanup()

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Guard every request, and give every error the same form."""
        if self._loopback and not _names_loopback(request.host):
            return _error(403, "this API answers to localhost only, not to the name in the Host header")
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return _error(error.status, _ADVICE.get(error.status, error.reason))
        response.headers.update(_HEADERS)
        return response

    async def _livez(self, request: web.Request) -> web.Response:
        del request
        return _json(200, {"status": "alive", "build": asdict(self._vitals.build)})

    async def _readyz(self, request: web.Request) -> web.Response:
        del request
        reasons = self._vitals.not_ready(await self._vitals.plane.condition(_now()))
        return _json(503, {"status": "not ready", "reasons": reasons}) if reasons else _json(200, {"status": "ready"})

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._telemetry.render(request.headers.get("Accept", ""), _now())
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _endpoints(self, request: web.Request) -> web.Response:
        del request
        now, vitals = _now(), self._vitals
        condition = await vitals.plane.condition(now)
        discovery = _row(vitals.discovery)
        del discovery["synced_at"]
        synced_at = vitals.discovery.synced_at
        discovery["synced_age_s"] = None if synced_at is None else round(now - synced_at, 3)
        return _json(
            200,
            {
                "endpoints": [_row(view) for view in condition.endpoints],
                "usable": condition.usable,
                "panic": condition.panic,
                "rejected": [_row(rejected) for rejected in vitals.rejected],
                "discovery": discovery,
            },
        )

    async def _sessions(self, request: web.Request) -> web.Response:
        offset = _number(request.query, "offset", 0, 2**31)
        limit = max(1, _number(request.query, "limit", SESSIONS_PAGE, SESSIONS_PAGE_MAX))
        page = await self._vitals.plane.sessions(offset, limit, _now())
        following = offset + limit if offset + limit < page.total else None
        rows = [_row(view) for view in page.sessions]
        return _json(200, {"sessions": rows, "total": page.total, "next_offset": following})

    async def _page(self, request: web.Request) -> web.Response:
        del request
        now, plane = _now(), self._vitals.plane
        text = render_page(self._vitals, await plane.condition(now), await plane.loads(now), now)
        headers = {"Content-Security-Policy": CONTENT_POLICY}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _quit(self, request: web.Request) -> web.Response:
        if not self._loopback:
            return _error(403, "only an API that is bound to loopback can end the process; send it a SIGTERM")
        if "Origin" in request.headers:
            return _error(403, "a web page cannot end the process")
        self._vitals.stop("quitquitquit")
        return _json(202, {"status": "stopping"})


_ADVICE = {
    404: "there is /livez, /readyz, /metrics, /api/v1/endpoints, /api/v1/sessions and /",
    405: "the API is read with GET; only /quitquitquit is a POST",
    413: "no body is expected",
}


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only. A name other than localhost could be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names_loopback(host_header: str) -> bool:
    host = host_header.rpartition(":")[0] if host_header.rpartition(":")[2].isdigit() else host_header
    return is_loopback(host.removeprefix("[").removesuffix("]").lower())


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise web.HTTPBadRequest(reason=f"{name} must be a whole number from 0 to {most}")
    return int(text)


def _row(view: DiscoveryStatus | EndpointView | Rejected | SessionView) -> dict[str, object]:
    row: dict[str, object] = asdict(view)
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}


def _json(status: int, content: object) -> web.Response:
    try:
        body = orjson.dumps(content, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate in the name that a client gave itself
        body = json.dumps(content, default=repr, indent=2).encode() + b"\n"
    return web.Response(status=status, body=body, content_type="application/json", headers=_HEADERS)


def _error(status: int, reason: str) -> web.Response:
    return _json(status, {"error": reason, "status": status})


def _now() -> float:
    return asyncio.get_running_loop().time()
