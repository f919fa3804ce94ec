"""Sockets and time: the only interpreter of what the engine asks for."""
