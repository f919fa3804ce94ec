"""Windows and ledgers against bookkeepers that are too simple to be wrong."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.session.ledger import Ledger, Load, publish_starts
from proxy.session.window import Window
from tests.support.engine_frames import frames_of, publish


class WindowAndASet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.open: set[int] = set()
        self.issued = 0

    @rule(count=st.integers(1, 5))
    def issue(self, count):
        self.open.update(range(self.issued + 1, self.issued + count + 1))
        self.issued += count
        self.window.top = self.issued

    @rule(number=st.integers(0, 60))
    def settle(self, number):
        assert self.window.settle(number) is (number in self.open)
        self.open.discard(number)

    @rule(number=st.integers(0, 60))
    def settle_upto(self, number):
        settled = {each for each in self.open if each <= number}
        assert self.window.settle_upto(number) == len(settled)
        self.open -= settled

    @precondition(lambda self: self.issued > 20)
    @rule(floor=st.integers(0, 10))
    def reset(self, floor):
        self.window.reset(floor)
        self.open.clear()
        self.issued = floor

    @rule(gap=st.integers(0, 3), count=st.integers(0, 6), settled=st.sets(st.integers(1, 6)))
    def append(self, gap, count, settled):
        later = Window(self.issued + gap)
        later.top = later.floor + count
        numbers = {later.floor + each for each in settled if each <= count}
        for number in sorted(numbers, reverse=True):
            later.settle(number)
        self.open.update(set(range(self.issued + gap + 1, later.top + 1)) - numbers)
        self.window.append(later)
        self.issued = later.top

    @invariant()
    def it_names_exactly_the_open_numbers(self):
        assert list(self.window.open_numbers()) == sorted(self.open)
        assert self.window.open_count == len(self.open)

    @invariant()
    def it_knows_the_last_open_number(self):
        for upto in range(self.issued + 3):
            assert self.window.last_open(upto) == max((n for n in self.open if n <= upto), default=0)

    @invariant()
    def it_knows_each_number(self):
        assert {n for n in range(self.issued + 3) if self.window.is_open(n)} == self.open

    @invariant()
    def the_floor_is_below_the_first_open_number(self):
        assert self.window.floor == (min(self.open) - 1 if self.open else self.issued) or not self.open


WindowAndASet.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestWindow = WindowAndASet.TestCase


def test_one_number_held_back_keeps_its_place():
    window = Window()
    window.top = 20_000
    for number in range(2, 20_001):
        window.settle(number)
    assert (list(window.open_numbers()), window.floor) == ([1], 0)
    window.settle(1)
    assert (window.open_count, window.floor) == (0, 20_000)


class LedgerAndAList(RuleBasedStateMachine):
    """The list holds [number, bytes]; what a broker would say is derived from what it was sent. All are mandatory when
    they are sent, `asked` are the numbers of those whose client has asked for that."""

    def __init__(self) -> None:
        super().__init__()
        self.load = Load()
        self.ledger = Ledger(self.load)
        self.unsettled: list[list] = []
        self.asked: set[int] = set()
        self.numbers = 0
        self.rest = b""
        self.sent: list[int] = []  # the ledger's numbers in the order in which this broker was sent them
        self.refused: set[int] = set()

    @precondition(lambda self: not self.rest)
    @rule(
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
        around=st.sampled_from([0, 1000]),
        asked=st.booleans(),
    )
    def publish(self, sizes, around, asked):
        frames = [publish(1, bytes(size), mandatory=True) for size in sizes]
        buf = bytes(around) + b"".join(frames)
        self.ledger.record(buf, around, len(buf), len(frames), False, int(asked))
        for each in frames:
            self._began(each, asked)

    @precondition(lambda self: not self.rest)
    @rule(before=st.integers(0, 2), cut=st.integers(1, 2), asked=st.booleans())
    def begin_a_publish(self, before, cut, asked):
        whole = [publish(1, b"whole", mandatory=True) for _ in range(before)]
        frames = frames_of(publish(1, b"half", mandatory=True))
        head, self.rest = b"".join(frames[:cut]), b"".join(frames[cut:])
        buf = b"".join(whole) + head
        self.ledger.record(buf, 0, len(buf), before + 1, True, int(asked))
        for each in [*whole, head]:
            self._began(each, asked)

    @precondition(lambda self: self.rest)
    @rule()
    def end_it(self):
        self.ledger.record(self.rest, 0, len(self.rest), 0, False, 0)
        self.unsettled[-1][1] += self.rest
        self.rest = b""

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), multiple=st.booleans())
    def confirm(self, data, multiple):
        complete = len(self.sent) - bool(self.rest)
        if not complete:
            return
        tag = data.draw(st.integers(1, complete))
        number = self.ledger.number_of(tag)
        assert number == self.sent[tag - 1]
        done = [each for each in self.unsettled if each[0] == number or (multiple and each[0] < number)]
        assert self.ledger.settle(number, multiple) == len(done)
        self.unsettled = [each for each in self.unsettled if each not in done]

    @rule()
    def fail_over(self):
        taken = self.ledger.take_unfinished()
        if self.rest:
            number, head = self.unsettled.pop()
            assert taken == self._as_asked(number, head)
            self.asked.discard(number)
            self.numbers -= 1
            self.rest = b""
        else:
            assert taken == b""
        replay = b"".join(self.ledger.replay())
        assert replay == b"".join(each[1] for each in self.unsettled)
        self.sent = [each[0] for each in self.unsettled]

    @rule()
    def clear(self):
        self.ledger.clear()
        self.unsettled.clear()
        self.rest = b""
        assert self.load.unsettled_bytes == 0

    @invariant()
    def nothing_is_kept_that_nobody_waits_for(self):
        assert self.ledger.unsettled == len(self.unsettled)
        assert self.load.unsettled_bytes >= sum(len(each[1]) for each in self.unsettled)
        assert self.unsettled or self.load.unsettled_bytes == 0

    @invariant()
    def it_gives_publishes_as_their_client_sent_them(self):
        whole = self.unsettled[:-1] if self.rest else self.unsettled
        assert list(self.ledger.publishes_from(0)) == [(each[0], self._as_asked(*each)) for each in whole]

    @invariant()
    def half_a_publish_is_known_to_be_one(self):
        assert self.ledger.unfinished is bool(self.rest)

    def _as_asked(self, number, frames):
        head, rest = frames_of(frames)[0], b"".join(frames_of(frames)[1:])
        return head[:-2] + bytes((number in self.asked,)) + head[-1:] + rest

    def _began(self, frames, asked):
        self.numbers += 1
        if asked:
            self.asked.add(self.numbers)
        self.sent.append(self.numbers)
        self.unsettled.append([self.numbers, frames])


LedgerAndAList.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLedger = LedgerAndAList.TestCase


def test_what_was_settled_before_a_half_publish_is_given_up_when_that_is_taken_back():
    ledger = Ledger(load := Load())
    whole, half = publish(1, b"whole"), frames_of(publish(1, b"half"))[0]
    ledger.record(whole + half, 0, len(whole + half), 2, True, 0)
    assert ledger.settle(1, multiple=False) == 1
    assert ledger.take_unfinished() == half
    assert load.unsettled_bytes == 0


def test_a_small_publish_does_not_keep_its_chunk_alive():
    chunk = bytes(200_000) + publish(1)
    ledger = Ledger(Load())
    ledger.record(chunk, 200_000, len(chunk), 1, False, 0)
    [piece] = ledger.replay()
    assert isinstance(piece, bytes)


def test_until_the_first_failover_numbers_are_the_brokers():
    ledger = Ledger(Load())
    assert ledger.untranslated
    ledger.record(publish(1), 0, len(publish(1)), 1, False, 0)
    ledger.replay()
    assert not ledger.untranslated


@given(st.lists(st.integers(0, 50), max_size=6))
def test_every_publish_of_a_run_is_found(sizes):
    frames = [publish(1, bytes(size), piece_bytes=7) for size in sizes]
    starts = [sum(map(len, frames[:at])) for at in range(len(frames))]
    assert publish_starts(b"".join(frames)) == starts
