import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    """Both loops, since each has its own way with full sockets, cancelled connections and TLS."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
