"""Elementary values: what is written can be read, what is broken is refused, nothing of a table is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.amqp import wire
from proxy.amqp.wire import Reader, longstr, pack_table, parse_table, shortstr
from proxy.errors import ClientError
from tests.support.engine_frames import refusal

names = st.binary(max_size=40)
fixed = st.sampled_from(sorted(wire._FIXED_BYTES.items())).flatmap(
    lambda kind: st.binary(min_size=kind[1], max_size=kind[1]).map(lambda value: kind[0] + value)
)
counted = st.tuples(st.sampled_from([b"S", b"x", b"A", b"F"]), st.binary(max_size=50)).map(
    lambda each: each[0] + longstr(each[1])
)
tables = st.dictionaries(names, fixed | counted, max_size=8)


@given(tables)
def test_a_table_keeps_every_byte_of_every_value(table):
    assert parse_table(pack_table(table)) == table


@given(tables, names)
def test_replacing_one_entry_leaves_the_others_alone(table, name):
    opened = parse_table(pack_table(table))
    opened[name] = wire.text_value("new")
    assert parse_table(pack_table(opened)) == table | {name: wire.text_value("new")}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_syntax_error(raw):
    if refusal(parse_table, raw) is None:
        assert sum(1 + len(name) + len(value) for name, value in parse_table(raw).items()) <= len(raw)
    else:
        assert refusal(parse_table, raw) == 501


@given(tables, st.data())
def test_a_cut_table_is_refused_or_shorter(table, data):
    raw = pack_table(table)
    cut = data.draw(st.integers(0, len(raw)))
    assert refusal(parse_table, raw[:cut]) in (None, 501)


def test_an_unknown_type_is_refused():
    with pytest.raises(ClientError) as refused:
        parse_table(shortstr(b"n") + b"?")
    assert refused.value.reply_code == 501


def test_nesting_without_end_is_refused():
    with pytest.raises(ClientError) as refused:
        parse_table(b"", depth=wire.TABLE_DEPTH_MAX + 1)
    assert refused.value.reply_code == 501


@given(st.text())
def test_a_text_entry_is_read_as_it_was_written(text):
    assert (
        wire.text_of({b"n": wire.text_value(text.encode("utf-8", "replace"))}, b"n")
        == text.encode("utf-8", "replace").decode()
    )


@given(tables)
def test_a_table_within_a_table_is_read_as_it_was_written(table):
    assert wire.table_of({b"n": wire.table_value(table)}, b"n") == table


@pytest.mark.parametrize("wrong", [{}, {b"n": b"t\x01"}, {b"n": b""}])
def test_an_entry_of_another_type_reads_as_none(wrong):
    assert wire.text_of(wrong, b"n") == ""
    assert wire.table_of(wrong, b"n") == {}


@given(st.booleans())
def test_a_truth_is_a_truth(value):
    assert wire.parse_table(wire.pack_table({b"n": wire.bool_value(value)})) == {b"n": b"t" + bytes((value,))}


@given(st.binary(max_size=300))
def test_a_short_string_is_at_most_255_bytes(value):
    assert Reader(shortstr(value)).shortstr() == value[:255]


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_bits_share_octets(bits):
    octets = bytes(sum(bit << at for at, bit in enumerate(bits[start : start + 8])) for start in range(0, len(bits), 8))
    reader = Reader(octets + b"\xff")
    assert [reader.bit() for _ in bits] == bits
    assert reader.octet() == 255


@given(st.binary(max_size=3), st.sampled_from(["long", "longlong", "longstr", "table"]))
def test_reading_past_the_end_is_a_syntax_error(raw, what):
    reader = Reader(raw)
    assert refusal(getattr(reader, what)) == 501
    assert reader.pos <= len(raw)
