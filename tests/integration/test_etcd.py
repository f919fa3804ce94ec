"""Discovery against a real etcd, with both clients: what goes wrong in real life, and what is kept meanwhile."""

import base64
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest

from proxy.upstream.discovery import DiscoveryPolicy, EtcdPolicy
from proxy.upstream.discovery.etcd_grpc import GrpcRegistry
from proxy.upstream.discovery.etcd_http import GatewayRegistry
from proxy.upstream.discovery.registry import RegistryError
from tests.support.etcd import Etcd, cluster
from tests.support.following import eventually, following
from tests.support.ports import free_port
from tests.support.relay import Relay

pytestmark = pytest.mark.integration

NODE = "http://127.0.0.1:5672"
_prefixes = (f"/test/{number}/" for number in itertools.count())


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Etcd]:
    etcd = Etcd(tmp_path_factory.mktemp("etcd"))
    etcd.start()
    yield etcd
    etcd.close()


@pytest.fixture
def etcd(shared) -> Etcd:
    """An etcd that a test may hurt; each test has a prefix of its own."""
    if not shared.running:
        shared.start()
    return shared


@pytest.fixture
def prefix() -> str:
    return next(_prefixes)


@pytest.fixture(params=["http", "etcd3"])
def policy(request, etcd, prefix) -> EtcdPolicy:
    """Impatient, so that the tests are quick."""
    return EtcdPolicy(
        endpoints=(etcd.url,),
        prefix=prefix,
        client=request.param,
        reconcile_s=0.5,
        timeout_s=1.0,
        retry_base_s=0.05,
        retry_max_s=0.2,
    )


def discovery(policy: EtcdPolicy, **more) -> DiscoveryPolicy:
    return DiscoveryPolicy(source="etcd", etcd=policy, **more)


def registry(policy: EtcdPolicy):
    return GatewayRegistry(policy, 0) if policy.client == "http" else GrpcRegistry(policy, 0)


def compact(etcd: Etcd) -> None:
    """Forget all history."""
    status = json.loads(etcd.ctl("endpoint", "status", "-w", "json"))
    etcd.ctl("compact", str(status[0]["Status"]["header"]["revision"]))


async def test_nodes_that_come_change_and_go_are_seen(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    patient = replace(policy, reconcile_s=3600)  # so that it is the watch that sees them
    async with following(discovery(patient)) as seen:
        await seen.until_names("mq1")
        etcd.ctl("put", prefix + "mq2", '{"url": "amqps://mq2", "weight": 7, "state": "drain"}')
        await seen.until_names("mq1", "mq2")
        changed = seen.snapshots[-1].endpoints[1]
        assert (changed.address, changed.tls, changed.weight, changed.intent) == ("mq2:5671", True, 7, "drain")
        etcd.ctl("put", prefix + "mq2", "mq2:5673")
        await seen.until(lambda: seen.snapshots[-1].endpoints[1].address == "mq2:5673")
        etcd.ctl("del", prefix + "mq1")
        await seen.until_names("mq2")
        assert seen.snapshots[-1].revision == seen.discovery.status.revision > 0
        assert [report.event for report in seen.reports] == ["snapshot_off", "discovery_synced"]


@pytest.mark.parametrize("end", ["/", ""], ids=["with a slash", "without a slash"])
async def test_keys_beside_the_prefix_are_not_nodes(etcd, policy, prefix, end):
    etcd.ctl("put", prefix + "mq1", NODE)
    etcd.ctl("put", prefix.rstrip("/") + "0", NODE)
    etcd.ctl("put", prefix.rstrip("/") + "-old/mq1", NODE)
    async with following(discovery(replace(policy, prefix=prefix.rstrip("/") + end))) as seen:
        await seen.until_names("mq1")
        etcd.ctl("put", prefix.rstrip("/") + "-other", NODE)
        etcd.ctl("put", prefix + "mq2", NODE)
        await seen.until_names("mq1", "mq2")


async def test_a_value_that_nobody_understands_hurts_only_itself_and_keeps_what_it_was(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    etcd.ctl("put", prefix + "mq2", "ftp://mq2")
    async with following(discovery(policy)) as seen:
        await seen.until_names("mq1")
        assert [entry.key for entry in seen.snapshots[-1].rejected] == [prefix + "mq2"]
        etcd.ctl("put", prefix + "mq1", '{"url": 5}')
        await seen.until(lambda: len(seen.snapshots[-1].rejected) == 2)
        assert seen.names == ["mq1"]
        etcd.ctl("put", prefix + "mq2", NODE)
        await seen.until_names("mq1", "mq2")
        etcd.ctl("del", prefix + "mq1")
        await seen.until_names("mq2")
        assert [report.facts["key"] for report in seen.told("discovery_rejected")] == [prefix + "mq2", prefix + "mq1"]


async def test_a_killed_etcd_costs_no_node_and_what_changed_meanwhile_is_seen(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    async with following(discovery(policy)) as seen:
        await seen.until_names("mq1")
        etcd.kill()
        await seen.until(lambda: seen.discovery.status.stale and seen.discovery.status.errors >= 3)
        assert seen.names == ["mq1"]
        assert len(seen.told("discovery_failed")) == 1
        etcd.start()
        etcd.ctl("put", prefix + "mq2", NODE)
        await seen.until_names("mq1", "mq2")
        assert not seen.discovery.status.stale
        assert len(seen.told("discovery_synced")) == 2


async def test_a_node_deleted_while_the_registry_was_out_of_reach_is_gone_although_history_is(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    etcd.ctl("put", prefix + "mq2", NODE)
    async with Relay(etcd.port, free_port()) as relay:
        far = replace(policy, endpoints=(f"http://127.0.0.1:{relay.port}",))
        async with following(discovery(far)) as seen:
            await seen.until_names("mq1", "mq2")
            relay.refuse()
            relay.cut()
            await seen.until(lambda: seen.discovery.status.stale)
            etcd.ctl("del", prefix + "mq1")
            compact(etcd)
            await relay.accept()
            await seen.until_names("mq2")


async def test_a_watch_that_begins_in_compacted_history_says_so(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    etcd.ctl("put", prefix + "mq1", NODE)
    compact(etcd)
    client = registry(policy)
    try:
        watch = await client.watch(1)
        with pytest.raises(RegistryError, match="compacted"):
            await watch.changes()
        watch.close()
    finally:
        await client.close()


async def test_a_frozen_etcd_is_noticed_and_its_nodes_stay(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    async with following(discovery(policy)) as seen:
        await seen.until_names("mq1")
        etcd.pause()
        try:
            await seen.until(lambda: seen.discovery.status.stale)
        finally:
            etcd.resume()
        etcd.ctl("put", prefix + "mq2", NODE)
        await seen.until_names("mq1", "mq2")
        await seen.until(lambda: not seen.discovery.status.stale)


async def test_a_black_hole_is_noticed_and_another_member_asked(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    async with Relay(etcd.port, free_port()) as first, Relay(etcd.port, free_port()) as second:
        ways = (f"http://127.0.0.1:{first.port}", f"http://127.0.0.1:{second.port}")
        async with following(discovery(replace(policy, endpoints=ways))) as seen:
            await seen.until_names("mq1")
            first.silence()
            etcd.ctl("put", prefix + "mq2", NODE)
            await seen.until_names("mq1", "mq2")
            first.speak()
            second.silence()
            etcd.ctl("put", prefix + "mq3", NODE)
            await seen.until_names("mq1", "mq2", "mq3")


async def test_mass_expiry_of_leases_takes_no_node_away(etcd, policy, prefix):
    lease = etcd.ctl("lease", "grant", "60").split()[1]
    for name in ("mq1", "mq2", "mq3"):
        etcd.ctl("put", prefix + name, NODE, "--lease", lease)
    async with following(discovery(policy)) as seen:
        await seen.until_names("mq1", "mq2", "mq3")
        etcd.ctl("lease", "revoke", lease)  # the same deletions as an expiry, in the same transaction
        await seen.until(lambda: seen.told("discovery_emptied"))
        assert seen.names == ["mq1", "mq2", "mq3"]
        assert seen.discovery.status.stale
        etcd.ctl("put", prefix + "mq1", NODE)
        await seen.until_names("mq1")
        assert not seen.discovery.status.stale


async def test_an_etcd_that_wakes_from_a_freeze_and_expires_every_lease_takes_no_node_away(etcd, policy, prefix):
    ttl_s = 4
    lease = etcd.ctl("lease", "grant", str(ttl_s)).split()[1]
    for name in ("mq1", "mq2", "mq3"):
        etcd.ctl("put", prefix + name, NODE, "--lease", lease)
    async with following(discovery(policy)) as seen:
        await seen.until_names("mq1", "mq2", "mq3")
        etcd.pause()
        try:
            awake_at = time.monotonic() + ttl_s
            await seen.until(lambda: seen.discovery.status.stale and time.monotonic() > awake_at)
        finally:
            etcd.resume()
        await seen.until(lambda: seen.told("discovery_emptied"))
        assert "already expired" in etcd.ctl("lease", "timetolive", lease)
        assert seen.names == ["mq1", "mq2", "mq3"]
        assert seen.discovery.status.stale
        # The registrars put their keys again.
        etcd.ctl("put", prefix + "mq1", NODE)
        etcd.ctl("put", prefix + "mq2", NODE)
        await seen.until_names("mq1", "mq2")
        await seen.until(lambda: not seen.discovery.status.stale)


async def test_eight_megabytes_of_entries_are_read(etcd, policy, prefix):
    padding = "x" * 40000
    value = json.dumps({"url": "mq1", "remark": padding})
    for batch in range(8):
        put_all(etcd, {f"{prefix}mq{batch}-{number}": value for number in range(25)})
    async with following(discovery(policy)) as seen:
        await seen.until(lambda: len(seen.names) == 200)
        etcd.ctl("put", prefix + "one-more", NODE)
        await seen.until(lambda: len(seen.names) == 201)


async def test_a_prefix_with_far_too_many_keys_is_taken_for_a_mistake(etcd, policy, prefix):
    for name in ("mq1", "mq2", "mq3"):
        etcd.ctl("put", prefix + name, NODE)
    async with following(discovery(replace(policy, entries_max=2))) as seen:
        await seen.until(lambda: seen.told("discovery_failed"))
        assert "etcd.prefix" in seen.discovery.status.last_error


async def test_twenty_broken_watches_leave_nothing_behind(etcd, policy, prefix):
    etcd.ctl("put", prefix + "mq1", NODE)
    before = watchers(etcd)
    async with Relay(etcd.port, free_port()) as relay:
        quick = replace(policy, endpoints=(f"http://127.0.0.1:{relay.port}",), retry_max_s=0.05)
        async with following(discovery(quick)) as seen:
            await eventually(lambda: watchers(etcd) == before + 1)
            threads = threading.active_count()
            for _ in range(20):
                errors = seen.discovery.status.errors
                relay.cut()
                await seen.until(lambda errors=errors: seen.discovery.status.errors > errors)
                await eventually(lambda: watchers(etcd) == before + 1)
            await eventually(lambda: relay.open <= 2)
            await eventually(lambda: threading.active_count() <= threads + 1)
        await eventually(lambda: relay.open == 0)
    await eventually(lambda: watchers(etcd) == before)


async def test_a_cold_start_without_etcd_uses_what_was_saved(etcd, policy, prefix, tmp_path):
    etcd.ctl("put", prefix + "mq1", NODE)
    saved = tmp_path / "endpoints.json"
    async with following(discovery(policy, snapshot_path=str(saved))) as seen:
        await seen.until_names("mq1")
        await seen.until(saved.exists)
    etcd.kill()
    async with following(discovery(policy, snapshot_path=str(saved), cold_start_s=0.1)) as seen:
        await seen.until_names("mq1")
        assert seen.discovery.status.stale
        assert seen.discovery.status.synced_at is None
        assert seen.told("discovery_restored")
        etcd.start()
        await seen.until(lambda: not seen.discovery.status.stale)


async def test_nodes_registered_with_the_package_etcd3_are_seen(etcd, policy, prefix):
    import etcd3

    client = etcd3.client(port=etcd.port)
    async with following(discovery(policy)) as seen:
        client.put(prefix + "mq1", NODE, lease=client.lease(60))
        await seen.until_names("mq1")
    client.close()


async def test_a_cluster_without_quorum_is_noticed_and_still_tells_a_newcomer(policy, prefix, tmp_path):
    with cluster(tmp_path, 3) as members:
        alone = replace(policy, endpoints=(members[0].url,))
        members[0].ctl("put", prefix + "mq1", NODE)
        patient = replace(alone, reconcile_s=3600)  # so that it is the watch that notices
        async with following(discovery(patient)) as seen:
            await seen.until_names("mq1")
            members[1].kill()
            members[2].kill()
            await seen.until(lambda: seen.discovery.status.stale)
            assert seen.names == ["mq1"]
            async with following(discovery(alone)) as newcomer:
                await newcomer.until_names("mq1")
                await newcomer.until(lambda: newcomer.discovery.status.stale)
            members[1].start()
            members[1].ctl("put", prefix + "mq2", NODE)
            await seen.until_names("mq1", "mq2")
            await seen.until(lambda: not seen.discovery.status.stale)


async def test_the_death_of_the_member_in_use_turns_to_another(policy, prefix, tmp_path):
    with cluster(tmp_path, 3) as members:
        urls = tuple(each.url for each in members)
        members[0].ctl("put", prefix + "mq1", NODE)
        async with following(discovery(replace(policy, endpoints=urls))) as seen:
            await seen.until_names("mq1")
            await eventually(lambda: any(map(watchers, members)))
            used = next(filter(watchers, members))
            used.kill()
            left = next(each for each in members if each.running)
            left.wait_healthy()
            left.ctl("put", prefix + "mq2", NODE)
            await seen.until_names("mq1", "mq2")


def watchers(etcd: Etcd) -> float:
    """How many watch through this member."""
    return etcd.metric("etcd_debugging_mvcc_watcher_total")


def put_all(etcd: Etcd, values: dict[str, str]) -> None:
    """Put many large values in one transaction."""
    puts = [{"request_put": {"key": encoded(key), "value": encoded(value)}} for key, value in values.items()]
    body = json.dumps({"success": puts}).encode()
    with urllib.request.urlopen(f"{etcd.url}/v3/kv/txn", body, timeout=10) as answer:
        assert answer.status == 200


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
