"""What an operator may know of a session. Never a secret, never a payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from proxy.session.journal import Phase
from proxy.session.move import obstacles
from proxy.session.session import Session
from proxy.session.waits import Wait, waits


@dataclass(frozen=True, slots=True)
class WaitView:
    """One reason why something waits, for `for_s` seconds so far and `at_most_s` more; None: not known, no end set."""

    reason: str
    channels: tuple[int, ...]
    for_s: float | None
    at_most_s: float | None


class Facts(TypedDict):
    """The engine's part of `/api/v1/sessions`."""

    user: str
    vhost: str
    name: str
    state: str
    waiting: str
    waits: tuple[WaitView, ...]
    channels: int
    consumers: int
    unsettled_publishes: int
    unsettled_bytes: int
    outstanding_deliveries: int
    parked_bytes: int
    movable: bool
    reasons: tuple[str, ...]


def describe(session: Session, now: float | None = None) -> Facts:
    """Facts of this moment; `now` is that of the last event unless it is given."""
    journal = session.journal
    channels = journal.live_channels()
    credentials = journal.credentials
    reasons = tuple(obstacles(journal))
    found = tuple(waits(session))
    return Facts(
        user=credentials.user if credentials is not None else "",
        vhost=journal.vhost.decode("utf-8", "replace"),
        name=credentials.name if credentials is not None else "",
        state=_state(session),
        waiting=found[0].reason if found else "",
        waits=tuple(_shown(each, journal.now if now is None else now) for each in found),
        channels=len(channels),
        consumers=sum(channel.consumers for channel in channels),
        unsettled_publishes=sum(channel.unsettled for channel in channels),
        unsettled_bytes=journal.load.unsettled_bytes,
        outstanding_deliveries=sum(channel.window.open_count for channel in channels),
        parked_bytes=journal.load.parked_bytes,
        movable=not reasons,
        reasons=reasons,
    )


def _state(session: Session) -> str:
    if session.journal.phase is Phase.RUNNING:
        if session.attachment.searching:
            return "failing_over"
        return "attached" if len(session.journal.uplinks) == 1 else "moving"
    state: str = session.journal.phase.value
    return state


def _shown(wait: Wait, now: float) -> WaitView:
    since, until = wait.since, wait.until
    return WaitView(
        wait.reason,
        wait.channels,
        round(max(0.0, now - since), 3) if since is not None else None,
        round(max(0.0, until - now), 3) if until is not None else None,
    )
