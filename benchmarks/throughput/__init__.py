"""What the way through a proxy costs: messages per second, round trips, processor time; beside direct and HAProxy.

__main__.py  the command: rounds, interleaved so that a busy minute of the machine hurts all ways alike
rig.c        both ends, in C: a broker and clients that cost nothing; compiled at run time
rig.py       one measurement with it
table.py     medians, spread and the ratio to HAProxy; pure
"""
