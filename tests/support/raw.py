"""A client that says exactly what a test wants it to say, also what no library would."""

from __future__ import annotations

import socket
from types import TracebackType

from pamqp import commands, frame, header

START_OK = commands.Connection.StartOk(
    client_properties={"capabilities": {"authentication_failure_close": True, "consumer_cancel_notify": True}},
    mechanism="PLAIN",
    response="\0guest\0guest",
    locale="en_US",
)


class RawClient:
    """A blocking socket to `port`. `greet` makes it an ordinary connection with one open channel, 1."""

    def __init__(self, port: int, patience_s: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), patience_s)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def greet(self, *, heartbeat_s: int = 0, frame_max: int = 0) -> RawClient:
        """`frame_max`: less than what is offered."""
        self.socket.sendall(header.ProtocolHeader().marshal())
        self.expect(commands.Connection.Start)
        self.send(0, START_OK)
        tune = self.expect(commands.Connection.Tune)
        self.send(0, commands.Connection.TuneOk(tune.channel_max, frame_max or tune.frame_max, heartbeat_s))
        self.send(0, commands.Connection.Open("/"))
        self.expect(commands.Connection.OpenOk)
        self.send(1, commands.Channel.Open())
        self.expect(commands.Channel.OpenOk)
        return self

    def send(self, channel: int, *methods: frame.FrameTypes) -> None:
        self.socket.sendall(b"".join(frame.marshal(method, channel) for method in methods))

    def read(self) -> frame.FrameTypes:
        """The next frame that is no heartbeat. ConnectionError at the end."""
        while True:
            size = int.from_bytes(self._fill(7)[3:7], "big") + 8
            data = self._fill(size)[:size]
            self._buffer = self._buffer[size:]
            parsed = frame.unmarshal(data)[2]
            if parsed.name != "Heartbeat":
                return parsed

    def expect(self, kind: type[frame.FrameTypes]) -> frame.FrameTypes:
        """The next frame, which must be one of this kind."""
        got = self.read()
        assert isinstance(got, kind), f"wanted {kind.name}, got {got!r} {dict(got) if got else ''}"
        return got

    def read_until(self, kind: type[frame.FrameTypes]) -> frame.FrameTypes:
        """Skip what comes before the first frame of this kind."""
        while not isinstance(got := self.read(), kind):
            pass
        return got

    def read_rest(self) -> bytes:
        """Everything until the other side closes."""
        try:
            while chunk := self.socket.recv(65536):
                self._buffer += chunk
        except ConnectionResetError:
            pass
        return self._buffer

    def _fill(self, size: int) -> bytes:
        while len(self._buffer) < size:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError("closed by the other side")
            self._buffer += chunk
        return self._buffer
