"""Make the probes that the pool asks for: a connection, a greeting, a handshake, an HTTP check.

What each costs the broker and what it can see is a table in docs/BALANCING.md. A connection that is only opened and
closed leaves no line in RabbitMQ's log, a polite handshake three at level info; nothing here leaves an error there.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from proxy.amqp.frames import FRAME_END, HEAD, METHOD, OVERHEAD_BYTES, PROTOCOL_HEADER, method_frame
from proxy.amqp.methods import (
    ConnectionClose,
    ConnectionCloseOk,
    ConnectionOpen,
    ConnectionOpenOk,
    ConnectionStart,
    ConnectionStartOk,
    ConnectionTune,
    ConnectionTuneOk,
    decode,
    method_id,
)
from proxy.amqp.wire import U32, bool_value, pack_table, table_value, text_value
from proxy.errors import BrokerError, SidehopError
from proxy.reports import Report, ReportSink
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.health import HealthPolicy
from proxy.upstream.member import Probe
from proxy.upstream.pool import Pool

PROBES_MAX = 16
# The frames of a handshake are far below this; what is larger is not a broker.
FRAME_BYTES_MAX = 131072
# ACCESS_REFUSED and NOT_ALLOWED (user, vhost or a limit): they tell of our login, not of the broker's health.
_LOGIN_REFUSED = (403, 530)
_PROPERTIES = pack_table(
    {
        b"product": text_value("Sidehop"),
        b"connection_name": text_value("sidehop health probe"),
        # Without it RabbitMQ answers a wrong password by closing the socket, which would look like a dead broker.
        b"capabilities": table_value({b"authentication_failure_close": bool_value(True)}),
    }
)

M = TypeVar("M", bound=tuple[object, ...])


class Prober:
    """Runs the pool's probes when they are due and sleeps in between. `run` is one task, cancelled to end it.

    `tls` is asked once the first endpoint needs it: what is said and believed on TLS connections.
    """

    def __init__(self, pool: Pool, policy: HealthPolicy, tls: Callable[[], ssl.SSLContext], report: ReportSink) -> None:
        self._pool = pool
        self._policy = policy
        self._tls = tls
        self._report = report
        self._due = asyncio.Event()
        self._slots = asyncio.Semaphore(PROBES_MAX)
        self._refused: set[str] = set()
        pool.on_due(self._due.set)

    async def run(self) -> None:
        """Probe until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as probes:
            while True:
                self._due.clear()
                for probe in self._pool.probes_due(loop.time()):
                    probes.create_task(self._make(probe), name=f"probe {probe.endpoint.name}")
                next_s = self._pool.next_probe_at(loop.time())
                timer = None if next_s is None else loop.call_at(next_s, self._due.set)
                try:
                    await self._due.wait()
                finally:
                    if timer is not None:
                        timer.cancel()

    async def _make(self, probe: Probe) -> None:
        async with self._slots:
            ok, detail = await self._result(probe)
        self._pool.probed(probe, ok, asyncio.get_running_loop().time(), detail)

    async def _result(self, probe: Probe) -> tuple[bool | None, str]:
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                await self._ask(probe)
        except _LoginRefusedError as error:
            self._refusal("handshake", probe.endpoint, error.reason)
            return None, error.reason
        except TimeoutError:
            return False, f"{probe.kind} probe: no answer within {self._policy.timeout_s:g} s"
        # UnicodeError: a host name that cannot be encoded for DNS; EOFError: the broker hung up.
        except (OSError, EOFError, UnicodeError, SidehopError) as error:
            return False, f"{probe.kind} probe: {error or type(error).__name__}"
        if probe.kind == "handshake":
            self._refused.discard("handshake")
        if probe.kind == "connect" and self._policy.http_port and await self._http_says_no(probe.endpoint):
            return False, "the management API says 503"
        return True, ""

    async def _ask(self, probe: Probe) -> None:
        endpoint = probe.endpoint
        if probe.kind == "connect":
            async with _connected(endpoint.host, endpoint.port, None):
                return
        context = self._tls() if endpoint.tls else None
        async with _connected(endpoint.host, endpoint.port, context, endpoint.server_name) as (reader, writer):
            writer.write(PROTOCOL_HEADER)
            await _expect(reader, ConnectionStart)
            if probe.kind == "handshake":
                await self._shake_hands(reader, writer)

    async def _shake_hands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        policy = self._policy
        response = f"\0{policy.user}\0{policy.password}".encode()
        writer.write(method_frame(0, ConnectionStartOk(_PROPERTIES, b"PLAIN", response, b"en_US")))
        tune = await _expect(reader, ConnectionTune)
        writer.write(method_frame(0, ConnectionTuneOk(tune.channel_max, tune.frame_max, 0)))
        writer.write(method_frame(0, ConnectionOpen(policy.vhost.encode())))
        await _expect(reader, ConnectionOpenOk)
        writer.write(method_frame(0, ConnectionClose(200, b"probed")))
        await _expect(reader, ConnectionCloseOk)

    async def _http_says_no(self, endpoint: Endpoint) -> bool:
        """Ask the management API. Only a clear 503 is a no: it may be missing, slow, or too old for the path (404)."""
        policy = self._policy
        context = self._tls() if policy.http_tls else None
        login = b64encode(f"{policy.user}:{policy.password}".encode()).decode()
        request = (
            f"GET {policy.http_path.replace('{port}', str(endpoint.port))} HTTP/1.0\r\n"
            f"Host: {endpoint.host}:{policy.http_port}\r\nAuthorization: Basic {login}\r\n\r\n"
        )
        try:
            async with (
                asyncio.timeout(policy.timeout_s),
                _connected(endpoint.host, policy.http_port, context) as (reader, writer),
            ):
                writer.write(request.encode())
                status = (await reader.readline()).split(b" ")[1:2]
        # ValueError: the line is longer than the reader's limit.
        except (OSError, UnicodeError, ValueError):
            return False
        if status == [b"401"]:
            self._refusal("http", endpoint, "401 from the management API")
        elif status == [b"200"]:
            self._refused.discard("http")
        return status == [b"503"]

    def _refusal(self, kind: str, endpoint: Endpoint, reason: str) -> None:
        # Said once until a login works again: the cause is one wrong setting, not one per endpoint and probe.
        if kind not in self._refused:
            self._refused.add(kind)
            self._report(Report("probe_refused", {"endpoint": endpoint.name, "kind": kind, "reason": reason}))


class _LoginRefusedError(BrokerError):
    """The broker is well enough to turn our login away."""


@asynccontextmanager
async def _connected(
    host: str, port: int, context: ssl.SSLContext | None, server_name: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname=(server_name or host) if context else None
    )
    try:
        yield reader, writer
    except BaseException:
        # A hung peer would keep an orderly close waiting.
        writer.transport.abort()
        raise
    writer.close()


async def _expect(reader: asyncio.StreamReader, wanted: type[M]) -> M:
    """Read one frame, which must be the wanted method."""
    head = await reader.readexactly(HEAD.size)
    if head.startswith(b"AMQP"):
        raise BrokerError("it speaks another version of AMQP")
    kind, channel, size = HEAD.unpack(head)
    if kind != METHOD or channel or not 4 <= size <= FRAME_BYTES_MAX:
        raise BrokerError("it does not speak AMQP 0-9-1")
    frame = await reader.readexactly(size + OVERHEAD_BYTES - HEAD.size)
    if frame[-1] != FRAME_END:
        raise BrokerError("it does not speak AMQP 0-9-1")
    payload = frame[:-1]
    (found,) = U32.unpack_from(payload)
    if found == method_id(wanted):
        return decode(wanted, payload)
    if found != method_id(ConnectionClose):
        raise BrokerError(f"it sent method {found >> 16}.{found & 0xFFFF} in the handshake")
    close = decode(ConnectionClose, payload)
    reason = f"{close.reply_code} {close.reply_text.decode('utf-8', 'replace')}"
    raise (_LoginRefusedError if close.reply_code in _LOGIN_REFUSED else BrokerError)(reason)
