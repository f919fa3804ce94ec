"""What the way through a proxy costs: messages per second, round trips, processor time; beside direct and HAProxy.

__main__.py  the command: rounds, interleaved so that a busy minute of the machine hurts all ways alike
broker.c     a broker that costs nothing;  load.c  clients that cost nothing;  wire.h  what both need of AMQP
rig.py       compiles both at run time, and makes one measurement with them
table.py     medians, spread and the ratio to HAProxy; pure
"""
