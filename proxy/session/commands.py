"""What the engine asks of the shell. Bytes to write are not commands: they wait in the outputs of the session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from proxy.amqp.frames import Buffer
from proxy.reports import Report

Observation = Literal[
    "handshaken", "confirmed", "handshake_failed", "heartbeat_missed", "forced_close", "lost", "failover_failed"
]


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a broker and say `broker_up` or `dial_failed` with the same generation.

    `avoid` names endpoints that were tried in this failover: they come last. `resumes` is False for a session's
    first broker and True when a broker was lost, which is when sessions must not all knock at once.
    """

    generation: int
    avoid: frozenset[str]
    resumes: bool


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the broker's link of a generation after writing `last`, or at once where the peer is not answering."""

    generation: int
    abort: bool = False
    last: list[Buffer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Attached:
    """The session works on its broker again; whoever waits for the next attachment may go on."""

    generation: int


@dataclass(frozen=True, slots=True)
class Observe:
    """What was learnt about the endpoint of a generation; `took_s` is the time of a confirm, 0 for all else."""

    generation: int
    outcome: Observation
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LookAround:
    """See at once whether a broker has died: one refused what a well cluster would take."""


@dataclass(frozen=True, slots=True)
class ReadClient:
    """Go on reading from the client, or stop because a limit is reached."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class CloseClient:
    """The conversation is over: close the client's socket after what is written."""


Command = Dial | HangUp | Attached | Observe | LookAround | ReadClient | CloseClient | Report
