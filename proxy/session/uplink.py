"""One connection to a broker, seen from the engine: its handshake, its limits, its pulse."""

from __future__ import annotations

from enum import Enum

from proxy.amqp import methods as m
from proxy.amqp.frames import Buffer, Inlet, method_frame


class Stage(Enum):
    """How far the handshake is."""

    DIALLING = "dialling"
    GREETED = "greeted"  # header and start-ok are written, the broker judges the credentials
    TUNED = "tuned"  # the credentials are good
    OPENING = "opening"  # tune-ok and open are written
    RESTORING = "restoring"  # topology is declared again
    ATTACHED = "attached"  # channels may use it
    CLOSING = "closing"  # we have said connection.close
    OVER = "over"  # nothing it says counts any more


class Uplink:
    """A broker connection of a session. `generation` counts them from 1. `out` is what waits to be written to it.

    `blocked`: the broker has an alarm and does not read what is published on it, since `blocked_at`. `secrets_asked`:
    so many `connection.update-secret` are not answered. `courier_tag`: the last confirm number of the channel that
    publishes what no queue took; None while it is not open there. `frame_max_bytes` and `channel_max` are agreed with
    the broker, 0 until then; `delivery_room_bytes`: bodies from it are cut to this size for the client, 0 if they fit.
    `lacks` is what the client was offered and this broker cannot do.
    """

    __slots__ = (
        "blocked",
        "blocked_at",
        "channel_max",
        "courier_tag",
        "delivery_room_bytes",
        "endpoint",
        "frame_max_bytes",
        "generation",
        "heard_at",
        "heartbeat_s",
        "inlet",
        "lacks",
        "out",
        "said_at",
        "secrets_asked",
        "stage",
        "stage_deadline",
        "tune",
    )

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.endpoint = ""
        self.stage = Stage.DIALLING
        self.stage_deadline: float | None = None
        self.inlet = Inlet()
        self.out: list[Buffer] = []
        self.blocked = False
        self.blocked_at = 0.0
        self.secrets_asked = 0
        self.courier_tag: int | None = None
        self.tune = m.ConnectionTune(0, 0, 0)
        self.lacks: frozenset[bytes] = frozenset()
        self.frame_max_bytes = 0
        self.channel_max = 0
        self.delivery_room_bytes = 0
        self.heartbeat_s = 0.0
        self.heard_at = 0.0
        self.said_at = 0.0

    def update_secret(self, frame: bytes) -> None:
        """Queue a `connection.update-secret`, whose answer is then due."""
        self.secrets_asked += 1
        self.out.append(frame)

    def tell(self, number: int, method: tuple[object, ...]) -> None:
        """Queue a method for the broker."""
        self.out.append(method_frame(number, method))


def least_limit(*limits: int) -> int:
    """The strictest of several limits of `connection.tune`, where 0 stands for none."""
    return min((limit for limit in limits if limit), default=0)
