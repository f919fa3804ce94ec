"""Routes that lead nowhere in a cluster that is well, as of an event that nobody wants."""

from __future__ import annotations

from proxy.session.journal import Journal
from proxy.session.stray import Route

# What a well cluster has said of a route is believed for so long.
BELIEF_S = 10.0
ROUTES_MAX = 1024


class Routes:
    """What is known of the routes of one session. Only the latest `ROUTES_MAX` are remembered."""

    __slots__ = ("_believed_until", "_journal")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._believed_until: dict[Route, float] = {}

    def leads_nowhere(self, route: Route) -> bool:
        """What a well cluster has said of a route holds for a while, and only while it is well."""
        journal = self._journal
        return self._believed_until.get(route, 0.0) > journal.now and not journal.troubled(journal.now)

    def believe(self, route: Route) -> None:
        """A cluster that is well has said that no queue takes what goes there."""
        self._believed_until.pop(route, None)
        while len(self._believed_until) >= ROUTES_MAX:
            del self._believed_until[next(iter(self._believed_until))]
        self._believed_until[route] = self._journal.now + BELIEF_S
