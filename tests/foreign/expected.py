"""Tests that end otherwise through Sidehop, and why that is right. docs/FOREIGN.md tells the same at length."""

from __future__ import annotations

# By suite, then by test: the reason.
EXPECTED: dict[str, dict[str, str]] = {}
