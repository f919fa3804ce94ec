"""Chunks come and go in memory that the process has already; what nobody needs goes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from proxy.ops import heap
from proxy.ops.heap import Heap

# A window of chunks that moves, as a ledger's does; then how many pages the kernel had to give.
WINDOW = """
import collections, resource, sys
from proxy.ops.heap import Heap
if sys.argv[1] == "keep":
    Heap().keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def flow(count):
    window = collections.deque(maxlen=32)
    for number in range(count):
        window.append(bytes(200_000 + number % 7 * 8_000))
flow(200)
before = faults()
for _ in range(20):
    flow(100)
print(faults() - before)
"""
GIVE_BACK = """
import collections
from pathlib import Path
from proxy.ops.heap import Heap
heap = Heap()
heap.keep()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
chunks = [bytes([1]) * 200_000 for _ in range(200)]
del chunks
kept = resident() - before
heap.give_back()
print(kept, resident() - before)
"""


def printed(script: str, *arguments: str) -> list[int]:
    """A process of its own: the heap's rules hold for a whole process."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_moving_window_of_chunks_costs_no_page_faults() -> None:
    assert printed(WINDOW, "keep")[0] * 20 < printed(WINDOW, "as it is")[0]


def test_what_is_kept_free_can_be_given_back() -> None:
    kept, left = printed(GIVE_BACK)
    assert kept > 30_000_000
    assert left < 4_000_000


class Counted(Heap):
    """Counts what the real one would do."""

    def __init__(self) -> None:
        super().__init__()
        self.given_back = 0

    def give_back(self) -> None:
        self.given_back += 1


@pytest.mark.parametrize(
    ("readings", "given_back"),
    [
        pytest.param([0, 0, 0], 0, id="nothing ever passed"),
        pytest.param([9, 18, 27], 0, id="traffic goes on"),
        pytest.param([9, 9, 9, 9], 1, id="once at rest"),
        pytest.param([9, 9, 18, 18, 18], 2, id="and each time again"),
    ],
)
async def test_it_gives_back_when_traffic_has_come_to_rest(monkeypatch, readings, given_back) -> None:
    monkeypatch.setattr(heap, "REST_S", 0.0)
    memory, left = Counted(), [each * heap.REST_BYTES for each in readings]
    running = asyncio.current_task()

    def read_bytes() -> int:
        if len(left) == 1:
            running.cancel()
        return left.pop(0)

    with pytest.raises(asyncio.CancelledError):
        await memory.run(read_bytes)
    assert memory.given_back == given_back
