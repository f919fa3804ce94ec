"""What a session waits for at this moment: why, since when, and until when at the latest. No wait is silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxy.session.channel import Channel
from proxy.session.journal import Phase
from proxy.session.session import Session

_CLIENTS_TURN = (Phase.GREETING, Phase.STARTING, Phase.TUNING)


@dataclass(frozen=True, slots=True)
class Wait:
    """One reason. `since` and `until` are monotonic seconds, None if that is not known or has no end of its own.

    `channels` are the numbers of those that wait; empty if the whole session does.
    """

    reason: str
    channels: tuple[int, ...] = ()
    since: float | None = None
    until: float | None = None


def waits(session: Session) -> Iterator[Wait]:
    """Every reason there is, what matters most first."""
    attachment, journal, policy = session.attachment, session.journal, session.journal.policy
    if journal.phase in _CLIENTS_TURN:
        until = session.ending.until
        since = until - policy.handshake_timeout_s if until is not None else None
        yield Wait("for the client, whose turn it is in the handshake", (), since, until)
    if attachment.searching:
        reason = f"for a broker: {attachment.last_error}" if attachment.last_error else "for a broker"
        yield Wait(reason, (), attachment.since, attachment.deadline)
    if journal.phase in (Phase.FLUSHING, Phase.CLOSING):
        flushing = journal.phase is Phase.FLUSHING
        reason = "for the confirms of what was published before the end" if flushing else "for the last close-ok"
        yield Wait(reason, (), None, session.ending.until)
    if not attachment.searching:
        yield from _of_channels(session)
        yield from _of_brokers(session)
    yield from _of_pace(session)
    yield from _of_answers(session)


def _of_channels(session: Session) -> Iterator[Wait]:
    journal = session.journal
    channels = journal.live_channels()
    missing = sorted(name.decode("utf-8", "replace") for _, name in session.restoration.missing)
    without = _numbers(each for each in channels if each.uplink is None)
    if missing and without:
        reason = f"channels {list(without)} wait for what another connection still holds or has removed"
        yield Wait(f"{reason}: {', '.join(missing)}", without, journal.recovered_at, session.restoration.awaited_until)
    restarting = [each for each in channels if each.restart_at is not None]
    if restarting:
        numbers = _numbers(restarting)
        until = _first(each.restart_deadline for each in restarting)
        yield Wait(f"channels {list(numbers)} are set up again", numbers, None, until)
    unanswered = [each for each in channels if each.hidden_pending]
    if unanswered:
        numbers = _numbers(unanswered)
        until = _first(each.replay_until for each in unanswered)
        reason = f"the broker has not answered the replay of channels {list(numbers)}"
        yield Wait(reason, numbers, journal.recovered_at, until)
    committing = _numbers(each for each in channels if each.committing)
    if committing:
        yield Wait(f"a commit on channels {list(committing)} waits for its answer", committing)
    leaving = tuple(session.move.waiting)
    if leaving:
        reason = "move when the client has settled what it holds and the broker has confirmed the rest"
        yield Wait(f"channels {list(leaving)} {reason}", leaving, None, session.move.until)
    yield from _of_queues(session)
    keeping = [each for each in channels if each.arrears is not None and each.arrears.kept]
    if keeping:
        numbers = _numbers(keeping)
        reason = f"channels {list(numbers)} get more when their client settles what it holds of a broker that is gone"
        until = _first(each.arrears.until for each in keeping if each.arrears is not None)
        hold_s = journal.policy.redelivery_hold_timeout_s
        yield Wait(reason, numbers, until - hold_s if until is not None else None, until)
    settling = [each for each in channels if each.settling is not None]
    if settling:
        numbers = _numbers(settling)
        since = _first(each.settling.since for each in settling if each.settling is not None)
        until = _first(each.settling.until for each in settling if each.settling is not None)
        reason = f"channels {list(numbers)} end or change their mode when what they published is confirmed"
        yield Wait(reason, numbers, since, until)


def _of_queues(session: Session) -> Iterator[Wait]:
    away = session.cancellations.waiting
    if away:
        since = session.cancellations.since
        reason = f"consumers are paused until their queues are within reach: {', '.join(away)}"
        yield Wait(reason, (), since, session.cancellations.until)
    if session.unrouted.count:
        since = session.unrouted.since
        reason = f"no queue takes {session.unrouted.count} publishes while a broker is down"
        yield Wait(reason, (), since, session.unrouted.until)


def _of_brokers(session: Session) -> Iterator[Wait]:
    blocked = [uplink.blocked_at for uplink in session.journal.uplinks if uplink.blocked]
    if blocked:
        yield Wait("the broker has an alarm and blocks publishers", (), min(blocked))


def _of_pace(session: Session) -> Iterator[Wait]:
    """Who is not read. It lasts for as long as the other side needs: that is what backpressure is."""
    pulse = session.pulse
    if pulse.client_left_at is not None:
        reason = "the client has closed its connection, and cannot be read to its last word"
        yield Wait(reason, (), pulse.client_left_at, pulse.client_left_until)
    if not pulse.reading and session.journal.share_bytes is not None:
        reason = "all clients together fill listen.retained_bytes_max: this one goes on when less is kept for it"
        yield Wait(reason, (), pulse.client_heard_at)
    elif not pulse.reading:
        reason = "the broker has not confirmed what fills the memory that a session may use"
        yield Wait(reason, (), pulse.client_heard_at)
    if pulse.client_unread_at is not None:
        yield Wait("the client is not read until its broker takes what was sent to it", (), pulse.client_unread_at)
    if pulse.broker_unread_at is not None:
        yield Wait("the broker is not read until its client takes what was sent to it", (), pulse.broker_unread_at)


def _of_answers(session: Session) -> Iterator[Wait]:
    """What is under way at every moment, and matters only if it stays so: how long is the broker's affair."""
    channels = session.journal.live_channels()
    asking = _numbers(each for each in channels if each.pending and not each.hidden_pending)
    if asking:
        yield Wait(f"the broker has not answered what was asked on channels {list(asking)}", asking)
    unconfirmed = [each for each in channels if each.ledger.unsettled > int(each.ledger.unfinished)]
    timed, since = session.stopwatch.channel, session.stopwatch.since
    yield from _unconfirmed([each for each in unconfirmed if each is timed], since)
    yield from _unconfirmed([each for each in unconfirmed if each is not timed], None)


def _unconfirmed(channels: list[Channel], since: float | None) -> Iterator[Wait]:
    if channels:
        numbers = _numbers(channels)
        yield Wait(f"the broker has not confirmed what was published on channels {list(numbers)}", numbers, since)


def _numbers(channels: Iterable[Channel]) -> tuple[int, ...]:
    return tuple(channel.number for channel in channels)


def _first(times: Iterable[float | None]) -> float | None:
    return min((at for at in times if at is not None), default=None)
