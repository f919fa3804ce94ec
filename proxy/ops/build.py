"""Which Sidehop this is: version, interpreter, and whether the engine runs compiled."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import TYPE_CHECKING

from proxy import __version__

if TYPE_CHECKING:
    import asyncio


@dataclass(frozen=True, slots=True)
class Build:
    """What `--version` says and the metric `sidehop_build_info` carries. `loop` is uvloop or asyncio."""

    version: str
    python: str
    compiled: bool
    loop: str

    @property
    def engine(self) -> str:
        """For people."""
        return "compiled" if self.compiled else "not compiled: slower, the same behaviour"

    @property
    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """What makes such an event loop; None for Python's own."""
        if self.loop != "uvloop":
            return None
        import uvloop

        return uvloop.new_event_loop


def this_build() -> Build:
    """Look at what is installed, without importing the engine."""
    relay = find_spec("proxy.session.relay")
    compiled = relay is not None and (relay.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
    return Build(__version__, platform.python_version(), compiled, "uvloop" if find_spec("uvloop") else "asyncio")
