"""Keep the last good answer of a source, whatever the registry does, and say so once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from proxy.reports import Report, ReportSink
from proxy.upstream.discovery.cache import CacheError, SnapshotFile
from proxy.upstream.discovery.source import Source
from proxy.upstream.endpoint import DiscoveryStatus, Rejected, Snapshot

# A registry that comes and goes every second must not fill the log: one line per outage, and not more often than this.
QUIET_S = 30.0
REJECTED_LINES_MAX = 20
# A disk that hangs must not keep the registry from being asked.
LOAD_TIMEOUT_S = 2.0

Publish = Callable[[Snapshot], None]


class Keeper:
    """A `Discovery` around a `Source`.

    An answer without endpoints and a missing answer both leave the last good endpoints in use, with `status.stale`
    set. Good answers are kept on disk; what is there is used if the registry has not answered `cold_start_s` after
    the start, or if its first answer is empty. An answer equal to the one before is not published again.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        report: ReportSink,
        *,
        file: SnapshotFile | None = None,
        cold_start_s: float = 2.0,
    ) -> None:
        self.status = DiscoveryStatus(source=name)
        self._source = source
        self._report = report
        self._file = file
        self._cold_start_s = cold_start_s
        self._publish: Publish = _to_nobody
        self._published: Snapshot | None = None
        self._good: Snapshot | None = None
        self._saved: Snapshot | None = None
        self._unsaved = asyncio.Event()
        self._synced_is_news = True
        self._suffering = ""
        self._told_at: dict[str, float] = {}
        self._rejected: frozenset[Rejected] = frozenset()

    async def run(self, publish: Publish) -> None:
        """Publish every new answer of the source until cancelled."""
        self._publish = publish
        self._saved = await self._load()
        timer = asyncio.get_running_loop().call_later(self._cold_start_s, self._start_cold)
        saver = asyncio.create_task(self._save_answers(), name="discovery snapshot saver")
        try:
            await self._source.run(self._answered, self._failed)
        finally:
            timer.cancel()
            saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saver

    def _answered(self, snapshot: Snapshot) -> None:
        status = self.status
        status.synced_at = asyncio.get_running_loop().time()
        status.revision = snapshot.revision
        self._tell_rejected(snapshot)
        if snapshot.endpoints:
            # The first answer also if it is what was saved: the file then knows how the registry is reached now.
            known = None if self._good is self._saved else self._good
            if known is None or snapshot.endpoints != known.endpoints:
                self._unsaved.set()
            self._good = snapshot
            self._recover(len(snapshot.endpoints))
            self._put(snapshot)
            return
        # An empty prefix is far more often an accident of etcd or of its operators than the end of every broker.
        good = self._good = self._good or self._saved
        self._suffer("discovery_emptied", "the registry names no usable endpoint", kept=good)
        self._put(replace(snapshot, endpoints=good.endpoints) if good else snapshot)

    def _failed(self, reason: str) -> None:
        self.status.errors += 1
        self._suffer("discovery_failed", reason, kept=self._good)

    def _start_cold(self) -> None:
        if self._published is None and self._saved is not None:
            self._good = self._saved
            self._synced_is_news = True
            self.status.stale = True
            self.status.last_error = self.status.last_error or "the registry has not answered yet"
            self.status.revision = self._saved.revision
            self._tell("discovery_restored", endpoints=len(self._saved.endpoints), revision=self._saved.revision)
            self._put(self._saved)

    def _suffer(self, event: str, reason: str, *, kept: Snapshot | None) -> None:
        """An outage begins or goes on: tell it once, unless one of its kind was told a moment ago."""
        self.status.stale = kept is not None
        self.status.last_error = reason
        now = asyncio.get_running_loop().time()
        if event == self._suffering or now - self._told_at.get(event, -QUIET_S) < QUIET_S:
            return
        self._suffering = event
        self._told_at[event] = now
        self._synced_is_news = True
        self._tell(event, reason=reason, endpoints_kept=len(kept.endpoints) if kept else 0)

    def _recover(self, endpoints: int) -> None:
        self.status.stale = False
        self.status.last_error = ""
        self._suffering = ""
        if self._synced_is_news:
            self._synced_is_news = False
            self._tell("discovery_synced", endpoints=endpoints, revision=self.status.revision)

    def _tell_rejected(self, snapshot: Snapshot) -> None:
        rejected = frozenset(snapshot.rejected)
        new = [entry for entry in snapshot.rejected if entry not in self._rejected]
        self._rejected = rejected
        for entry in new[:REJECTED_LINES_MAX]:
            self._tell("discovery_rejected", key=entry.key, reason=entry.reason, rejected=len(rejected))

    def _put(self, snapshot: Snapshot) -> None:
        old = self._published
        if old is None or (old.endpoints, old.rejected) != (snapshot.endpoints, snapshot.rejected):
            self._published = snapshot
            self._publish(snapshot)

    async def _load(self) -> Snapshot | None:
        if self._file is None:
            return None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                return await asyncio.to_thread(self._file.load)
        except CacheError as error:
            self._tell("snapshot_unusable", reason=str(error))
        except TimeoutError:
            self._tell("snapshot_unusable", reason=f"the disk does not answer within {LOAD_TIMEOUT_S:g} s")
        return None

    async def _save_answers(self) -> None:
        """Write the newest good answer; those that came while the disk was slow are skipped."""
        failed = False
        while self._file is not None:
            await self._unsaved.wait()
            self._unsaved.clear()
            assert self._good is not None
            try:
                await asyncio.to_thread(self._file.save, self._good)
                failed = False
            except CacheError as error:
                if not failed:
                    self._tell("snapshot_saved_failed", reason=str(error))
                failed = True

    def _tell(self, event: str, **facts: object) -> None:
        self._report(Report(event, {"source": self.status.source, **facts}))


def _to_nobody(snapshot: Snapshot) -> None:
    del snapshot
