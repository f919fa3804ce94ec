"""python -m tests.simulation.cuts [--step 7] [--only WORD]: break every wire of every conversation after every byte.

Once at each byte of the wires to the broker, from it, from the client and to it; and a second time, during the
recovery from the first: the next broker's wires, or the client's. For that the square of all bytes would take days,
so that only every `step`-th byte of either wire is taken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tests.simulation.conversations import CONVERSATIONS, complete
from tests.simulation.tape import Cuts, Script, Tape

Conversation = Callable[[Tape], Script]
WIRES = ("to the broker", "from the broker", "from the client", "to the client")


def at(wire: int, byte: int) -> Cuts:
    """One wire breaks after that byte."""
    cut = (byte, None) if wire % 2 == 0 else (None, byte)
    return Cuts(brokers=(cut,)) if wire < 2 else Cuts(client=cut)


def once(conversation: Conversation, wire: int, *, greeting: bool = True, step: int = 1) -> Iterator[Cuts]:
    """Every byte of a wire; without those of the handshake if they are not asked for."""
    tape = Tape(complete(conversation)).play()
    first = 1 if greeting else tape.greeting_bytes[wire] + 1
    yield from (at(wire, byte) for byte in range(first, tape.carried_bytes[wire] + 1, step))


def twice(conversation: Conversation, step: int, *, greeting: bool = True) -> Iterator[Cuts]:
    """A broker's wire breaks, and then one of the next broker's or of the client's while that is being mended."""
    for wire in (0, 1):
        for first in once(conversation, wire, greeting=greeting, step=step):
            recovered = Tape(complete(conversation), first).play()
            second = recovered.sides.get(2)
            if second is None:
                continue
            for there in range(1, len(second.up.carried) + 1, step):
                yield Cuts(brokers=(*first.brokers, (there, None)))
            for back in range(1, len(second.down.carried) + 1, step):
                yield Cuts(brokers=(*first.brokers, (None, back)))
            _, _, said, heard = recovered.carried_bytes
            greeted = recovered.greeting_bytes
            for byte in range(greeted[2] + 1, said + 1, step):
                yield Cuts(brokers=first.brokers, client=(byte, None))
            for byte in range(greeted[3] + 1, heard + 1, step):
                yield Cuts(brokers=first.brokers, client=(None, byte))


def failure_of(conversation: Conversation, cuts: Cuts) -> str:
    """Play it once; what went wrong, or an empty string."""
    try:
        Tape(complete(conversation), cuts).play()
    except Exception as error:
        return f"{conversation.__name__}, {cuts}: {type(error).__name__}: {error}"
    return ""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=7, help="how many bytes lie between two places of a double cut")
    parser.add_argument("--only", default="", help="only conversations whose name has this in it")
    asked = parser.parse_args()
    failed = 0
    for conversation in CONVERSATIONS:
        if asked.only not in conversation.__name__:
            continue
        began, played, wrong = time.monotonic(), 0, 0
        singles = (cuts for wire in range(len(WIRES)) for cuts in once(conversation, wire))
        for cuts in (*singles, *twice(conversation, asked.step)):
            played += 1
            failure = failure_of(conversation, cuts)
            if failure:
                wrong += 1
                say(failure)
        failed += wrong
        say(f"{conversation.__name__}: cut {played} times, {wrong} failed, {time.monotonic() - began:.0f} s")
    say(f"{failed} failed" if failed else "every cut was survived")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
