"""The failover drill: what does a client library see while its brokers are killed?

__main__.py  the command: which clients, workloads, queues, ways and faults; the exit code
workload.py  what the two applications of a cell do, and what counts for it
cell.py      one client with one workload on one way (direct, HAProxy, Sidehop) through all faults
faults.py    how a broker is hurt, and how the cluster is made whole again before the next fault
account.py   what became of every message; pure
table.py     the result as Markdown and JSON
clients/     the applications: stock libraries, each in a process of its own
"""
