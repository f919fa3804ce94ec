"""The log: what a line holds, and that a reader who does not read stops nobody."""

import contextlib
import json
import logging
import os
import threading
import unicodedata

import pytest

from proxy.ops.log import LineWriter, Log
from proxy.reports import ENDING_EVENTS, ENDS, EVENTS, Report
from proxy.settings.policy import LogPolicy

BIDI = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def lines_of(pipe, log):
    """Close the log and its end of the pipe, then read all that was written."""
    log.close()
    os.close(pipe[1])
    with os.fdopen(os.dup(pipe[0]), "rb") as reader:
        return reader.read().splitlines()


def test_a_report_becomes_one_json_line_with_the_level_of_the_catalogue(pipe):
    log = Log(LogPolicy(), pipe[1])
    log(Report("failover_done", {"session": "s1", "took_s": 0.123456789, "tried": ("a", "b")}))
    (line,) = map(json.loads, lines_of(pipe, log))
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "failover_done",
        "session": "s1",
        "took_s": 0.123457,
        "tried": ["a", "b"],
    }


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_lets_through_itself_and_what_is_worse(pipe, level):
    order = ["debug", "info", "warning", "error"]
    log = Log(LogPolicy(level=level), pipe[1])
    for event in EVENTS:
        scope = ENDING_EVENTS.get(event)
        log(Report(event, {"cause": min(ENDS[scope])} if scope else {}))
    heard = [json.loads(line)["event"] for line in lines_of(pipe, log)]
    assert heard == [event for event, (its, _) in EVENTS.items() if order.index(its) >= order.index(level)]


def test_facts_that_json_does_not_know_are_still_logged(pipe):
    log = Log(LogPolicy(), pipe[1])
    log(Report("session_opened", {"name": "\udcff", "huge": 2**70, "raw": b"\x00", "set": {1}}))
    log(Report("session_opened", {"raw": b"\x00", "set": {1}, "map": {1: 2}}))
    first, second = map(json.loads, lines_of(pipe, log))
    assert "udcff" in first["name"]
    assert first["huge"] == str(2**70)
    assert second["set"] == [1]
    assert second["map"] == {"1": 2}


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_url_shows_its_password_and_no_terminal_obeys_a_name(pipe, form):
    log = Log(LogPolicy(format=form), pipe[1])
    log(Report("discovery_failed", {"reason": "cannot reach http://root:hunter/2@etcd:2379", "name": "\x1b[2J"}))
    log(Report("internal_error", {"stack": ValueError("amqp://app:hunter2@mq1")}))
    text = b"\n".join(lines_of(pipe, log))
    assert b"hunter" not in text
    assert b"\x1b[2J" not in text
    assert b"ValueError" in text


COMMANDS = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cc", "Zl", "Zp")]
COMMANDS += [chr(n) for n in range(0x110000) if unicodedata.bidirectional(chr(n)) in BIDI]
COMMANDS += ["\u061c", "\u200e", "\u200f"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_strangers_say_commands_no_terminal_and_forges_no_line(pipe, form):
    log = Log(LogPolicy(format=form), pipe[1])
    said = f"a{''.join(COMMANDS)}level=error"
    log(Report("session_opened", {"name": said, "reason": f"{said} ", "nested": [said, {"key": (said,)}]}))
    log(Report("internal_error", {"stack": f"Traceback:\nValueError: {said}"}))
    log(Report("internal_error", {"stack": ValueError(said)}))
    lines = lines_of(pipe, log)
    text = b"\n".join(lines).decode()
    assert set(text) & set(COMMANDS) == {"\n"}
    assert sum(not line.startswith(b"    ") for line in lines) == 3, "what is no report of its own is set in"
    if form == "json":
        first, second, _ = map(json.loads, lines)
        assert (first["name"], first["nested"], second["stack"]) == (
            said,
            [said, {"key": [said]}],
            f"Traceback:\nValueError: {said}",
        )
    else:
        assert all(ascii(char)[1:-1] in text for char in COMMANDS)


def test_words_in_all_scripts_stay_as_they_are(pipe):
    log = Log(LogPolicy(format="console"), pipe[1])
    log(Report("session_opened", {"name": "zahlung-größe-支払い-תשלום"}))
    (line,) = lines_of(pipe, log)
    assert "name=zahlung-größe-支払い-תשלום" in line.decode()


def test_console_lines_are_for_people(pipe):
    log = Log(LogPolicy(format="console"), pipe[1])
    log(Report("started", {"listen": "127.0.0.1:5672"}))
    (line,) = lines_of(pipe, log)
    assert b"info" in line
    assert b"listen=127.0.0.1:5672" in line
    assert b"\x1b" not in line, "no colours where nobody sees them"


def test_a_pipe_that_nobody_reads_stops_nobody_and_the_loss_is_counted_and_told(pipe):
    log = Log(LogPolicy(queue_bytes_max=65536), pipe[1])
    for number in range(5000):  # far more than the pipe's 64 KiB and the queue's
        log(Report("session_opened", {"session": str(number), "filler": "x" * 100}))
    lost = log.writer.dropped
    assert 0 < lost < 5000

    received = []

    def read_to_the_last():
        with os.fdopen(os.dup(pipe[0]), "rb") as reader:
            for line in reader:
                received.append(json.loads(line))
                if received[-1].get("session") == "5000":
                    return

    reader = threading.Thread(target=read_to_the_last)
    reader.start()
    while not log.writer.has_room:
        os.sched_yield()
    log(Report("session_closed", {"session": "5000"}))  # the loss is told before the next line
    reader.join(60)
    log.close()
    told = [line for line in received if line["event"] == "log_lines_dropped"]
    assert sum(line["lines"] for line in told) == lost
    numbers = [int(line["session"]) for line in received if line["event"] == "session_opened"]
    assert numbers == sorted(numbers), "lines keep their order"
    assert received[-1]["event"] == "session_closed"


def test_closing_does_not_wait_for_a_reader_who_never_comes(pipe):
    writer = LineWriter(pipe[1], 1024 * 1024)
    for _ in range(10):
        writer.write(b"x" * 100_000 + b"\n")
    writer.close(timeout_s=0.05)
    before = writer.dropped
    writer.write(b"too late\n")
    assert writer.dropped == before + 1


def test_a_reader_who_has_gone_costs_lines_and_nothing_else(pipe):
    writer = LineWriter(pipe[1], 65536)
    os.close(pipe[0])
    writer.write(b"to nobody\n")
    writer.close(timeout_s=60)
    assert writer.dropped == 1


def test_a_non_blocking_pipe_is_waited_for(pipe):
    os.set_blocking(pipe[1], False)
    writer = LineWriter(pipe[1], 1024 * 1024)
    writer.write(b"x" * 300_000 + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(pipe[0], 65536)
    writer.close(timeout_s=60)
    assert len(received) == 300_001
    assert writer.dropped == 0


def test_what_libraries_log_becomes_a_report(pipe):
    log = Log(LogPolicy(), pipe[1])
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        log.adopt_libraries()
        logging.getLogger("asyncio").error("Task exception was never retrieved")
        logging.getLogger("aiohttp.access").info("never heard")
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
    (line,) = map(json.loads, lines_of(pipe, log))
    assert (line["event"], line["library"]) == ("library_complained", "asyncio")


def test_lines_of_several_processes_on_one_pipe_do_not_mix(pipe):
    writers = [LineWriter(pipe[1], 1 << 20) for _ in range(4)]
    lines = [bytes([ord("a") + number]) * 700 + b"\n" for number in range(4)]
    for _ in range(300):  # far more than the pipe holds, so that every writer has to wait within what it writes
        for writer, line in zip(writers, lines, strict=True):
            writer.write(line)
    with os.fdopen(os.dup(pipe[0]), "rb") as reader:
        read = [reader.readline() for _ in range(1200)]
    assert sorted(read) == sorted(lines * 300)
    for writer in writers:
        writer.close()
