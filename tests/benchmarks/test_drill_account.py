"""The drill's figures are claims about lost money: the arithmetic behind them is tested like the engine."""

import json

import pytest

from benchmarks.drill.account import Cell, Entry, judge, longest_gap, spread, waits
from benchmarks.drill.faults import Fault
from benchmarks.drill.table import as_json, markdown, together


def published(*numbers, at_s=1.0):
    return [Entry(at_s, "published", number, None) for number in numbers]


def told(kind, *numbers, at_s=1.0, detail=None):
    return [Entry(at_s, kind, number, detail) for number in numbers]


def verdict(publisher=(), consumer=(), drained=(), faults=(), replayed=None, workload="confirm", mode="sidehop"):
    cell = Cell("pika", workload, "quorum", mode)
    return judge(cell, list(publisher), list(consumer), list(drained), list(faults), replayed)


def test_a_confirmed_message_that_arrives_nowhere_is_confirmed_but_lost():
    found = verdict(published(1, 2) + told("confirmed", 1, 2), told("delivered", 1, detail=False))
    assert (found.confirmed_but_lost, found.accepted_but_lost, found.lost_numbers) == (1, 0, [2])
    assert not found.promises_kept


def test_what_was_left_in_the_queue_is_not_lost():
    found = verdict(published(1, 2) + told("confirmed", 1, 2), told("delivered", 1, detail=False), [(2, False)])
    assert found.confirmed_but_lost == 0
    assert found.promises_kept


def test_an_unconfirmed_message_that_arrives_nowhere_is_accepted_but_lost_unless_it_was_nacked():
    found = verdict(published(1, 2, 3) + told("confirmed", 1) + told("nacked", 3), told("delivered", 1, detail=False))
    assert (found.accepted_but_lost, found.nacked) == (1, 1)


def test_duplicates_are_told_apart_by_the_flag_of_the_later_arrival():
    consumer = (
        told("delivered", 1, detail=False) + told("delivered", 1, detail=True) + told("delivered", 1, detail=False)
    )
    found = verdict(published(1) + told("confirmed", 1), consumer, replayed=0)
    assert (found.duplicates_flagged, found.duplicates_unflagged, found.duplicates_unexplained) == (1, 1, 1)
    assert not found.promises_kept


def test_the_flag_of_a_first_arrival_is_no_duplicate():
    found = verdict(published(1) + told("confirmed", 1), told("delivered", 1, detail=True), replayed=0)
    assert (found.duplicates_flagged, found.duplicates_unflagged) == (0, 0)


def test_a_counted_publication_explains_one_unflagged_duplicate():
    consumer = told("delivered", 1, 1, 2, 2, detail=False)
    found = verdict(published(1, 2) + told("confirmed", 1, 2), consumer, replayed=1)
    assert (found.duplicates_unflagged, found.duplicates_unexplained) == (2, 1)


@pytest.mark.parametrize("redelivered", [True, False])
def test_where_nothing_may_come_twice_an_explanation_is_no_excuse(redelivered):
    consumer = told("delivered", 1, detail=False) + told("delivered", 1, detail=redelivered)
    assert verdict(published(1) + told("confirmed", 1), consumer, replayed=1).promises_kept
    assert not verdict(published(1) + told("confirmed", 1), consumer, replayed=1, mode="sidehop-once").promises_kept


def test_a_disconnect_of_either_application_breaks_the_promise():
    found = verdict(published(1) + told("confirmed", 1), told("delivered", 1) + told("disconnected", 0, detail="reset"))
    assert (found.disconnects, found.reasons) == (1, ["receiver: reset"])
    assert not found.promises_kept


def test_a_gap_counts_from_the_last_sign_before_the_fault_to_the_first_after_it():
    assert longest_gap([1.0, 2.0, 5.0, 5.1], start_s=2.5, until_s=6.0) == (3.0, 5.0)


def test_silence_to_the_end_of_the_window_is_a_gap():
    assert longest_gap([1.0], start_s=2.0, until_s=9.0) == (8.0, 9.0)


def test_a_silence_that_begins_later_does_not_belong_to_the_fault():
    assert longest_gap([1.0, 2.0, 3.0, 20.0], start_s=1.5, until_s=25.0, begins_by_s=2.5) == (1.0, 3.0)


def test_waits_are_told_per_fault():
    publisher = [entry for at_s in (1.0, 2.0, 5.0, 6.0, 7.0) for entry in published(int(at_s), at_s=at_s)]
    publisher += [Entry(at_s, "confirmed", int(at_s), None) for at_s in (1.0, 2.0, 5.0, 6.0, 7.0)]
    consumer = [Entry(at_s, "delivered", int(at_s), False) for at_s in (1.0, 2.0, 4.0, 5.0, 6.0, 7.0)]
    faults = [Fault("kill9", 1, "publisher", 2.5), Fault("sigterm", 2, "consumer", 6.5)]
    found = verdict(publisher, consumer, faults=faults)
    assert (found.longest_confirm_gap_ms, found.longest_delivery_gap_ms) == (3000.0, 2000.0)
    assert [fault["recovered_ms"] for fault in found.per_fault] == [2500.0, 500.0]


def test_what_a_queue_itself_does_not_confirm_is_told_apart():
    publisher = [entry for at_s in (1.0, 2.0, 5.0, 6.0) for entry in published(int(at_s), at_s=at_s)]
    publisher += [Entry(at_s, "confirmed", int(at_s), None) for at_s in (1.0, 2.0, 5.0, 6.0)]
    consumer = [Entry(at_s, "delivered", int(at_s), False) for at_s in (1.0, 2.0, 5.0, 6.0)]
    witnessed = ([1.0, 2.0, 4.5, 5.5], [1.0, 2.0], [])  # by the third node's way nothing was seen before the fault
    found = verdict(publisher, consumer, faults=[Fault("kill9", 2, "sender", 2.5, witnessed)])
    assert found.per_fault[0]["own_gap_ms"] == 2500.0
    assert waits(found.per_fault, "beyond_ms")["max"] == 500.0

    found = verdict(publisher, consumer, faults=[Fault("kill9", 2, "sender", 2.5)])
    assert waits(found.per_fault, "beyond_ms") == {}


@pytest.mark.parametrize(("count", "p50", "p99"), [(1, 1, 1), (4, 2, 4), (200, 100, 198)])
def test_percentiles_are_nearest_ranks(count, p50, p99):
    assert spread(range(1, count + 1)) == {"p50": p50, "p99": p99, "max": count}


def test_what_was_never_committed_was_never_accepted():
    publisher = published(1, 2, 3) + told("rolled_back", 1) + told("unknown", 2)
    found = verdict(publisher, told("delivered", 2, detail=False), workload="tx")
    assert (found.accepted_but_lost, found.undone, found.undone_but_stored) == (0, 2, 0)
    assert found.promises_kept


def test_a_transaction_that_was_committed_is_not_lost():
    found = verdict(published(1) + told("confirmed", 1), workload="tx")
    assert (found.confirmed_but_lost, found.lost_numbers) == (1, [1])


def test_a_transaction_that_is_said_to_be_rolled_back_and_arrives_was_a_false_word():
    found = verdict(published(1) + told("rolled_back", 1), told("delivered", 1, detail=False), workload="tx")
    assert found.undone_but_stored == 1
    assert not found.promises_kept


def test_a_request_that_is_asked_again_explains_one_more_arrival():
    asker = published(1) + told("unanswered", 1) + told("confirmed", 1)
    found = verdict(asker, told("delivered", 1, 1, detail=False), replayed=0, workload="rpc")
    assert (found.unanswered, found.duplicates_unflagged, found.duplicates_unexplained) == (1, 1, 0)


def test_disconnects_and_gaps_are_told_for_each_fault_and_each_kind_of_it():
    publisher = [entry for at_s in range(1, 10) for entry in published(at_s, at_s=float(at_s))]
    consumer = [Entry(float(at_s), "delivered", at_s, False) for at_s in (1, 2, 3, 5, 6, 7, 8, 9)]
    consumer.append(Entry(4.0, "disconnected", 0, "reset"))
    faults = [Fault("kill9", 1, "sender", 3.5), Fault("drain", 2, "sender", 6.5)]
    found = verdict(publisher, consumer, faults=faults, workload="plain")
    assert [fault["disconnects"] for fault in found.per_fault] == [1, 0]
    # Without confirms there is no silence of confirms.
    assert (found.longest_confirm_gap_ms, found.longest_delivery_gap_ms) == (None, 2000.0)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in markdown([found], []).splitlines()]
    assert ["kill9", "sidehop", "1", "1", "-", "-", "2,000 / 2,000 / 2,000", "1,500 / 1,500 / 1,500"] in rows
    assert ["drain", "sidehop", "1", "0", "-", "-", "1,000 / 1,000 / 1,000", "2,500 / 2,500 / 2,500"] in rows


def test_results_of_several_drills_become_one_table(tmp_path):
    lost, kept = verdict(published(1) + told("confirmed", 1)), verdict()
    for name, found in (("first", lost), ("second", kept)):
        (tmp_path / f"{name}.json").write_text(json.dumps(as_json([found], [f"of the {name}"])))
    assert together([tmp_path / "first.json", tmp_path / "second.json"]) == markdown(
        [lost, kept], ["first: of the first", "second: of the second"]
    )
