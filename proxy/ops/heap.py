"""The C library's heap, in which chunks live.

By default glibc returns the top of its heap to the kernel when little more than the largest chunk of it is free, and
asks for it again at the next one. Each page of a publish is a page fault then, and those cost as much as everything
else that is done for it. So what is free is kept while there is traffic, up to a limit, and given back when there is
none.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

# What may be free at the top of the heap and stay with the process: more than the usual window of unsettled publishes.
KEPT_BYTES = 64 * 1024 * 1024
# How much more than it needs the heap asks for at a time.
PAD_BYTES = 1024 * 1024
# Chunks come from the heap; glibc allows no higher limit.
MAPPED_FROM_BYTES = 32 * 1024 * 1024
# The parameters of mallopt(3), as malloc.h numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# It is at rest when less than this was read within that time.
REST_S = 30.0
REST_BYTES = 1024 * 1024


class Heap:
    """The heap of this process. Where the C library is not glibc, nothing is changed."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._glibc = library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None

    def keep(self) -> None:
        """Keep what is freed, up to `KEPT_BYTES` of it, from here on."""
        if self._glibc is not None:
            self._glibc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
            self._glibc.mallopt(_TOP_PAD, PAD_BYTES)
            self._glibc.mallopt(_MMAP_THRESHOLD, MAPPED_FROM_BYTES)

    def give_back(self) -> None:
        """Return every page that is free to the kernel."""
        if self._glibc is not None:
            self._glibc.malloc_trim(0)

    async def run(self, read_bytes: Callable[[], int]) -> None:
        """Give back once each time that traffic has come to rest, until cancelled. `read_bytes` only ever grows."""
        seen, busy = 0, False
        while True:
            await asyncio.sleep(REST_S)
            total = read_bytes()
            passed, seen = total - seen, total
            if passed >= REST_BYTES:
                busy = True
            elif busy:
                busy = False
                self.give_back()
