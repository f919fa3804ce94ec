"""Sidehop: a sidecar that keeps AMQP 0-9-1 connections alive while brokers come and go.

The map. Imports go one way, from the top of this list to its end:

    ops/        What the operator sees and may do: command line, admin API, metrics, log.
    settings/   File, environment and flags become the policy objects of every part.
    net/        Sockets and time. The only interpreter of what the engine asks for.
    session/    What was this client promised, and by whom? Pure: no clock, no socket.
    upstream/   Which broker, and is it well? Pure, but for discovery and probes.
    amqp/       What do the bytes say? Pure.
    reports.py  What Sidehop says about itself: the one catalogue of events.
    errors.py   What can go wrong, sorted by who must act.

The journey of a byte: `net.link` receives a chunk and hands it to `session.session`, which lets
`session.intake` walk the frames in place. What needs no thought passes through untouched; a method that
changes what the client was promised is decoded and remembered. `net.driver` writes what the session
says to the broker's link. The way back is the same, by `session.relay`.
"""

__version__ = "0.1.0"
