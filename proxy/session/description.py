"""What an operator may know of a session. Never a secret, never a payload."""

from __future__ import annotations

from typing import TypedDict

from proxy.session.channel import TX
from proxy.session.journal import Phase
from proxy.session.session import Session


class Facts(TypedDict):
    """The engine's part of `/api/v1/sessions`."""

    user: str
    vhost: str
    name: str
    state: str
    waiting: str
    channels: int
    consumers: int
    unsettled_publishes: int
    unsettled_bytes: int
    outstanding_deliveries: int
    parked_bytes: int
    movable: bool
    reasons: tuple[str, ...]


def describe(session: Session) -> Facts:
    """Facts of this moment."""
    journal = session.journal
    channels = journal.live_channels()
    credentials = journal.credentials
    reasons = _reasons(session)
    return Facts(
        user=credentials.user if credentials is not None else "",
        vhost=journal.vhost.decode("utf-8", "replace"),
        name=credentials.name if credentials is not None else "",
        state=_state(session),
        waiting=_waiting(session),
        channels=len(channels),
        consumers=sum(channel.consumers for channel in channels),
        unsettled_publishes=sum(channel.ledger.unsettled for channel in channels),
        unsettled_bytes=journal.load.unsettled_bytes,
        outstanding_deliveries=sum(channel.window.open_count for channel in channels),
        parked_bytes=journal.load.parked_bytes,
        movable=not reasons,
        reasons=reasons,
    )


def _state(session: Session) -> str:
    if session.journal.phase is Phase.RUNNING:
        return "failing_over" if session.attachment.searching else "attached"
    state: str = session.journal.phase.value
    return state


def _waiting(session: Session) -> str:
    """Why nothing moves, so that no wait is silent."""
    attachment = session.attachment
    if attachment.searching:
        return f"for a broker: {attachment.last_error}" if attachment.last_error else "for a broker"
    channels = session.journal.live_channels()
    restarting = [channel.number for channel in channels if channel.restart_at is not None]
    if restarting:
        return f"channels {restarting} are set up again"
    unanswered = [channel.number for channel in channels if channel.hidden_pending]
    if unanswered:
        return f"the broker has not answered the replay of channels {unanswered}"
    if session.journal.blocked:
        return "the broker has an alarm and blocks publishers"
    return ""


def _reasons(session: Session) -> tuple[str, ...]:
    """What a move would make visible to the client."""
    reasons = []
    for channel in session.journal.live_channels():
        if channel.mode == TX and channel.tx_dirty:
            reasons.append(f"channel {channel.number} has an open transaction")
        if channel.streaming:
            reasons.append(f"channel {channel.number} is inside a large delivery")
        if any(entry.no_ack for entry in channel.setup if entry.tag):
            reasons.append(f"channel {channel.number} has a consumer without acks")
    for name, (declared, _) in session.journal.topology.queues.items():
        if declared.exclusive:
            reasons.append(f"exclusive queue {name.decode('utf-8', 'replace')!r} lives on this broker")
    return tuple(reasons)
