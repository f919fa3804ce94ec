"""Tests that end otherwise through Sidehop, and why that is right. docs/FOREIGN.md tells the same at length."""

from __future__ import annotations

from tests.foreign.suites import AIORMQ

# By suite, then by test: the reason.
EXPECTED: dict[str, dict[str, str]] = {
    AIORMQ.name: {
        f"tests/test_connection.py::test_bad_channel[{way}]": (
            "opens channel 65535 on a connection that was tuned to 2046: RabbitMQ counts channels, Sidehop holds the "
            "client to the numbers it agreed to"
        )
        for way in ("amqp", "amqp-named", "amqps", "amqps-client")
    },
}
