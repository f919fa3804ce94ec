"""What the parts of a session ask of the whole: turns that no part can take by itself."""

from __future__ import annotations

from typing import Protocol

from proxy.amqp import methods as m
from proxy.errors import ClientError
from proxy.session.channel import Channel
from proxy.session.uplink import Uplink


class Lifecycle(Protocol):
    """Turns in a session's life that one frame can cause. The session takes them."""

    def credentials_given(self) -> None:
        """The client said who it is."""
        ...

    def client_asked(self) -> None:
        """It is the client's turn in the handshake."""
        ...

    def vhost_given(self) -> None:
        """The client said what it wants to open."""
        ...

    def client_broke(self, error: ClientError) -> None:
        """The client broke the protocol or a limit."""
        ...

    def client_closes(self) -> None:
        """The client wants to end the connection."""
        ...

    def end_client(self, code: int, text: str, class_id: int = 0, method_id: int = 0) -> None:
        """Tell the client that its connection is over."""
        ...

    def client_is_told(self) -> None:
        """The client answered our close."""
        ...

    def broker_is_told(self, uplink: Uplink) -> None:
        """A broker answered our close."""
        ...

    def broker_closes(self, uplink: Uplink, close: m.ConnectionClose) -> None:
        """A broker ends the connection."""
        ...

    def unite(self) -> None:
        """All channels must be on one broker now."""
        ...

    def too_narrow(self, uplink: Uplink, reason: str) -> None:
        """A broker cannot take what the client says."""
        ...

    def broker_hangs(self, uplink: Uplink) -> None:
        """A broker does not let a channel go."""
        ...

    def seek(self, reason: str) -> None:
        """The present broker lacks what a channel needs: another one may have it."""
        ...

    def move_failed(self) -> None:
        """The broker to move to could not be had."""
        ...

    def restart(self, channel: Channel, reason: str, *, open_upstream: bool, redeclare: bool = False) -> None:
        """Set one channel up again on the same broker connection."""
        ...

    def consumer_refused(self, channel: Channel, close: m.ChannelClose) -> bool:
        """A replay was refused; True if a consumer's queue is out of reach and is waited for from here on."""
        ...

    def settled(self, channel: Channel) -> None:
        """Nothing published on a channel waits for a confirm any more."""
        ...

    def replayed(self, channel: Channel) -> None:
        """The broker has answered everything a channel's replay asked for."""
        ...
