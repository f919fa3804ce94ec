"""The functional tests that client libraries ship, run directly against a broker and through Sidehop.

`python -m tests.foreign` fetches, runs and compares them; docs/FOREIGN.md has what came of it.
"""
