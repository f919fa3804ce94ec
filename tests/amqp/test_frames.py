"""Frames and methods: every one can be written and read again, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER, Inlet, frame, method_frame
from proxy.amqp.methods.codec import _LAYOUT as LAYOUT
from tests.support.engine_frames import frames_of, refusal

values = {
    "o": st.integers(0, 255),
    "h": st.integers(0, 2**16 - 1),
    "l": st.integers(0, 2**32 - 1),
    "q": st.integers(0, 2**64 - 1),
    "s": st.binary(max_size=255),
    "S": st.binary(max_size=300),
    "T": st.binary(max_size=300),
    "b": st.booleans(),
}
every_method = st.sampled_from(sorted(LAYOUT)).flatmap(
    lambda number: st.tuples(*[values[kind] for kind in LAYOUT[number][1]]).map(lambda given: LAYOUT[number][0](*given))
)


@given(every_method)
def test_a_method_is_read_as_it_was_written(method):
    payload = method_frame(1, method)[7:-1]
    assert m.decode(type(method), payload) == method
    assert int.from_bytes(payload[:4], "big") == m.method_id(type(method))


@given(every_method, st.data())
def test_a_method_that_ends_too_early_is_a_syntax_error(method, data):
    payload = method_frame(1, method)[7:-1]
    cut = data.draw(st.integers(4, len(payload)))
    assert refusal(m.decode, type(method), payload[:cut]) in (None, 501)


@pytest.mark.parametrize(
    "method",
    [m.ConnectionStartOk(b"", b"PLAIN", b"\0guest\0secret", b""), m.ConnectionUpdateSecret(b"secret", b"")],
)
def test_a_secret_does_not_show(method):
    assert "secret'" not in repr(method)
    assert "redacted" in repr(method)


def test_every_request_has_an_answer_that_is_known():
    for request, answers in m.REPLIES.items():
        assert answers
        assert all(answer >> 16 == request >> 16 for answer in answers)


def walk(chunks):
    """Read a stream as the engine does; the frames that a scanner sees."""
    inlet, seen = Inlet(), []
    for chunk in chunks:
        buf, pos = b"", 0
        for buf, pos in inlet.regions(chunk):
            at = pos
            while len(buf) - at >= 8:
                stop = at + 8 + int.from_bytes(buf[at + 3 : at + 7], "big")
                if stop > len(buf):
                    break
                seen.append(buf[at:stop])
                at = stop
            pos = at
        inlet.keep(buf, pos)
    return seen, inlet._have


def cut(stream, places):
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(edges)]


@given(
    st.lists(st.binary(max_size=30).map(lambda body: frame(3, 1, body)), max_size=8),
    st.binary(max_size=6),
    st.lists(st.integers(0, 10_000), max_size=30),
)
def test_any_cutting_yields_the_same_frames(frames, tail, places):
    rest = b"\x03" + tail if tail else b""
    seen, held = walk(cut(b"".join(frames) + rest, places))
    assert seen == frames
    assert held == len(rest)


@given(st.lists(st.binary(max_size=10).map(lambda body: frame(3, 1, body)), min_size=1, max_size=4))
def test_one_byte_at_a_time_yields_the_same_frames(frames):
    stream = b"".join(frames)
    assert walk([stream[at : at + 1] for at in range(len(stream))])[0] == frames


@given(st.lists(st.integers(0, 8), max_size=8))
def test_a_protocol_header_is_put_together_from_any_pieces(places):
    inlet, seen = Inlet(), b""
    for chunk in cut(PROTOCOL_HEADER, places):
        for buf, pos in inlet.regions(chunk):
            seen = buf[pos:]
            inlet.keep(buf, pos)
    assert seen == PROTOCOL_HEADER


def test_a_chunk_of_whole_frames_is_not_copied():
    chunk = frame(3, 1, b"body")
    [(buf, pos)] = Inlet().regions(chunk)
    assert buf is chunk
    assert pos == 0


def test_a_stream_is_cut_into_its_frames():
    assert frames_of(PROTOCOL_HEADER + frame(3, 1, b"x")) == [PROTOCOL_HEADER, frame(3, 1, b"x")]
