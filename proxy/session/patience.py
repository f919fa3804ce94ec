"""How long an end waits for confirms that only we know of."""

from __future__ import annotations

import math

from proxy.session.policy import SessionPolicy


class Patience:
    """Brief if all brokers are well, else as long as a failover may take.

    That is looked at again when the brief time is over: confirms that do not come are often the first sign of trouble.
    `since` and `until` are monotonic seconds; `at_most` bounds `until`.
    """

    __slots__ = ("_long_until", "since", "until")

    def __init__(self, policy: SessionPolicy, now: float, *, well: bool, at_most: float = math.inf) -> None:
        self.since = now
        self.until = min(now + policy.flush_limit_s(well=well), at_most)
        self._long_until = min(now + policy.flush_limit_s(well=False), at_most)

    def is_over(self, now: float, *, well: bool) -> bool:
        """Whether nothing is waited for any more; if the brief time ends in trouble, the long one has begun with it."""
        if now >= self.until and not well:
            self.until = max(self.until, self._long_until)
        return now >= self.until
