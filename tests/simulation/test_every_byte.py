"""Every wire of every conversation breaks after every byte. All of it: `python -m tests.simulation.cuts`.

The first conversation is cut after every byte on its broker's wires. Left out here, since it is there: of the others,
the handshake, and every second byte; on the client's wires, six bytes of seven; and of pairs of cuts, nearly all.
"""

from __future__ import annotations

import pytest

from tests.simulation.conversations import CONVERSATIONS, complete
from tests.simulation.cuts import WIRES, failure_of, once, twice
from tests.simulation.tape import Tape

BROKER_STEP, CLIENT_STEP, PAIRS_STEP = 2, 7, 149


def name(conversation):
    return conversation.__name__


@pytest.mark.parametrize("wire", range(len(WIRES)), ids=WIRES)
@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=name)
def test_a_cut_after_any_byte_is_survived(conversation, wire):
    first = conversation is CONVERSATIONS[0]
    step = CLIENT_STEP if WIRES[wire].endswith("the client") else 1 if first else BROKER_STEP
    cuts = once(conversation, wire, greeting=first, step=step)
    failures = [failure for each in cuts if (failure := failure_of(conversation, each))]
    assert not failures, failures[0]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=name)
def test_a_second_cut_during_the_recovery_is_survived(conversation):
    cuts = twice(conversation, PAIRS_STEP, greeting=False)
    failures = [failure for each in cuts if (failure := failure_of(conversation, each))]
    assert not failures, failures[0]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=name)
def test_the_conversation_is_worth_cutting(conversation):
    tape = Tape(complete(conversation)).play()
    said = [whole - greeting for whole, greeting in zip(tape.carried_bytes, tape.greeting_bytes, strict=True)]
    assert min(said) > 100
