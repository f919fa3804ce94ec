"""What an operator may know of a session. Never a secret, never a payload."""

from __future__ import annotations

from typing import TypedDict

from proxy.session.journal import Phase
from proxy.session.move import obstacles
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
    reasons = tuple(obstacles(journal))
    return Facts(
        user=credentials.user if credentials is not None else "",
        vhost=journal.vhost.decode("utf-8", "replace"),
        name=credentials.name if credentials is not None else "",
        state=_state(session),
        waiting=_waiting(session),
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


def _waiting(session: Session) -> str:
    """Why nothing moves, so that no wait is silent."""
    attachment = session.attachment
    if attachment.searching:
        return f"for a broker: {attachment.last_error}" if attachment.last_error else "for a broker"
    channels = session.journal.live_channels()
    missing = sorted(name.decode("utf-8", "replace") for _, name in session.restoration.missing)
    without = [channel.number for channel in channels if channel.uplink is None]
    if missing and without:
        return f"channels {without} wait for what another connection still holds or has removed: {', '.join(missing)}"
    restarting = [channel.number for channel in channels if channel.restart_at is not None]
    leaving = session.move.waiting
    if restarting:
        return f"channels {restarting} are set up again"
    unanswered = [channel.number for channel in channels if channel.hidden_pending]
    if unanswered:
        return f"the broker has not answered the replay of channels {unanswered}"
    if leaving:
        return (
            f"channels {leaving} move when the client has settled what it holds and the broker has confirmed the rest"
        )
    away = session.cancellations.waiting
    if away:
        return f"consumers are paused until their queues are within reach: {', '.join(away)}"
    if any(uplink.blocked for uplink in session.journal.uplinks):
        return "the broker has an alarm and blocks publishers"
    keeping = [each.number for each in channels if each.arrears is not None and each.arrears.kept]
    if keeping:
        return f"channels {keeping} get more when their client settles what it holds of a broker that is gone"
    if session.unrouted.count:
        return f"no queue takes {session.unrouted.count} publishes while a broker is down"
    settling = [channel.number for channel in channels if channel.settling_until is not None]
    if settling:
        return f"channels {settling} end or change their mode when what they published is confirmed"
    return _unread(session)


def _unread(session: Session) -> str:
    """Why its client is not read."""
    if session.pulse.reading:
        return ""
    if session.journal.share_bytes is not None:
        return "all clients together fill listen.retained_bytes_max: this one goes on when less is kept for it"
    return "the broker has not confirmed what fills the memory that a session may use"
