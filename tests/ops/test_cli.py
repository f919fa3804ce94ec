"""The command as a person or a script meets it: the real process, its output and its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.certificates import Authority

ROOT = Path(__file__).resolve().parent.parent.parent


def sidehop(*arguments, environment=None):
    """Run the command to its end."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SIDEHOP_")}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_check_prints_the_effective_configuration_and_it_can_be_checked_again(tmp_path):
    first = sidehop("check", "--config", "config/examples/static.yaml", "--listen", "[::1]:5999", "--policy", "first")
    assert (first.returncode, first.stderr) == (0, "")
    shown = yaml.safe_load(first.stdout)
    assert shown["listen"] | {"host": "::1", "port": 5999} == shown["listen"]
    assert shown["balance"]["policy"] == "first"
    again = tmp_path / "again.yaml"
    again.write_text(first.stdout)
    assert sidehop("check", "--config", str(again)).stdout == first.stdout


def test_without_a_file_the_flags_name_everything():
    result = sidehop(
        *("check", "--etcd", "http://a:2379", "--etcd", "http://b:2379", "--prefix", "/x/", "--log-level", "debug"),
        *("--log-format", "console", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0"),
    )
    shown = yaml.safe_load(result.stdout)
    assert shown["discovery"]["source"] == "etcd"
    assert shown["discovery"]["etcd"]["endpoints"] == ["http://a:2379", "http://b:2379"]
    assert shown["discovery"]["etcd"]["prefix"] == "/x/"
    assert shown["log"] | {"format": "console", "level": "debug"} == shown["log"]


def test_nodes_on_the_command_line_win_over_the_source_of_a_file():
    shown = yaml.safe_load(sidehop("check", "--config", "config/examples/etcd.yaml", "--node", "mq9").stdout)
    assert shown["discovery"]["source"] == "static"
    assert shown["discovery"]["static"]["nodes"] == ["mq9"]


def test_the_environment_is_read():
    shown = yaml.safe_load(sidehop("check", "--node", "a", environment={"SIDEHOP_SESSION__HEARTBEAT_S": "7"}).stdout)
    assert shown["session"]["heartbeat_s"] == 7.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "discovery.source: no brokers are named"),
        (("--config", "/nonexistent.yaml"), "/nonexistent.yaml: the file cannot be read: No such file or directory"),
        (("--node", "mq1", "--etcd", "http://a"), "give one of the two"),
        (("--node", "mq1", "--listen", "5672"), "--listen: expected HOST:PORT such as 127.0.0.1:5672"),
        (("--node", "mq1", "--admin", ":1"), "--admin: expected HOST:PORT"),
        (("--node", "mq1", "--admin", "a:65536"), "--admin: expected HOST:PORT"),
        (("--node", "mq1", "--log-format", "xml"), "log.format (flag --log-format): expected one of json, console"),
        (("--node", "mq1", "--policy", "p3c"), "balance.policy: 'p3c' is unknown, there are: consistent_hash, first"),
        (("--node", "mq1:99999"), "is not scheme://host:port with a port of 1 to 65535"),
        (("--etcd", "a:2379"), "write each as http://host:2379"),
        (("--node", "mq1", "--prefix", "/x/"), "--prefix: it says where in etcd"),
        (("--config", "config/examples/file.yaml", "--prefix", "/x/"), "but the source is file"),
        (("--node", "mq1", "--shout"), "unrecognized arguments: --shout"),
        (("--node", "mq1", "--log-f", "json"), "unrecognized arguments: --log-f"),
    ],
)
def test_a_wrong_command_line_is_refused_with_exit_code_2(arguments, told):
    result = sidehop("check", *arguments)
    assert result.returncode == 2
    assert told in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_no_source_tells_the_three_ways():
    result = sidehop("run")
    assert result.returncode == 2
    assert all(way in result.stderr for way in ("--node", "--etcd", "--config"))


def test_run_refuses_what_shows_only_when_the_parts_are_made():
    result = sidehop("run", "--node", "mq1", "--policy", "p3c", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert result.returncode == 2
    assert "balance.policy: 'p3c' is unknown" in result.stderr


def test_check_never_prints_a_secret():
    environment = {
        "SIDEHOP_HEALTH__USER": "probe",
        "SIDEHOP_HEALTH__PASSWORD": "hunter2",
        "SIDEHOP_DISCOVERY__OPTIONS__TOKEN": "hunter2",
    }
    for variable in ({}, {"SIDEHOP_LISTEN__PORT": "x"}, {"SIDEHOP_HEALTH__USER": ""}):
        result = sidehop("check", "--node", "mq1", environment=environment | variable)
        assert "hunter2" not in result.stdout + result.stderr
    refused = sidehop("check", "--node", "amqp://u:hunter2@mq1")
    assert (refused.returncode, "hunter2" in refused.stderr) == (2, False)


EXAMPLES = sorted((ROOT / "config/examples").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_are_accepted(path, tmp_path):
    authority = Authority(tmp_path)
    client = authority.issue("client")
    text = path.read_text()
    for name, file in (
        ("etcd-ca.pem", authority.ca),
        ("brokers-ca.pem", authority.ca),
        ("client.pem", client.cert),
        ("client-key.pem", client.key),
    ):
        text = text.replace(f"/etc/sidehop/tls/{name}", str(file))
    (tmp_path / path.name).write_text(text)
    result = sidehop("check", "--config", str(tmp_path / path.name))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout


def test_the_sample_file_is_accepted_when_it_names_a_broker():
    as_it_is = sidehop("check", "--config", "config/sidehop.yaml")
    assert as_it_is.returncode == 2
    assert "discovery.source: no brokers are named" in as_it_is.stderr
    assert sidehop("check", "--config", "config/sidehop.yaml", "--node", "mq1").returncode == 0


@pytest.mark.parametrize(
    ("key", "environment"),
    [
        ("dial.tls_ca", {"SIDEHOP_DIAL__TLS_CA": "/gone/x.pem"}),
        ("dial.tls_cert", {"SIDEHOP_DIAL__TLS_CERT": "/gone/x.pem", "SIDEHOP_DIAL__TLS_KEY": "/gone/key.pem"}),
        ("listen.tls_cert", {"SIDEHOP_LISTEN__TLS_CERT": "/gone/x.pem", "SIDEHOP_LISTEN__TLS_KEY": "/gone/key.pem"}),
        ("discovery.etcd.ca", {"SIDEHOP_DISCOVERY__ETCD__CA": "/gone/x.pem"}),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_certificate_that_is_not_there_is_named(command, key, environment):
    result = sidehop(command, "--etcd", "https://127.0.0.1:1", environment=environment)
    told = f"sidehop: the configuration is refused:\n  {key}: /gone/x.pem cannot be read: No such file or directory\n"
    assert (result.returncode, result.stderr) == (2, told)


def test_version_says_whether_the_engine_is_compiled():
    result = sidehop("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("sidehop ")
    assert "compiled" in result.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("check", "--help")])
def test_help_teaches_with_examples(arguments):
    result = sidehop(*arguments)
    assert result.returncode == 0
    assert "sidehop run --node mq1:5672" in result.stdout


def test_no_command_shows_the_help():
    result = sidehop()
    assert result.returncode == 2
    assert "usage: sidehop" in result.stdout


def test_check_and_help_import_none_of_what_only_run_needs():
    code = (
        "import sys; from proxy.ops.cli import main; main(['check', '--node', 'mq1']);"
        "print([name for name in ('aiohttp', 'uvloop', 'structlog', 'prometheus_client') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_run_imports_none_of_what_few_sidecars_need():
    code = (
        "import sys, proxy.ops.process;"
        "print([name for name in ('yaml', 'importlib.metadata', 'etcd3', 'grpc') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m proxy check --node mq1 | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("listen:\n", "")
