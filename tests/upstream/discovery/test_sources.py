"""The sources that need no registry, and how the configuration chooses one."""

import asyncio
import random
import socket
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from proxy.errors import ConfigError
from proxy.upstream.discovery import DiscoveryPolicy, DnsPolicy, EtcdPolicy, FilePolicy, StaticPolicy, load_discovery
from proxy.upstream.discovery import policy as policy_module
from proxy.upstream.discovery.cache import SnapshotFile
from proxy.upstream.discovery.dns import DnsDiscovery
from proxy.upstream.discovery.file import FILE_BYTES_MAX
from proxy.upstream.endpoint import Endpoint, Snapshot
from tests.support.following import following


async def test_static_nodes_are_there_at_once():
    nodes = ("127.0.0.1:5672", "amqps://mq2", {"url": "mq3", "name": "third", "weight": 7})
    async with following(DiscoveryPolicy(static=StaticPolicy(nodes=nodes))) as seen:
        await seen.until_names("127.0.0.1:5672", "mq2:5671", "third")
        assert [endpoint.weight for endpoint in seen.snapshots[-1].endpoints] == [100, 100, 7]


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (lambda: StaticPolicy(nodes=("mq1", "mq1:0")), r"static\.nodes\[1\]"),
        (lambda: StaticPolicy(nodes=("mq1", "mq1:5672")), r"static\.nodes\[1\].*twice"),
        (lambda: FilePolicy(poll_s=0), r"file\.poll_s"),
        (lambda: DnsPolicy(port=0), r"dns\.port"),
        (lambda: DnsPolicy(interval_s=0), "interval_s"),
        (lambda: EtcdPolicy(endpoints=()), "endpoints"),
        (lambda: EtcdPolicy(endpoints=("mq1:2379",)), "http://host:2379"),
        (lambda: EtcdPolicy(endpoints=("http://a:b@mq1:2379",)), "password"),
        (lambda: EtcdPolicy(endpoints=("http://mq1:99999",)), "endpoints"),
        (lambda: EtcdPolicy(prefix=""), "prefix"),
        (lambda: EtcdPolicy(user="me"), "user and .*password"),
        (lambda: EtcdPolicy(user="me", password="a", password_file="b"), "not both"),
        (lambda: EtcdPolicy(cert="a"), "cert and .*key"),
        (lambda: EtcdPolicy(ca="a"), "https://"),
        (lambda: EtcdPolicy(client="grpc"), "http or etcd3"),
        (lambda: EtcdPolicy(reconcile_s=0), "reconcile_s"),
        (lambda: EtcdPolicy(retry_base_s=9), "retry_base_s"),
        (lambda: EtcdPolicy(entries_max=0), "entries_max"),
        (lambda: DiscoveryPolicy(cold_start_s=-1), "cold_start_s"),
    ],
)
def test_nonsense_is_refused_by_its_key(policy, key):
    with pytest.raises(ConfigError, match=key):
        policy()


@pytest.mark.parametrize(("given", "used"), [("/mq/nodes", "/mq/nodes/"), ("/mq/nodes/", "/mq/nodes/"), ("/", "/")])
def test_a_prefix_of_etcd_ends_with_a_slash(given, used):
    assert EtcdPolicy(prefix=given).prefix == used


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (DiscoveryPolicy(), "static.nodes"),
        (DiscoveryPolicy(source="file"), "file.path"),
        (DiscoveryPolicy(source="dns"), "dns.name"),
        (DiscoveryPolicy(source="consul"), "dns, etcd, file, static"),
    ],
)
def test_a_source_that_cannot_work_is_refused_at_start(policy, key):
    with pytest.raises(ConfigError, match=key):
        load_discovery(policy, print, random.Random(1))


@pytest.mark.parametrize("client", ["http", "etcd3"])
def test_certificates_that_cannot_be_read_are_refused_at_start(client):
    etcd = EtcdPolicy(endpoints=("https://mq1",), ca="/does/not/exist", client=client)
    told = "^discovery.etcd.ca: /does/not/exist cannot be read: No such file or directory$"
    with pytest.raises(ConfigError, match=told):
        load_discovery(DiscoveryPolicy(source="etcd", etcd=etcd), print, random.Random(1))


@pytest.mark.parametrize("client", ["http", "etcd3"])
def test_certificates_that_are_none_are_refused_at_start(client, tmp_path):
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    etcd = EtcdPolicy(endpoints=("https://mq1",), ca=str(wrong), client=client)
    with pytest.raises(ConfigError, match=rf"^discovery.etcd.ca \({wrong}\) cannot be used: "):
        load_discovery(DiscoveryPolicy(source="etcd", etcd=etcd), print, random.Random(1))


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (DiscoveryPolicy(source="etcd"), ["snapshot_off"]),
        (DiscoveryPolicy(source="dns", dns=DnsPolicy(name="mq")), ["snapshot_off"]),
        (DiscoveryPolicy(source="etcd", snapshot_path="/var/lib/sidehop/endpoints.json"), []),
        (DiscoveryPolicy(static=StaticPolicy(nodes=("mq1",))), []),
        (DiscoveryPolicy(source="file", file=FilePolicy(path="/etc/brokers.yaml")), []),
    ],
)
def test_it_is_told_when_a_restart_will_need_the_registry(policy, told):
    reports = []
    load_discovery(policy, reports.append, random.Random(1))
    assert [report.event for report in reports] == told


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "etcd3", None)
    monkeypatch.delitem(sys.modules, "proxy.upstream.discovery.etcd_grpc", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'sidehop\[etcd3\]'"):
        load_discovery(DiscoveryPolicy(source="etcd", etcd=EtcdPolicy(client="etcd3")), print, random.Random(1))


def test_a_password_is_not_shown():
    assert "hunter2" not in repr(DiscoveryPolicy(etcd=EtcdPolicy(user="me", password="hunter2")))


@pytest.mark.parametrize(
    ("saved_from", "believed"),
    [
        ("etcd:/mq/nodes/ at 127.0.0.1:1", True),
        ("etcd:/mq/nodes/ at [::1]:2379", True),
        ("etcd:/mq/nodes/ at 127.0.0.1:2379", False),
        ("etcd:/mq/other/ at 127.0.0.1:1", False),
    ],
)
async def test_what_another_etcd_said_is_not_believed_while_one_member_in_common_is_enough(
    tmp_path, saved_from, believed
):
    saved = tmp_path / "endpoints.json"
    SnapshotFile(str(saved), {saved_from, "etcd:/mq/nodes/ at gone:2379"}).save(Snapshot((Endpoint("mq1", "mq1", 1),)))
    etcd = EtcdPolicy(endpoints=("https://[::1]", "https://127.0.0.1:1/"))
    policy = DiscoveryPolicy(source="etcd", etcd=etcd, snapshot_path=str(saved), cold_start_s=0)
    async with following(policy) as seen:
        await seen.until(lambda: seen.names or seen.told("snapshot_unusable"))
        assert (seen.names == ["mq1"]) is believed
        if not believed:
            reason = seen.told("snapshot_unusable")[0].facts["reason"]
            assert saved_from in reason
            assert "not from etcd:/mq/nodes/ at 127.0.0.1:1 or etcd:/mq/nodes/ at [::1]:2379" in reason


def greeting(options, rng):
    """A third party's source."""
    return DnsDiscovery(DnsPolicy(name=options["name"]), rng, resolve=lambda name, port: answers(["10.0.0.9"]))


async def answers(addresses):
    return addresses


async def test_a_third_party_adds_a_source_by_entry_point(monkeypatch):
    offered = EntryPoints([EntryPoint("greeting", f"{__name__}:greeting", policy_module.GROUP)])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: offered.select(group=group))
    async with following(DiscoveryPolicy(source="greeting", options={"name": "x"})) as seen:
        await seen.until_names("10.0.0.9:5672")
    with pytest.raises(ConfigError, match="dns, etcd, file, greeting, static"):
        load_discovery(DiscoveryPolicy(source="other"), print, random.Random(1))


def test_a_third_party_source_that_cannot_be_loaded_is_told(monkeypatch):
    offered = EntryPoints([EntryPoint("broken", f"{__name__}:missing", policy_module.GROUP)])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: offered.select(group=group))
    with pytest.raises(ConfigError, match=r"broken.*missing"):
        load_discovery(DiscoveryPolicy(source="broken"), print, random.Random(1))


async def test_a_changed_file_is_read_again_and_a_bad_one_changes_nothing(tmp_path):
    path = tmp_path / "nodes.yaml"
    path.write_text("nodes:\n- mq1\n- url: mq2\n  name: second\n- 17\n")
    async with following(DiscoveryPolicy(source="file", file=FilePolicy(str(path), poll_s=0.01))) as seen:
        await seen.until_names("mq1:5672", "second")
        assert [entry.key for entry in seen.snapshots[-1].rejected] == ["nodes[2]"]
        for bad in ("nodes: [", "nodes: 5", "\x00"):
            errors = seen.discovery.status.errors
            replaced(path, bad)
            await seen.until(lambda errors=errors: seen.discovery.status.errors > errors)
            assert str(path) in seen.discovery.status.last_error
            assert seen.discovery.status.stale
            assert seen.names == ["mq1:5672", "second"]
        replaced(path, '["mq3", "mq3:5672"]')
        await seen.until_names("mq3:5672")
        assert "twice" in seen.snapshots[-1].rejected[0].reason
        assert not seen.discovery.status.stale


async def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    path = tmp_path / "nodes.yaml"
    with path.open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    async with following(DiscoveryPolicy(source="file", file=FilePolicy(str(path)))) as seen:
        await seen.until(lambda: "larger than" in seen.discovery.status.last_error)


async def test_an_empty_file_names_no_node(tmp_path):
    path = tmp_path / "nodes.yaml"
    path.touch()
    async with following(DiscoveryPolicy(source="file", file=FilePolicy(str(path)))) as seen:
        await seen.until(lambda: seen.told("discovery_emptied"))
        assert seen.snapshots == [Snapshot(())]


async def test_a_file_that_is_away_for_a_while_comes_back(tmp_path):
    path = tmp_path / "nodes.json"
    async with following(DiscoveryPolicy(source="file", file=FilePolicy(str(path), poll_s=0.01))) as seen:
        await seen.until(lambda: seen.discovery.status.errors)
        path.write_text('{"nodes": ["mq1"]}')
        await seen.until_names("mq1:5672")
        away = path.rename(tmp_path / "elsewhere")
        await seen.until(lambda: seen.discovery.status.stale)
        away.rename(path)  # the same file, unchanged
        await seen.until(lambda: not seen.discovery.status.stale)


def replaced(path, text):
    """As a ConfigMap or an editor does: another file under the same name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


async def test_each_address_of_a_name_is_an_endpoint_and_failures_change_nothing():
    told = asyncio.Queue()
    replies = iter(
        [["10.0.0.2", "10.0.0.1", "10.0.0.2", "::1"], socket.gaierror("no such name"), TimeoutError(), ["10.0.0.3"]]
    )

    async def resolve(name, port):
        assert (name, port) == ("mq.example.org", 5671)
        reply = next(replies, None)
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, Exception):
            raise reply
        return reply

    policy = DnsPolicy("mq.example.org", 5671, tls=True, interval_s=0.001)
    task = asyncio.create_task(DnsDiscovery(policy, random.Random(1), resolve).run(told.put_nowait, told.put_nowait))
    first, *failures, last = [await told.get() for _ in range(4)]
    task.cancel()
    assert [endpoint.name for endpoint in first.endpoints] == ["10.0.0.1:5671", "10.0.0.2:5671", "[::1]:5671"]
    assert all(endpoint.tls and endpoint.server_name == "mq.example.org" for endpoint in first.endpoints)
    assert failures == ["mq.example.org: no such name", "mq.example.org: no answer within 10 s"]
    assert isinstance(last, Snapshot)
    assert [endpoint.host for endpoint in last.endpoints] == ["10.0.0.3"]


async def test_a_resolver_that_never_answers_is_given_up():
    async def resolve(name, port):
        await asyncio.Event().wait()

    told = asyncio.Queue()
    policy = DnsPolicy("mq", timeout_s=0.001)
    task = asyncio.create_task(DnsDiscovery(policy, random.Random(1), resolve).run(told.put_nowait, told.put_nowait))
    assert await told.get() == "mq: no answer within 0.001 s"
    task.cancel()


async def test_the_real_resolver_knows_localhost():
    async with following(DiscoveryPolicy(source="dns", dns=DnsPolicy("localhost", 5672))) as seen:
        await seen.until(lambda: "127.0.0.1:5672" in seen.names)
