"""Ports for tests, all in one block so that a test run, the lab and another test run can share a machine."""

from __future__ import annotations

import itertools
import os
import socket

# +0 to +99 is the broker cluster's, +100 to +139 that of a lab under test, +140 to +199 is handed out by free_port,
# +200 to +299 is the cluster of RabbitMQ 4.0.
# Below 32768 no outgoing connection of the machine can take one in the meantime.
BASE = int(os.environ.get("SIDEHOP_TEST_PORT_BASE", "25800"))
_NEXT = itertools.cycle(range(BASE + 140, BASE + 200))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, not handed out again for a while."""
    for port in itertools.islice(_NEXT, 60):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port between {BASE + 140} and {BASE + 199}")
