"""Is one endpoint well? What sessions and probes saw becomes a state, and the state says what to probe next. Pure.

The table of the machine is in docs/BALANCING.md. The idea: sessions are the best sentinels, so what happens to them
counts first; probes settle a suspicion quickly and lead the way back. A hung broker still accepts TCP, so an endpoint
that left because it did not answer comes back only through an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

from proxy.errors import ConfigError

HealthState = Literal["up", "suspect", "down", "ejected"]
ProbeKind = Literal["connect", "greeting", "handshake"]
Outcome = Literal[
    "connected",
    "handshaken",
    "confirmed",
    "connect_failed",
    "handshake_failed",
    "heartbeat_missed",
    "forced_close",
    "lost",
    "failover_failed",
]

_CAUSES: dict[Outcome, str] = {
    "connect_failed": "a connection attempt failed",
    "handshake_failed": "a handshake failed or timed out",
    "heartbeat_missed": "a session missed its heartbeats",
    "forced_close": "the broker closed a session",
    "lost": "a session's connection was lost",
    "failover_failed": "a session could not be set up on it",
}
_UNREACHED = "no probe or session has reached it yet"
_DOWN_BACKOFF = 1.2


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When an endpoint is well. Counts are consecutive, times are seconds.

    `rise`/`fall`: probes that must pass before an endpoint that is down is tried for good; failures that put it down.
    `interval_s` between probes of a well endpoint; `down_interval_s`, growing to `down_interval_max_s`, of one that is
    down. All are varied by up to `jitter_percent` either way. `timeout_s` bounds one probe.
    Without credentials nothing but a session can prove that an endpoint is back: one at a time may try it.
    `eject_*`: repeated failures to set up sessions keep an endpoint out for `eject_base_s`, doubled each time up to
    `eject_max_s`, of at most `eject_max_percent` of the endpoints and never the last well one.
    `user`, `password`, `vhost`: for handshake probes, none are made without a user. `http_port` (0 = off): also ask the
    management API at `http_path`, where `{port}` stands for the endpoint's AMQP port.
    """

    rise: int = 2
    fall: int = 3
    timeout_s: float = 3.0
    interval_s: float = 10.0
    down_interval_s: float = 1.0
    down_interval_max_s: float = 5.0
    jitter_percent: int = 20
    eject_base_s: float = 5.0
    eject_max_s: float = 300.0
    eject_max_percent: int = 50
    user: str = ""
    password: str = field(default="", repr=False)
    vhost: str = "/"
    http_port: int = 0
    http_path: str = "/api/health/checks/port-listener/{port}"
    http_tls: bool = False

    def __post_init__(self) -> None:
        _need(self.rise >= 1 and self.fall >= 1, "rise and health.fall must be at least 1")
        _need(self.timeout_s > 0, "timeout_s must be above 0")
        _need(self.interval_s >= 0.1, "interval_s must be at least 0.1")
        _need(
            0.1 <= self.down_interval_s <= self.down_interval_max_s,
            "down_interval_s must be at least 0.1 and at most health.down_interval_max_s",
        )
        _need(0 <= self.jitter_percent <= 50, "jitter_percent must be 0 to 50")
        _need(0 < self.eject_base_s <= self.eject_max_s, "eject_base_s must be above 0 and at most health.eject_max_s")
        _need(0 <= self.eject_max_percent <= 100, "eject_max_percent must be 0 (never eject) to 100")
        _need(bool(self.user) or not self.password, "password needs health.user")
        _need(len(self.vhost.encode()) <= 255, "vhost must be at most 255 bytes (AMQP 0-9-1 4.2.5.3)")
        _need(0 <= self.http_port <= 65535, "http_port must be 0 (off) to 65535")
        _need(not self.http_port or bool(self.user), "http_port needs health.user, the management API asks for one")
        _need(self.http_path.startswith("/"), "http_path must start with /")
        # Alarms are cluster-wide: such a check would take all endpoints away at once and gain nothing.
        _need("alarms" not in self.http_path, "http_path must not be an alarm check, an alarm is no reason to leave")
        _need(not set(self.http_path) & set(" \r\n"), "http_path must not contain spaces or line ends")


class Health:
    """The state machine of one endpoint. The pool owns it and tells it what happened.

    `since_s` is when the state began. `returned_at_s` is when the endpoint last came (back) into use, None for one
    that was there from the start: slow start ramps from it. `dead` is True once a probe confirmed that it is down.
    `reached` is True once anything got through to it: before that, `up` is only what is hoped for.
    `turn` names the present state's stretch, so that the result of a probe from before is recognised.
    """

    def __init__(self, policy: HealthPolicy, rng: Random, now: float, *, returned: bool) -> None:
        self._policy = policy
        self._rng = rng
        self.state: HealthState = "up"
        self.cause = _UNREACHED
        self.since_s = now
        self.returned_at_s: float | None = now if returned else None
        self.dead = self.reached = False
        self.turn = 0
        self.ejections = 0
        # At the start nothing is ready before the first look. At what comes later, many processes look at a time.
        self.next_probe_at_s = now + (rng.random() * policy.down_interval_s if returned else 0.0)
        self._failures = 0
        self._successes = 0
        self._attach_failures = 0
        self._backoff = 0
        self._silent = False
        self._lost = False
        self._login_refused = False
        self._probation = False
        self._trial_until_s = 0.0
        self._ejected_until_s = 0.0
        self._eject_doublings = 0
        self._ejection_ended_s = now

    def preferred(self, now: float) -> bool:
        """Whether it may be picked like any well endpoint: it is up, or on probation and no session is trying it."""
        return self.state == "up" or (self._probation and now >= self._trial_until_s)

    def probe_soon(self, now: float) -> None:
        """Have it probed now instead of later."""
        self.next_probe_at_s = min(self.next_probe_at_s, now)

    def unwell(self, now: float, recent_s: float) -> bool:
        """Whether it is not up, or is back for less than `recent_s`. Probation may last: nobody need come to end it."""
        back_s = self.since_s if self._probation else self.returned_at_s if self.state == "up" else now
        return back_s is not None and now - back_s < recent_s

    @property
    def reserve(self) -> bool:
        """Whether it may be picked when no preferred endpoint is left."""
        return self.state == "suspect" and not self._probation

    @property
    def ejectable(self) -> bool:
        """Whether sessions failed on it so often that the pool should eject it if it can afford to."""
        return self.state in ("up", "suspect") and self._attach_failures >= self._policy.fall

    @property
    def probe_kind(self) -> ProbeKind:
        """What the next probe must do to say something new. Only an answer clears one that was silent."""
        proof: ProbeKind = "handshake" if self._policy.user and not self._login_refused else "greeting"
        if self.state == "down":
            return proof if self._successes >= self._policy.rise else "connect"
        if self.state == "ejected":
            return "handshake" if proof == "handshake" else "connect"
        return proof if self.state == "suspect" and self._silent and not self._probation else "connect"

    def picked(self, now: float) -> None:
        """A session was given this endpoint: on probation, others wait for what becomes of it."""
        if self._probation:
            # Longer than any handshake takes; only a session that vanished without a word keeps it that long.
            self._trial_until_s = now + max(15.0, self._policy.timeout_s)

    def attached(self) -> None:
        """A session was set up completely."""
        self._attach_failures = 0

    def observe(self, outcome: Outcome, now: float) -> None:
        """Take what happened to a session. A client's own mistakes (password, vhost) do not belong here."""
        match outcome:
            case "connected":
                self._reach()
            case "confirmed":
                self._failures = 0
            case "handshaken":
                self._reach()
                # An ejected endpoint answers handshakes: it is ejected because of what comes after them.
                if self.state in ("suspect", "down"):
                    self._recover(now, "a session's handshake succeeded")
                self._failures = 0
            case "heartbeat_missed" | "forced_close":
                self._silent |= outcome == "heartbeat_missed"
                self._fall(now, _CAUSES[outcome])
            case "handshake_failed":
                self._attach_failures += 1
                self._silent = True
                self._soft_failure(now, _CAUSES[outcome], hard=False)
            case "failover_failed":
                # It answers, so it is not down: that its sessions fail is what ejection is for.
                self._attach_failures += 1
                if self.state == "up":
                    self._enter("suspect", now, _CAUSES[outcome])
            case "connect_failed":
                self._soft_failure(now, _CAUSES[outcome], hard=self._lost)
            case "lost":
                self._soft_failure(now, _CAUSES[outcome], hard=False)
                self._lost = True

    def probed(self, kind: ProbeKind, turn: int, ok: bool | None, now: float, detail: str) -> None:
        """Take the result of a probe; None means that it says nothing about the broker (its login was refused)."""
        # A result from an earlier stretch says nothing about this one, which has a probe of its own scheduled.
        if turn == self.turn:
            if ok is None:
                self._login_refused |= kind == "handshake"
            elif ok:
                self._probe_passed(kind, now)
            else:
                self._probe_failed(now, detail)
            self._schedule(now)

    def eject(self, now: float) -> None:
        """Keep it out for a time that doubles with every ejection, until it was well for `eject_max_s` in between."""
        policy = self._policy
        if now - self._ejection_ended_s > policy.eject_max_s:
            self._eject_doublings = 0
        span_s = min(policy.eject_max_s, policy.eject_base_s * 2.0**self._eject_doublings)
        self._eject_doublings = min(self._eject_doublings + 1, 30)
        self.ejections += 1
        self._ejected_until_s = now + min(policy.eject_max_s, span_s * self._jitter())
        self._enter("ejected", now, f"{self._attach_failures} sessions in a row could not be set up on it")
        self._attach_failures = 0

    def end_ejection(self, now: float, cause: str) -> None:
        """Let an ejected endpoint back in."""
        self._ejection_ended_s = now
        self._recover(now, cause)

    def refresh(self, now: float) -> None:
        """Let time pass: an ejection ends by itself."""
        if self.state == "ejected" and now >= self._ejected_until_s:
            self.end_ejection(now, "the ejection is over")

    def _reach(self) -> None:
        if not self.reached and self.state == "up":
            self.cause = ""
        self.reached = True

    def _probe_passed(self, kind: ProbeKind, now: float) -> None:
        self._reach()
        self._failures = 0
        self._successes += 1
        # A hung broker lets every bare connection pass: that must not have it asked for an answer ever so often.
        if not self._silent:
            self._backoff = 0
        proven = kind == "handshake"
        if self.state == "suspect":
            answered = kind == "greeting" or (not self._silent and self._successes >= self._policy.rise)
            # What was down is up after one full handshake and not before: a port that listens proves little.
            if proven or (answered and not self._probation):
                self._recover(now, "probes pass")
        elif self.state == "ejected" and proven:
            self.end_ejection(now, "a handshake probe passed")
        elif self.state == "down":
            if proven:
                self._recover(now, "a handshake probe passed")
            elif kind == "greeting" or (self._unprovable and self._successes >= self._policy.rise):
                self._enter("suspect", now, "back, and on probation until a session has tried it")
                self._probation = True

    @property
    def _unprovable(self) -> bool:
        """Whether TCP is all we can ask for: it was not silent, and there is no login for a handshake."""
        return not self._silent and (not self._policy.user or self._login_refused)

    def _probe_failed(self, now: float, detail: str) -> None:
        self._successes = 0
        if self.state == "down":
            self._backoff += 1
            self.cause = detail
        else:
            self._soft_failure(now, detail, hard=self._lost)
        self.dead |= self.state == "down"

    def _soft_failure(self, now: float, cause: str, *, hard: bool) -> None:
        self._successes = 0
        self._failures += 1
        if self.state == "down":
            return
        if hard or self._probation or self._failures >= self._policy.fall:
            self._fall(now, cause)
        elif self.state == "up":
            self._enter("suspect", now, cause)

    def _fall(self, now: float, cause: str) -> None:
        self._attach_failures = 0
        if self.state != "down":
            self._login_refused = False
            self._enter("down", now, cause)

    def _recover(self, now: float, cause: str) -> None:
        if self.state != "suspect" or self._probation:
            self.returned_at_s = now
        self._silent = self._lost = False
        self._failures = 0
        self._enter("up", now, cause)

    def _enter(self, state: HealthState, now: float, cause: str) -> None:
        self.state, self.cause, self.since_s = state, cause, now
        self.turn += 1
        self.dead = self._probation = False
        self._trial_until_s = 0.0
        self._successes = self._backoff = 0
        self._schedule(now)
        if state == "suspect":
            self.next_probe_at_s = now

    def _schedule(self, now: float) -> None:
        policy = self._policy
        if self.state in ("up", "ejected") or self._probation:
            delay_s = policy.interval_s
        elif self.state == "down" and self._successes >= policy.rise:
            delay_s = 0.0
        else:
            delay_s = min(policy.down_interval_max_s, policy.down_interval_s * _DOWN_BACKOFF ** min(self._backoff, 100))
        self.next_probe_at_s = now + delay_s * self._jitter()

    def _jitter(self) -> float:
        share = self._policy.jitter_percent / 100
        return self._rng.uniform(1 - share, 1 + share)


def _need(fact: bool, text: str) -> None:
    if not fact:
        raise ConfigError(f"health.{text}")
