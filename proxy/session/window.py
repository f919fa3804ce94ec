"""Which numbers of a growing sequence are still open: deliveries not settled, publishes not confirmed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Window:
    """The open numbers of one channel, as few ranges as possible.

    Everything up to `floor` is settled, everything above `top` was never issued. What was settled out of order in
    between is kept as disjoint ranges in ascending order, so that one message held back for an hour costs one range
    and not one entry for each message after it. Settling in order is O(1), up to a number O(log n).
    """

    __slots__ = ("_above", "_starts", "_stops", "floor", "top")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self.top = floor
        self._above = 0
        self._starts: list[int] = []
        self._stops: list[int] = []  # inclusive

    @property
    def open_count(self) -> int:
        """How many numbers are open."""
        return self.top - self.floor - self._above

    def reset(self, floor: int) -> None:
        """Forget everything; the next number issued is `floor + 1`."""
        self.floor = self.top = floor
        self._above = 0
        self._starts.clear()
        self._stops.clear()

    def is_open(self, number: int) -> bool:
        """Tell whether a number was issued and not settled."""
        if not self.floor < number <= self.top:
            return False
        at = bisect_right(self._starts, number) - 1
        return at < 0 or self._stops[at] < number

    def last_open(self, upto: int) -> int:
        """The highest open number up to this one; 0 if there is none."""
        number = min(upto, self.top)
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and self._stops[at] >= number:
            number = self._starts[at] - 1
        return number if number > self.floor else 0

    def any_open(self, first: int, last: int) -> bool:
        """Tell whether any of the issued numbers from `first` to `last` is open."""
        if last <= self.floor:
            return False
        at = bisect_right(self._starts, max(first, self.floor + 1)) - 1
        return at < 0 or self._stops[at] < last  # ranges never touch, so one that covers all of it is the only proof

    def settle(self, number: int) -> bool:
        """Settle one number; False if it was not open."""
        if number == self.floor + 1 and number <= self.top:
            self.floor = number
            if self._starts and self._starts[0] == number + 1:
                self._absorb()
            return True
        if not self.is_open(number):
            return False
        starts, stops = self._starts, self._stops
        at = bisect_right(starts, number)
        joins_left = at > 0 and stops[at - 1] == number - 1
        joins_right = at < len(starts) and starts[at] == number + 1
        if joins_left and joins_right:
            stops[at - 1] = stops[at]
            del starts[at], stops[at]
        elif joins_left:
            stops[at - 1] = number
        elif joins_right:
            starts[at] = number
        else:
            starts.insert(at, number)
            stops.insert(at, number)
        self._above += 1
        return True

    def settle_upto(self, number: int) -> int:
        """Settle every open number up to and including this one; returns how many were open."""
        number = min(number, self.top)
        if number <= self.floor:
            return 0
        if not self._starts:  # nothing above it is settled, as nearly always
            settled = number - self.floor
            self.floor = number
            return settled
        before = self.open_count
        at = bisect_right(self._starts, number)
        for index in range(at):
            self._above -= self._stops[index] - self._starts[index] + 1
        if at and self._stops[at - 1] > number:
            number = self._stops[at - 1]
        del self._starts[:at], self._stops[:at]
        self.floor = number
        if self._starts and self._starts[0] == number + 1:
            self._absorb()
        return before - self.open_count

    def append(self, later: Window) -> None:
        """Go on with the numbers of another window, all of which are above these."""
        settled = [(self.top + 1, later.floor), *zip(later._starts, later._stops, strict=True)]
        self.top = later.top
        for start, stop in settled:
            if stop < start:
                continue
            if start == self.floor + 1:
                self.floor = stop
                continue
            if self._stops and self._stops[-1] == start - 1:
                self._stops[-1] = stop
            else:
                self._starts.append(start)
                self._stops.append(stop)
            self._above += stop - start + 1

    def open_numbers(self) -> Iterator[int]:
        """Every open number, ascending."""
        number = self.floor + 1
        for start, stop in zip(self._starts, self._stops, strict=True):
            yield from range(number, start)
            number = stop + 1
        yield from range(number, self.top + 1)

    def _absorb(self) -> None:
        self.floor = self._stops[0]
        self._above -= self._stops[0] - self._starts[0] + 1
        del self._starts[0], self._stops[0]
