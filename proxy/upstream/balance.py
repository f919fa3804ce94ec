"""Which of several eligible endpoints gets the next session. Pure: the random source and the time are arguments.

The pool decides who is eligible (state, priority tier, zone) and hands over candidates; a balancer only chooses among
them. Each policy is described with its steps, formula and trade-off in docs/BALANCING.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random as Rng
from typing import Literal, Protocol

from proxy.errors import ConfigError

HashKey = Literal["vhost", "user", "name"]
ENTRY_POINT_GROUP = "sidehop.balancers"


@dataclass(frozen=True, slots=True)
class BalancePolicy:
    """How the next session finds its endpoint.

    `policy` names a built-in or an entry point of the group `sidehop.balancers`; it is looked up by `load_balancer`.
    `hash_key` says what `consistent_hash` hashes: the vhost, the user or the connection name the client gave itself.
    """

    policy: str = "p2c"
    hash_key: HashKey = "user"

    def __post_init__(self) -> None:
        if self.hash_key not in ("vhost", "user", "name"):
            raise ConfigError(f"balance.hash_key must be vhost, user or name, not {self.hash_key!r}")


@dataclass(frozen=True, slots=True)
class PickContext:
    """What is known of the client when its session looks for an endpoint."""

    vhost: str = ""
    user: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint that may be picked.

    `weight` is the effective one, above 0, slow start included. `sessions` counts attachments under way too.
    `ewma_s` is the peak EWMA of its response times in seconds, None while nothing was measured.
    """

    name: str
    weight: float = 100.0
    sessions: int = 0
    ewma_s: float | None = None

    @property
    def load(self) -> float:
        """Sessions per weight once the next session is there; the 1 lets weights count among idle endpoints."""
        return (self.sessions + 1) / self.weight


class Balancer(Protocol):
    """A balancing policy. Third parties offer one as an entry point in the group `sidehop.balancers`.

    It is constructed as `factory(policy: BalancePolicy, rng: random.Random)`. One that chooses by `context.vhost` sets
    an attribute `places_by_vhost = True`: a new client's vhost is known only after its login, so the login then takes
    place twice, the second time where the vhost belongs.
    """

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return one of `candidates`, which are never empty, have distinct names and come in discovery order."""
        ...


class RoundRobin:
    """Each endpoint in turn, in the order of their names, from a random start.

    It remembers the name it gave last, not an index, so endpoints that come or go do not shift the turns of others.
    """

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng
        self._last: str | None = None

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return the candidate whose name follows the last one."""
        if self._last is None:
            chosen = self._rng.choice(candidates)
        else:
            last = self._last
            chosen = min(candidates, key=lambda each: (each.name <= last, each.name))
        self._last = chosen.name
        return chosen


class Random:
    """Any endpoint, with a probability in proportion to its weight."""

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return a random candidate."""
        return _weighted(candidates, self._rng)


class WeightedRoundRobin:
    """Each endpoint in turn as often as its weight says, the turns of a heavy one spread out (nginx's smooth rule).

    Credits start at random, since many sidecars that start together would otherwise all begin with the heaviest.
    """

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng
        self._credits: dict[str, float] = {}

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Raise every credit by its weight, return the richest and let it pay the sum."""
        # Credits of absent endpoints are kept, since most absences are short, but not without end.
        if len(self._credits) > 2 * len(candidates) + 64:
            names = {each.name for each in candidates}
            self._credits = {name: credit for name, credit in self._credits.items() if name in names}
        total = 0.0
        for each in candidates:
            credit = self._credits.get(each.name)
            self._credits[each.name] = each.weight + (self._rng.random() * each.weight if credit is None else credit)
            total += each.weight
        chosen = max(candidates, key=lambda each: self._credits[each.name])
        self._credits[chosen.name] -= total
        return chosen


class LeastConnections:
    """The endpoint with the fewest sessions per weight; a random one of those that are equal."""

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return a least loaded candidate."""
        return _least(candidates, lambda each: each.load, self._rng)


class LeastResponseTime:
    """The endpoint with the least peak EWMA of response times, multiplied by its sessions per weight.

    An endpoint without a measurement counts as fast as the fastest, so that it is tried. Source: Finagle, PeakEwma.
    """

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return a candidate of least cost."""
        fastest_s = min((each.ewma_s for each in candidates if each.ewma_s), default=1.0)
        return _least(candidates, lambda each: (each.ewma_s or fastest_s) * each.load, self._rng)


class PowerOfTwoChoices:
    """The less loaded of two endpoints that were drawn at random by weight.

    Sidecars do not see each other's sessions: the draw keeps them from all choosing the same endpoint at once.
    """

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Draw two different candidates and return the one with fewer sessions per weight, the first if equal."""
        one = _weighted(candidates, self._rng)
        others = [each for each in candidates if each is not one]
        if not others:
            return one
        two = _weighted(others, self._rng)
        return one if one.load <= two.load else two


class ConsistentHash:
    """The same endpoint for the same key, as long as it is there (weighted rendezvous hashing).

    Every sidecar computes the same answer without state. Clients that give no key are spread at random, since one
    empty key for all would send them all to one endpoint.
    """

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        self._rng = rng
        self._hash_key = policy.hash_key
        self.places_by_vhost = policy.hash_key == "vhost"

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return the candidate with the highest score for the client's key."""
        # Some broker has to let a client in before it names its vhost; its user decides which.
        key = {"vhost": context.vhost, "user": context.user, "name": context.name}[self._hash_key] or context.user
        if not key:
            return _weighted(candidates, self._rng)
        return max(candidates, key=lambda each: -each.weight / math.log(_unit(key, each.name)))


class First:
    """The first endpoint in discovery order; the others are only its reserves."""

    def __init__(self, policy: BalancePolicy, rng: Rng) -> None:
        pass

    def pick(self, candidates: Sequence[Candidate], context: PickContext, now: float) -> Candidate:
        """Return the first candidate."""
        return candidates[0]


_BUILT_IN: dict[str, Callable[[BalancePolicy, Rng], Balancer]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "weighted_round_robin": WeightedRoundRobin,
    "least_connections": LeastConnections,
    "least_response_time": LeastResponseTime,
    "p2c": PowerOfTwoChoices,
    "consistent_hash": ConsistentHash,
    "first": First,
}


def load_balancer(name: str, policy: BalancePolicy, rng: Rng) -> Balancer:
    """Make the balancer called `name`: a built-in, or else a third party's entry point. Raises ConfigError."""
    if name in _BUILT_IN:
        return _BUILT_IN[name](policy, rng)
    from importlib.metadata import entry_points  # here, since it takes 2 MiB and the built-in ones don't need it

    offered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in offered:
        known = ", ".join(sorted(_BUILT_IN.keys() | offered.keys()))
        raise ConfigError(f"balance.policy: {name!r} is unknown, there are: {known}")
    try:
        factory: Callable[[BalancePolicy, Rng], Balancer] = offered[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"balance.policy: {name!r} cannot be loaded: {error}") from error
    return factory(policy, rng)


class PeakEwma:
    """A moving average that jumps up at once and comes down slowly. Seconds in, seconds out.

    Without news it decays to 0, so that an endpoint that was slow once is tried again. Source: Finagle, PeakEwma.
    """

    __slots__ = ("_at_s", "_value_s")
    DECAY_S = 10.0

    def __init__(self) -> None:
        self._value_s = 0.0
        self._at_s = 0.0

    def observe(self, value_s: float, now: float) -> None:
        """Take one measurement."""
        if value_s >= self._value_s:
            self._value_s = value_s
        else:
            kept = self._kept(now)
            self._value_s = self._value_s * kept + value_s * (1 - kept)
        self._at_s = now

    def read(self, now: float) -> float:
        """Return the average as of now; 0 before the first measurement."""
        return self._value_s * self._kept(now)

    def _kept(self, now: float) -> float:
        return math.exp(min(0.0, self._at_s - now) / self.DECAY_S)


def _weighted(candidates: Sequence[Candidate], rng: Rng) -> Candidate:
    return rng.choices(candidates, [each.weight for each in candidates])[0]


def _least(candidates: Sequence[Candidate], cost: Callable[[Candidate], float], rng: Rng) -> Candidate:
    costs = [cost(each) for each in candidates]
    least = min(costs)
    return rng.choice([each for each, its in zip(candidates, costs, strict=True) if its == least])


def _unit(key: str, name: str) -> float:
    """Hash to a number strictly between 0 and 1, the same in every process (unlike `hash`)."""
    # A client may call itself by bytes that are no text: they must not be an error here.
    digest = blake2b(f"{key}\0{name}".encode(errors="backslashreplace"), digest_size=7).digest()
    # 53 bits, which a float holds exactly: rounding up to 1.0 would divide by log(1) = 0.
    return ((int.from_bytes(digest) >> 3) + 0.5) / 2**53
