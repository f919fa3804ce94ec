"""The failover drill: what does a client library see while its brokers are killed?

__main__.py  the command: which clients, which ways, which faults; the exit code
cell.py      one client on one way (direct, HAProxy, Sidehop) through all faults
faults.py    how a broker is hurt, and how the cluster is made whole again before the next fault
account.py   what became of every message; pure
table.py     the result as Markdown and JSON
clients/     the applications: stock libraries, each in a process of its own
"""
