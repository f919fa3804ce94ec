"""What the benchmarks run against: a way that can't be gone is said beforehand, with its remedy."""

import stat

from benchmarks import rivals, stand


def test_a_proxy_that_is_missing_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert rivals.missing_proxies(["direct", "haproxy", "nginx", "sidehop"]) == {
        "haproxy": "apt-get install haproxy",
        "nginx": "apt-get install nginx-light libnginx-mod-stream",
    }


def test_an_nginx_that_can_relay_is_taken_as_it_is(tmp_path, monkeypatch):
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\necho 'configure arguments: --with-stream --with-threads' >&2\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nginx" not in rivals.missing_proxies(["nginx"])


def test_nginx_and_haproxy_listen_where_the_ports_say_and_know_every_endpoint(tmp_path):
    ports, endpoints = stand.Ports(30000), ["127.0.0.1:1", "127.0.0.1:2"]
    for port, config in (
        (ports.haproxy, rivals.haproxy_config(ports.haproxy, endpoints)),
        (ports.nginx, rivals.nginx_config(tmp_path, ports.nginx, endpoints)),
    ):
        assert f"127.0.0.1:{port}" in config
        assert all(endpoint in config for endpoint in endpoints)
    assert ports.nginx not in (ports.sidehop, ports.admin, ports.haproxy, ports.fake_broker, ports.beside.admin)
