"""`python -m benchmarks` (`make bench`) is the throughput; the drill and the footprint have commands of their own."""

from __future__ import annotations

import sys

from benchmarks.throughput.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
