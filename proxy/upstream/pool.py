"""Which endpoints there are, how well they are, and which one a session gets. Pure: `now` is monotonic seconds.

The pool joins three things: what discovery says (whole snapshots, diffed here), what health says (one `Health` per
endpoint) and how many sessions each endpoint has. How they combine is a table in docs/BALANCING.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from random import Random

from proxy.errors import ConfigError
from proxy.reports import Report, ReportSink
from proxy.upstream.balance import Balancer, Candidate, PeakEwma, PickContext
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import Health, HealthPolicy, Outcome
from proxy.upstream.member import EndpointView, Member, Probe

DownCallback = Callable[[str, str], None]
WithdrawnCallback = Callable[[str, bool], None]

# How long after an endpoint's return the cluster may still be finding itself (leader elections, recovering replicas).
RECENT_S = 30.0
_ATTACH_FAILURES: frozenset[Outcome] = frozenset({"handshake_failed", "failover_failed"})
_TIMED: frozenset[Outcome] = frozenset({"connected", "handshaken", "confirmed"})


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """What an eligible endpoint is.

    `zone` is our own ("" = none); its endpoints go first inside their priority tier. While fewer than
    `panic_threshold_percent` of the endpoints are well, health is ignored (0 = never). A returning endpoint gets its
    full weight after `slow_start_s` (0 = at once).
    """

    zone: str = ""
    panic_threshold_percent: int = 20
    slow_start_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.panic_threshold_percent <= 100:
            raise ConfigError("balance.panic_threshold_percent must be 0 (never) to 100")
        if self.slow_start_s < 0:
            raise ConfigError("balance.slow_start_s must be 0 (off) or more")


class Pool:
    """All endpoints that discovery named and that are still of use. One per process; not thread-safe.

    `report` gets endpoint events; `on_down` and `on_due` callbacks run at the end of the call that caused them.
    """

    def __init__(
        self, policy: PoolPolicy, health_policy: HealthPolicy, balancer: Balancer, rng: Random, report: ReportSink
    ) -> None:
        self._policy = policy
        self._health_policy = health_policy
        self._balancer = balancer
        self._rng = rng
        self._report = report
        self._members: dict[str, Member] = {}
        # By name and apart from the members: sessions may outlive the knowledge of their endpoint.
        self._sessions: Counter[str] = Counter()
        self._attaching: Counter[str] = Counter()
        self._on_down: list[DownCallback] = []
        self._on_due: list[Callable[[], None]] = []
        self._on_withdrawn: list[WithdrawnCallback] = []
        self._downs: list[tuple[str, str]] = []
        self._turns: list[tuple[str, bool]] = []
        self._due_told_s: float | None = None
        self._started = False
        self._panicking = False

    # What discovery says.

    def apply(self, snapshot: Snapshot, now: float) -> None:
        """Take a whole answer of discovery. An empty one changes nothing."""
        if not snapshot.endpoints:
            return
        named = {endpoint.name: endpoint for endpoint in snapshot.endpoints}
        members = {name: self._named(endpoint, now) for name, endpoint in named.items()}
        for name, member in self._members.items():
            if name not in named:
                if member.in_discovery and not member.withdrawn:
                    member.withdrawn_at_s = now
                member.in_discovery = False
                members[name] = member
        self._members = members
        self._started = True
        self._restore_ejection_cap(now)
        self._settle(now)

    def _named(self, endpoint: Endpoint, now: float) -> Member:
        member = self._members.get(endpoint.name)
        if member is None:
            member = Member(endpoint, self._new_health(now))
            if endpoint.intent == "drain":
                member.withdrawn_at_s = now
                member.reported = "draining"
            self._say("endpoint_added", endpoint, address=endpoint.address, intent=endpoint.intent)
            return member
        before, was_withdrawn = member.endpoint, member.withdrawn
        changed = [each.name for each in fields(Endpoint) if getattr(before, each.name) != getattr(endpoint, each.name)]
        if not member.in_discovery:
            changed.append("in_discovery")
        if not changed:
            return member
        member.endpoint, member.in_discovery = endpoint, True
        if (before.address, before.tls) != (endpoint.address, endpoint.tls):
            # Another address is another process: nothing that was learned holds.
            member.health = self._new_health(now)
            member.times.clear()
        if was_withdrawn and not member.withdrawn:
            member.health.returned_at_s = now
        elif member.withdrawn and not was_withdrawn:
            member.withdrawn_at_s = now
        self._say("endpoint_changed", endpoint, address=endpoint.address, changed=changed)
        return member

    def _new_health(self, now: float) -> Health:
        return Health(self._health_policy, self._rng, now, returned=self._started)

    # What sessions ask and tell.

    def pick(self, now: float, context: PickContext, avoid: frozenset[str] = frozenset()) -> Endpoint | None:
        """Choose the endpoint of the next session; None when none is of use.

        `avoid` names endpoints already tried in this failover: they are chosen only if nothing else is left.
        """
        self._let_pass(now)
        eligible = self._eligible(now, avoid)
        if not eligible:
            return None
        candidates = [self._candidate(member, now) for member in eligible]
        member = self._members[self._balancer.pick(candidates, context, now).name]
        member.health.picked(now)
        return member.endpoint

    @property
    def places_by_vhost(self) -> bool:
        """Whether a client's vhost decides which endpoint it gets; balancers say so by an attribute of that name."""
        return getattr(self._balancer, "places_by_vhost", False)

    def withdrawn(self, name: str) -> bool:
        """Whether sessions are to leave an endpoint: discovery drains it or names it no more."""
        member = self._members.get(name)
        return member is not None and member.withdrawn

    def takes(self, name: str, now: float, avoid: frozenset[str] = frozenset()) -> bool:
        """Whether `pick` could still choose an endpoint: for who had to wait after it was picked."""
        self._settle(now)
        return any(member.endpoint.name == name for member in self._eligible(now, avoid))

    def attaching(self, name: str) -> None:
        """A session began to attach to the endpoint; it counts as load until `attach_ended`."""
        self._attaching[name] += 1

    def attach_ended(self, name: str) -> None:
        """An attachment begun with `attaching` is over, well or not."""
        _take_one(self._attaching, name)

    def attached(self, name: str) -> None:
        """A session was set up on the endpoint completely."""
        self._sessions[name] += 1
        if member := self._members.get(name):
            member.health.attached()

    def detached(self, name: str) -> None:
        """A session left the endpoint."""
        _take_one(self._sessions, name)
        if (member := self._members.get(name)) and self._over(member):
            self._forget(member)

    def observe(self, name: str, outcome: Outcome, now: float, value_s: float = 0.0) -> None:
        """Learn what happened to a session at the endpoint.

        `value_s` is how long it took, for `connected`, `handshaken` and `confirmed`. What a client did wrong itself
        (password, vhost, permissions) is no outcome. Cheap when all is well, so every confirm may be told.
        """
        member = self._members.get(name)
        if member is None:
            return
        if outcome in _TIMED:
            ewma = member.times.get(outcome) or member.times.setdefault(outcome, PeakEwma())
            ewma.observe(value_s, now)
        turn, due_s = member.health.turn, member.health.next_probe_at_s
        member.health.observe(outcome, now)
        failed = outcome in _ATTACH_FAILURES
        if failed and member.health.ejectable and not member.withdrawn and self._may_eject(member):
            member.health.eject(now)
        if (turn, due_s) != (member.health.turn, member.health.next_probe_at_s):
            self._settle(now)

    def on_down(self, callback: DownCallback) -> None:
        """Have `callback(name, cause)` called when a probe found an endpoint dead, or a dead one is forgotten.

        The driver then fails its sessions over. What sessions saw themselves calls nobody: the others on that
        endpoint may be fine. Draining calls nobody either.
        """
        self._on_down.append(callback)

    def on_withdrawn(self, callback: WithdrawnCallback) -> None:
        """Have `callback(name, withdrawn)` called when sessions are to leave an endpoint, or may stay after all."""
        self._on_withdrawn.append(callback)

    # What others look at.

    def knows(self, name: str) -> bool:
        """Whether discovery names the endpoint, or sessions are still there and it is not down."""
        return name in self._members

    def degraded(self, now: float) -> bool:
        """Whether some endpoint is not up or is back for less than `RECENT_S`: odd replies are to be expected."""
        self._let_pass(now)
        return any(member.withdrawn or member.health.unwell(now, RECENT_S) for member in self._members.values())

    def usable(self, now: float) -> int:
        """Count the endpoints that are well, were reached and take new sessions; panic does not raise it."""
        self._settle(now)
        return sum(member.usable for member in self._members.values())

    def panicking(self) -> bool:
        """Whether health is ignored at present because too few endpoints are well."""
        return self._panicking

    def views(self, now: float) -> list[EndpointView]:
        """Describe every endpoint, in discovery order."""
        self._settle(now)
        return [member.view(self._sessions[name], now) for name, member in self._members.items()]

    # What the prober does.

    def probes_due(self, now: float) -> list[Probe]:
        """Hand out the probes to make now. Each endpoint has at most one under way, until `probed` is called."""
        self._settle(now)
        due = []
        for member in self._members.values():
            if member.probing is None and member.health.next_probe_at_s <= now:
                member.probing = Probe(member.endpoint, member.health.probe_kind, member.health.turn)
                due.append(member.probing)
        self._due_told_s = self.next_probe_at(now)
        return due

    def probed(self, probe: Probe, ok: bool | None, now: float, detail: str = "") -> None:
        """Take the result of a probe. None: it says nothing about the broker, as when our login was refused."""
        member = self._members.get(probe.endpoint.name)
        if member is None or member.probing is not probe:
            return
        member.probing = None
        member.probes_ok += ok is True
        member.probes_failed += ok is False
        if probe.endpoint.address == member.endpoint.address:
            member.health.probed(probe.kind, probe.turn, ok, now, detail)
        self._settle(now)

    def next_probe_at(self, now: float) -> float | None:
        """Return when the next probe is due (in the past if it is overdue), None while there is nothing to wait for."""
        waiting = (member.health.next_probe_at_s for member in self._members.values() if member.probing is None)
        return min(waiting, default=None)

    def look_around(self, now: float) -> None:
        """Probe every endpoint as soon as possible: a session has met what a well cluster does not do."""
        for member in self._members.values():
            member.health.probe_soon(now)
        self._settle(now)

    def on_due(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called whenever `next_probe_at` has changed, so that the prober need not poll."""
        self._on_due.append(callback)

    # How it decides.

    def _eligible(self, now: float, avoid: frozenset[str]) -> list[Member]:
        offered = [member for member in self._members.values() if not member.withdrawn]
        if self._panicking:
            preferred, reserve = offered, []
        else:
            preferred = [member for member in offered if member.health.preferred(now)]
            reserve = [member for member in offered if member.health.reserve]
        ranks = (preferred, reserve)
        untried = ([member for member in rank if member.endpoint.name not in avoid] for rank in ranks)
        return next((self._best_tier(rank) for rank in (*untried, *ranks) if rank), [])

    def _best_tier(self, members: list[Member]) -> list[Member]:
        first = min(member.endpoint.priority for member in members)
        tier = [member for member in members if member.endpoint.priority == first]
        own = [member for member in tier if self._policy.zone and member.endpoint.zone == self._policy.zone]
        return own or tier

    def _candidate(self, member: Member, now: float) -> Candidate:
        name = member.endpoint.name
        return Candidate(
            name=name,
            weight=member.weight(now, self._policy.slow_start_s),
            sessions=self._sessions[name] + self._attaching[name],
            ewma_s=member.ewma_s(now),
        )

    def _may_eject(self, member: Member) -> bool:
        others = [each for each in self._members.values() if each is not member and not each.withdrawn]
        ejected = sum(each.health.state == "ejected" for each in others)
        return ejected < self._ejections_max() and any(each.well for each in others)

    def _ejections_max(self) -> int:
        offered = sum(not member.withdrawn for member in self._members.values())
        return offered * self._health_policy.eject_max_percent // 100

    def _restore_ejection_cap(self, now: float) -> None:
        ejected = [each for each in self._members.values() if each.health.state == "ejected" and not each.withdrawn]
        ejected.sort(key=lambda member: member.health.since_s)
        for member in ejected[: max(0, len(ejected) - self._ejections_max())]:
            member.health.end_ejection(now, "too many would be ejected")

    # What follows from a change.

    def _let_pass(self, now: float) -> None:
        """Settle what time alone may have changed: what is told settles itself, and sessions ask often."""
        if any(member.restless for member in self._members.values()):
            self._settle(now)

    def _settle(self, now: float) -> None:
        """Make everything that depends on states true again, then tell those who asked."""
        members = list(self._members.values())
        for member in members:
            member.health.refresh(now)
        offered = [member for member in members if not member.withdrawn]
        if offered and not any(member.well for member in offered):
            for member in offered:
                if member.health.state == "ejected":
                    member.health.end_ejection(now, "no other endpoint is left")
        for member in members:
            self._report_state(member)
            if self._over(member):
                self._forget(member)
        self._review_panic(offered)
        self._call_back(now)

    def _report_state(self, member: Member) -> None:
        if member.state != member.reported:
            self._say("endpoint_state", member.endpoint, state=member.state, was=member.reported, reason=member.cause)
            member.reported = member.state
        if member.withdrawn != member.told_withdrawn:
            member.told_withdrawn = member.withdrawn
            self._turns.append((member.endpoint.name, member.withdrawn))
        if member.health.dead and not member.told_down:
            self._downs.append((member.endpoint.name, member.cause))
        member.told_down = member.health.dead

    def _over(self, member: Member) -> bool:
        name = member.endpoint.name
        busy = self._sessions[name] or self._attaching[name]
        return not member.in_discovery and (member.health.state == "down" or not busy)

    def _forget(self, member: Member) -> None:
        name = member.endpoint.name
        del self._members[name]
        self._say("endpoint_removed", member.endpoint, reason=member.cause)
        if self._sessions[name] and not member.told_down:
            self._downs.append((name, "removed from discovery and down"))

    def _review_panic(self, offered: Iterable[Member]) -> None:
        well = [member.well for member in offered]
        panicking = bool(well) and sum(well) * 100 < self._policy.panic_threshold_percent * len(well)
        if panicking != self._panicking:
            self._panicking = panicking
            self._report(Report("pool_panic", {"active": panicking, "well": sum(well), "known": len(well)}))

    def _call_back(self, now: float) -> None:
        downs, self._downs = self._downs, []
        for name, cause in downs:
            for callback in self._on_down:
                callback(name, cause)
        turns, self._turns = self._turns, []
        for name, withdrawn in turns:
            for turn_callback in self._on_withdrawn:
                turn_callback(name, withdrawn)
        due_s = self.next_probe_at(now)
        if due_s != self._due_told_s:
            self._due_told_s = due_s
            for due_callback in self._on_due:
                due_callback()

    def _say(self, event: str, endpoint: Endpoint, **facts: object) -> None:
        self._report(Report(event, {"endpoint": endpoint.name, **facts}))


def _take_one(counts: Counter[str], name: str) -> None:
    # Never below 0, and no entry for an endpoint without sessions: names of pods come and go without end.
    if counts[name] > 1:
        counts[name] -= 1
    else:
        counts.pop(name, None)
