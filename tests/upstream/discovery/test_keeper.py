"""What is kept, saved and said, whatever a source answers."""

import asyncio
import contextlib
import json
import os
import stat
from pathlib import Path

import pytest

from proxy.upstream.discovery import keeper
from proxy.upstream.discovery.cache import CacheError, SnapshotFile
from proxy.upstream.discovery.keeper import REJECTED_LINES_MAX, Keeper
from proxy.upstream.endpoint import Endpoint, Rejected, Snapshot
from tests.support.following import Following

ONE = Endpoint("mq1", "10.0.0.1", 5672, weight=7, tags={"rack": "a"})
TWO = Endpoint("mq2", "10.0.0.2", 5671, tls=True, intent="drain", server_name="mq2.example.org")


class Script:
    """A source in the hands of a test."""

    async def run(self, answer, fail):
        self.answer, self.fail = answer, fail
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def kept(**options):
    seen, script = Following(), Script()
    seen.discovery = Keeper("script", script, seen.reported, **options)
    task = asyncio.create_task(seen.discovery.run(seen.published))
    await seen.until(lambda: hasattr(script, "answer"))
    try:
        yield seen, script
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def events(seen):
    return [report.event for report in seen.reports]


async def test_an_outage_keeps_the_last_answer_and_is_told_once():
    async with kept() as (seen, script):
        script.answer(Snapshot((ONE, TWO), revision=5))
        for _ in range(3):
            script.fail("connection refused")
        assert seen.names == ["mq1", "mq2"]
        status = seen.discovery.status
        assert (status.stale, status.errors, status.last_error, status.revision) == (True, 3, "connection refused", 5)
        script.answer(Snapshot((ONE,), revision=6))
        assert seen.names == ["mq1"]
        assert (status.stale, status.last_error) == (False, "")
        assert events(seen) == ["discovery_synced", "discovery_failed", "discovery_synced"]


async def test_an_outage_that_comes_and_goes_does_not_fill_the_log():
    async with kept() as (seen, script):
        for _ in range(10):
            script.answer(Snapshot((ONE,)))
            script.fail("flapping")
        assert events(seen) == ["discovery_synced", "discovery_failed", "discovery_synced"]
        assert seen.discovery.status.errors == 10


async def test_an_empty_answer_keeps_the_last_one():
    async with kept() as (seen, script):
        script.answer(Snapshot((ONE,)))
        script.answer(Snapshot((), (Rejected("mq1", "nonsense"),), revision=7))
        script.answer(Snapshot((), revision=8))
        assert seen.names == ["mq1"]
        status = seen.discovery.status
        assert (status.stale, status.errors, status.last_error) == (True, 0, "the registry names no usable endpoint")
        script.answer(Snapshot((TWO,)))
        assert seen.names == ["mq2"]
        assert (status.stale, status.last_error) == (False, "")
        assert events(seen) == ["discovery_synced", "discovery_rejected", "discovery_emptied", "discovery_synced"]


async def test_an_outage_does_not_hide_that_the_registry_came_back_empty():
    async with kept() as (seen, script):
        script.answer(Snapshot((ONE,)))
        script.fail("connection refused")
        script.answer(Snapshot(()))
        assert events(seen) == ["discovery_synced", "discovery_failed", "discovery_emptied"]


async def test_a_registry_that_was_never_filled_is_told_and_published_as_it_is():
    async with kept() as (seen, script):
        script.answer(Snapshot((), (Rejected("mq1", "nonsense"),)))
        assert seen.snapshots == [Snapshot((), (Rejected("mq1", "nonsense"),))]
        assert not seen.discovery.status.stale
        assert "discovery_emptied" in events(seen)


async def test_the_same_answer_is_published_once():
    async with kept() as (seen, script):
        script.answer(Snapshot((ONE,), revision=1))
        script.answer(Snapshot((ONE,), revision=2))
        assert len(seen.snapshots) == 1
        assert seen.discovery.status.revision == 2


async def test_a_rejected_entry_is_told_once_and_again_after_it_was_fine():
    async with kept() as (seen, script):
        bad = Snapshot((ONE,), (Rejected("mq2", "nonsense"),))
        for answer in (bad, bad, Snapshot((ONE, TWO)), bad):
            script.answer(answer)
        assert len(seen.told("discovery_rejected")) == 2
        script.answer(Snapshot((ONE,), tuple(Rejected(f"mq{number}", "nonsense") for number in range(1000))))
        assert len(seen.told("discovery_rejected")) <= 2 + REJECTED_LINES_MAX


async def test_a_cold_start_uses_what_was_saved_until_the_registry_answers(tmp_path):
    file = SnapshotFile(str(tmp_path / "endpoints.json"), {"script:"})
    async with kept(file=file) as (seen, script):
        script.answer(Snapshot((ONE, TWO), revision=5))
        await seen.until(file.path.exists)
    async with kept(file=file, cold_start_s=0) as (seen, script):
        await seen.until_names("mq1", "mq2")
        assert seen.snapshots == [Snapshot((ONE, TWO), revision=5)]
        status = seen.discovery.status
        assert (status.stale, status.last_error) == (True, "the registry has not answered yet")
        script.fail("still away")
        assert status.last_error == "still away"
        script.answer(Snapshot((TWO,)))
        assert not seen.discovery.status.stale
        assert events(seen) == ["discovery_restored", "discovery_failed", "discovery_synced"]


async def test_a_first_answer_that_is_empty_does_not_empty_what_was_saved(tmp_path):
    file = SnapshotFile(str(tmp_path / "endpoints.json"), {"script:"})
    file.save(Snapshot((ONE,)))
    async with kept(file=file) as (seen, script):
        script.answer(Snapshot(()))
        assert seen.names == ["mq1"]
        assert seen.discovery.status.stale


async def test_a_disk_that_fails_is_told_once_and_costs_nothing_else(tmp_path):
    file = SnapshotFile(str(tmp_path / "missing" / "endpoints.json"), {"script:"})
    async with kept(file=file) as (seen, script):
        script.answer(Snapshot((ONE,)))
        await seen.until(lambda: seen.told("snapshot_saved_failed"))
        script.answer(Snapshot((TWO,)))
        file.path.parent.mkdir()
        script.answer(Snapshot((ONE, TWO)))
        await seen.until(file.path.exists)
        assert len(seen.told("snapshot_saved_failed")) == 1


async def test_a_damaged_file_is_told_and_ignored(tmp_path):
    path = tmp_path / "endpoints.json"
    path.write_text("{")
    async with kept(file=SnapshotFile(str(path), {"script:"})) as (seen, script):
        assert events(seen) == ["snapshot_unusable"]
        script.answer(Snapshot((ONE,)))
        assert seen.names == ["mq1"]


async def test_a_disk_that_hangs_does_not_keep_the_registry_from_being_asked(tmp_path, monkeypatch):
    path = tmp_path / "endpoints.json"
    os.mkfifo(path)  # opening it waits for a writer
    monkeypatch.setattr(keeper, "LOAD_TIMEOUT_S", 0.01)
    async with kept(file=SnapshotFile(str(path), {"script:"})) as (seen, script):
        assert "does not answer" in seen.told("snapshot_unusable")[0].facts["reason"]
        script.answer(Snapshot((ONE,)))
        assert seen.names == ["mq1"]
        with path.open("wb"):
            pass  # lets the waiting thread go


def test_the_file_is_private_whole_and_leaves_nothing_beside_it(tmp_path):
    file = SnapshotFile(str(tmp_path / "endpoints.json"), {"script:"})
    file.save(Snapshot((ONE, TWO), (Rejected("x", "y"),), revision=5))
    assert file.load() == Snapshot((ONE, TWO), revision=5)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file.path]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda saved: saved[:-5], "damaged"),
        (lambda saved: "", "damaged"),
        (lambda saved: "\udcff", "damaged"),
        (lambda saved: json.dumps({**json.loads(saved), "version": 1}), "format 1"),
        (lambda saved: json.dumps({**json.loads(saved), "endpoints": [{"name": 5}]}), "damaged"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, change, reason):
    file = SnapshotFile(str(tmp_path / "endpoints.json"), {"script:"})
    file.save(Snapshot((ONE,)))
    file.path.write_bytes(change(file.path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(CacheError, match=reason):
        file.load()


def test_a_file_from_another_place_is_not_used(tmp_path):
    path = str(tmp_path / "endpoints.json")
    SnapshotFile(path, {"file:/staging"}).save(Snapshot((ONE,)))
    with pytest.raises(CacheError, match=r"from file:/staging, not from file:/production"):
        SnapshotFile(path, {"file:/production"}).load()
    with pytest.raises(CacheError, match="directory"):
        SnapshotFile(str(tmp_path), {"file:/production"}).load()


def test_a_place_with_several_ways_to_it_is_the_same_while_one_of_them_stays(tmp_path):
    path = str(tmp_path / "endpoints.json")
    SnapshotFile(path, {"a", "b", "c"}).save(Snapshot((ONE,)))
    assert SnapshotFile(path, {"c", "d"}).load() == Snapshot((ONE,))
    with pytest.raises(CacheError, match="from a or b or c, not from d or e"):
        SnapshotFile(path, {"e", "d"}).load()


async def test_an_answer_that_is_as_saved_tells_the_file_how_it_was_reached(tmp_path):
    path = str(tmp_path / "endpoints.json")
    SnapshotFile(path, {"a", "b"}).save(Snapshot((ONE,)))
    async with kept(file=SnapshotFile(path, {"b", "c"}), cold_start_s=0) as (seen, script):
        await seen.until_names("mq1")
        script.answer(Snapshot((ONE,)))
        await seen.until(lambda: json.loads(Path(path).read_text())["origins"] == ["b", "c"])


def test_a_save_that_fails_leaves_the_file_before_it(tmp_path):
    file = SnapshotFile(str(tmp_path / "endpoints.json"), {"script:"})
    file.save(Snapshot((ONE,)))
    broken = SnapshotFile(str(tmp_path / "endpoints.json" / "beneath"), {"script:"})
    with pytest.raises(CacheError):
        broken.save(Snapshot((TWO,)))
    assert file.load() == Snapshot((ONE,))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CacheError, match="directory"):
        SnapshotFile(str(tmp_path / "folder"), {"script:"}).save(Snapshot((TWO,)))
    assert {path.name for path in tmp_path.iterdir()} == {"endpoints.json", "folder"}
