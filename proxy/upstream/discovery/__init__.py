"""Which brokers are there? Sources ask; the keeper remembers.

The map:

    policy.py    DiscoveryPolicy and load_discovery: from the configuration to a running source
    source.py    what a source has to do (the extension point)
    keeper.py    the last good answer, in memory and on disk (cache.py); reports; status
    entry.py     one registry value becomes an endpoint
    static.py, file.py, dns.py    three sources
    etcd.py      the fourth: the recipe, over view.py (what is known) and registry.py (what etcd is to it)
    etcd_http.py, etcd_grpc.py    two ways to talk to etcd: JSON gateway, and the package etcd3
"""

from proxy.upstream.discovery.dns import DnsPolicy
from proxy.upstream.discovery.file import FilePolicy
from proxy.upstream.discovery.policy import DiscoveryPolicy, load_discovery
from proxy.upstream.discovery.registry import EtcdPolicy
from proxy.upstream.discovery.source import Answer, Fail, Source
from proxy.upstream.discovery.static import StaticPolicy

__all__ = [
    "Answer",
    "DiscoveryPolicy",
    "DnsPolicy",
    "EtcdPolicy",
    "Fail",
    "FilePolicy",
    "Source",
    "StaticPolicy",
    "load_discovery",
]
