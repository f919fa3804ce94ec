"""What a source of endpoints has to do, and what is done for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.upstream.endpoint import Snapshot

Answer = Callable[[Snapshot], None]
Fail = Callable[[str], None]


class Source(Protocol):
    """Ask one kind of registry which brokers there are. All else (last good answer, disk, reports) is the keeper's.

    Third parties offer one as an entry point in the group `sidehop.discoveries`: a callable that takes the mapping
    `discovery.options` and a `random.Random`, and returns a source. It may raise `ConfigError`.
    """

    async def run(self, answer: Answer, fail: Fail) -> None:
        """Watch the registry until cancelled.

        Call `answer` with the whole truth after each successful answer, changed or not; call `fail` with a reason for
        people after each failed attempt, and try again with a back-off. Both return at once. `ConfigError` may be
        raised when no retry can help; any other exception is a bug and ends the process.
        """
        ...
