"""Who may read a real etcd: TLS, client certificates, passwords, rights; and what is said when one fails."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from proxy.errors import ConfigError
from proxy.upstream.discovery import DiscoveryPolicy, EtcdPolicy
from proxy.upstream.discovery.etcd_grpc import GrpcRegistry
from proxy.upstream.discovery.etcd_http import GatewayRegistry
from proxy.upstream.discovery.registry import RegistryError
from tests.support.certificates import Authority
from tests.support.etcd import Account, Etcd, Tls
from tests.support.following import following
from tests.support.ports import free_port
from tests.support.relay import Relay

pytestmark = pytest.mark.integration

PREFIX = "/mq/nodes/"
NODE = "http://127.0.0.1:5672"
ROOT = "root:root"
AUTHENTICATIONS = (
    'grpc_server_started_total{grpc_method="Authenticate",grpc_service="etcdserverpb.Auth",grpc_type="unary"}'
)
both_clients = pytest.mark.parametrize("client", ["http", "etcd3"])


def impatient(etcd: Etcd, client: str, **more) -> EtcdPolicy:
    policy = EtcdPolicy(
        endpoints=(etcd.url,),
        client=client,
        reconcile_s=0.5,
        timeout_s=2.0,
        retry_base_s=0.05,
        retry_max_s=0.2,
        ca=str(etcd.tls.ca) if etcd.tls else "",
    )
    return replace(policy, **more)


def discovery(policy: EtcdPolicy) -> DiscoveryPolicy:
    return DiscoveryPolicy(source="etcd", etcd=policy)


@contextmanager
def running(etcd: Etcd) -> Iterator[Etcd]:
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.close()


def turn_auth_on(etcd: Etcd) -> None:
    """root may do all, reader may read the prefix, stranger nothing."""
    etcd.ctl("user", "add", ROOT)
    etcd.ctl("user", "grant-role", "root", "root")
    etcd.ctl("role", "add", "reader")
    etcd.ctl("role", "grant-permission", "reader", "--prefix=true", "read", PREFIX)
    etcd.ctl("user", "add", "reader:first")
    etcd.ctl("user", "grant-role", "reader", "reader")
    etcd.ctl("user", "add", "stranger:secret")
    etcd.ctl("auth", "enable")
    etcd.account = replace(etcd.account, user=ROOT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[Etcd]:
    """Authentication is on."""
    with running(Etcd(tmp_path_factory.mktemp("guarded"))) as etcd:
        turn_auth_on(etcd)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        yield etcd


@both_clients
async def test_a_user_with_read_rights_sees_the_nodes(guarded, client):
    async with following(discovery(impatient(guarded, client, user="reader", password="first"))) as seen:
        await seen.until_names("mq1")
        assert not seen.discovery.status.errors


@both_clients
async def test_a_user_without_rights_is_told_and_gets_in_once_they_are_granted(guarded, client):
    async with following(discovery(impatient(guarded, client, user="stranger", password="secret"))) as seen:
        await seen.until(lambda: "permission denied" in seen.discovery.status.last_error)
        assert not seen.names
        guarded.ctl("user", "grant-role", "stranger", "reader")
        await seen.until_names("mq1")
    guarded.ctl("user", "revoke-role", "stranger", "reader")


@both_clients
async def test_a_denied_watch_does_not_hang(guarded, client):
    policy = impatient(guarded, client, user="stranger", password="secret")
    registry = GatewayRegistry(policy, 0) if client == "http" else GrpcRegistry(policy, 0)
    try:
        with pytest.raises(RegistryError, match="permission denied") as denied:
            await registry.watch(1)
        assert denied.value.auth
    finally:
        await registry.close()


@both_clients
async def test_an_expired_token_is_replaced(tmp_path, client):
    with running(Etcd(tmp_path, flags=("--auth-token-ttl", "1"))) as etcd:
        turn_auth_on(etcd)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        # The next comparison comes when the token has been idle for longer than it lives.
        slow = impatient(etcd, client, user="reader", password="first", reconcile_s=2.5)
        async with following(discovery(slow)) as seen:
            await seen.until_names("mq1")
            await seen.until(lambda: seen.discovery.status.errors)
            assert "invalid auth token" in seen.told("discovery_failed")[0].facts["reason"]
            etcd.ctl("put", PREFIX + "mq2", NODE)
            await seen.until_names("mq1", "mq2")
            assert not seen.discovery.status.stale


@both_clients
async def test_a_token_that_expired_before_the_watch_opens_is_told_and_replaced(tmp_path, client):
    with running(Etcd(tmp_path, flags=("--auth-token-ttl", "1"))) as etcd:
        turn_auth_on(etcd)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        policy = impatient(etcd, client, user="reader", password="first")
        registry = GatewayRegistry(policy, 0) if client == "http" else GrpcRegistry(policy, 0)
        try:
            listing = await registry.read()
            # etcd tells nobody that a token is over, looks once a second, and lets each use prolong its life.
            await asyncio.sleep(3)
            with pytest.raises(RegistryError, match=r"invalid auth token|permission denied") as expired:
                await registry.watch(listing.revision + 1)
            assert expired.value.auth
            await registry.rotate(drop_token=expired.value.auth)
            watch = await registry.watch(listing.revision + 1)
            etcd.ctl("put", PREFIX + "mq2", NODE)
            changed, _ = await watch.changes()
            assert [item.key for item in changed] == [PREFIX + "mq2"]
            watch.close()
        finally:
            await registry.close()


@both_clients
async def test_a_token_is_kept_over_an_outage(guarded, client):
    before = guarded.metric(AUTHENTICATIONS)
    async with Relay(guarded.port, free_port()) as relay:
        far = impatient(guarded, client, user="reader", password="first", reconcile_s=0.2, retry_max_s=0.1)
        async with following(discovery(replace(far, endpoints=(f"http://127.0.0.1:{relay.port}",)))) as seen:
            await seen.until_names("mq1")
            for _ in range(3):
                await seen.until(lambda: not seen.discovery.status.stale and relay.open)
                errors = seen.discovery.status.errors
                relay.refuse()
                relay.cut()
                await seen.until(lambda errors=errors: seen.discovery.status.errors >= errors + 2)
                await relay.accept()
            await seen.until(lambda: not seen.discovery.status.stale)
    assert guarded.metric(AUTHENTICATIONS) == before + 1


@both_clients
async def test_a_wrong_password_is_told_and_a_rotated_one_taken_from_its_file(guarded, client, tmp_path):
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    async with following(discovery(impatient(guarded, client, user="reader", password_file=str(secret)))) as seen:
        await seen.until(lambda: seen.discovery.status.errors)
        assert "authentication failed" in seen.discovery.status.last_error
        secret.write_text("first\n")
        await seen.until_names("mq1")
        assert "wrong" not in repr(seen.reports)


@both_clients
async def test_tls_with_a_private_ca(authority, tmp_path, client):
    server = authority.issue("server")
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key))) as etcd:
        turn_auth_on(etcd)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        async with following(discovery(impatient(etcd, client, user="reader", password="first"))) as seen:
            await seen.until_names("mq1")
            etcd.ctl("put", PREFIX + "mq2", NODE)
            await seen.until_names("mq1", "mq2")


@both_clients
async def test_a_certificate_of_another_ca_is_refused(authority, tmp_path, client):
    server = authority.issue("server")
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key))) as etcd:
        (tmp_path / "other").mkdir()
        foreign = str(Authority(tmp_path / "other").ca)
        async with following(discovery(impatient(etcd, client, ca=foreign))) as seen:
            await seen.until(lambda: "CERTIFICATE_VERIFY_FAILED" in seen.discovery.status.last_error)


@both_clients
async def test_a_client_certificate(authority, tmp_path, client):
    server, mine = authority.issue("server"), authority.issue("client")
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key, client_auth=True))) as etcd:
        etcd.account = Account(cert=mine.cert, key=mine.key)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        policy = impatient(etcd, client, cert=str(mine.cert), key=str(mine.key))
        async with following(discovery(policy)) as seen:
            await seen.until_names("mq1")
            etcd.ctl("put", PREFIX + "mq2", NODE)
            await seen.until_names("mq1", "mq2")
        # With authentication on and no common name in the certificate, the password counts.
        turn_auth_on(etcd)
        async with following(discovery(replace(policy, user="reader", password="first"))) as seen:
            await seen.until_names("mq1", "mq2")
        async with following(discovery(replace(policy, cert="", key=""))) as seen:
            await seen.until(lambda: seen.discovery.status.errors)
            assert not seen.names


@both_clients
async def test_a_rotated_client_certificate_is_taken_from_its_files(authority, tmp_path, client):
    server, mine = authority.issue("server"), authority.issue("client")
    (tmp_path / "old").mkdir()
    used = Authority(tmp_path / "old").issue("client")  # of a CA that etcd does not trust
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key, client_auth=True))) as etcd:
        etcd.account = Account(cert=mine.cert, key=mine.key)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        async with following(discovery(impatient(etcd, client, cert=str(used.cert), key=str(used.key)))) as seen:
            await seen.until(lambda: seen.discovery.status.errors)
            mine.key.replace(used.key)
            mine.cert.replace(used.cert)
            await seen.until_names("mq1")


async def test_a_server_certificate_without_client_usage_stops_the_gateway_only(authority, tmp_path):
    server, mine = authority.issue("server", client_auth=False), authority.issue("client")
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key, client_auth=True))) as etcd:
        etcd.account = Account(cert=mine.cert, key=mine.key)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        pair = {"cert": str(mine.cert), "key": str(mine.key)}
        async with following(discovery(impatient(etcd, "http", **pair))) as seen:
            await seen.until(lambda: seen.discovery.status.errors)
            assert "clientAuth" in seen.discovery.status.last_error
        async with following(discovery(impatient(etcd, "etcd3", **pair))) as seen:
            await seen.until_names("mq1")


async def test_a_client_certificate_with_a_common_name_stops_the_gateway_only(authority, tmp_path):
    server, mine = authority.issue("server"), authority.issue("client", common_name="reader")
    with running(Etcd(tmp_path, tls=Tls(authority.ca, server.cert, server.key, client_auth=True))) as etcd:
        anonymous = authority.issue("anonymous")
        etcd.account = Account(cert=anonymous.cert, key=anonymous.key)
        turn_auth_on(etcd)
        etcd.ctl("put", PREFIX + "mq1", NODE)
        pair = {"cert": str(mine.cert), "key": str(mine.key)}
        async with following(discovery(impatient(etcd, "http", **pair))) as seen:
            await seen.until(lambda: seen.discovery.status.errors)
            assert "without CN" in seen.discovery.status.last_error
        async with following(discovery(impatient(etcd, "etcd3", **pair))) as seen:
            await seen.until_names("mq1")


async def test_an_etcd_without_its_gateway_is_explained(tmp_path):
    with running(Etcd(tmp_path, flags=("--enable-grpc-gateway=false",))) as etcd:
        etcd.ctl("put", PREFIX + "mq1", NODE)
        async with following(discovery(impatient(etcd, "http"))) as seen:
            await seen.until(lambda: seen.discovery.status.errors)
            assert "--enable-grpc-gateway=false" in seen.discovery.status.last_error
        async with following(discovery(impatient(etcd, "etcd3"))) as seen:
            await seen.until_names("mq1")


def test_the_package_etcd3_needs_a_named_ca_for_tls():
    with pytest.raises(ConfigError, match=r"discovery\.etcd\.ca: name one"):
        EtcdPolicy(endpoints=("https://127.0.0.1:2379",), client="etcd3")
