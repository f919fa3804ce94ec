"""Settings: where a value may come from, who wins, what is refused and how that reads, and what is never shown."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ConfigError
from proxy.settings import Settings, load, shown
from proxy.settings.redaction import without_userinfo
from proxy.settings.schema import as_shown, build, keys_of
from proxy.settings.source import from_environment, from_file

ROOT = Path(__file__).resolve().parent.parent
KEYS = {".".join(key.path): key for key in keys_of(Settings)}


def refused(tmp_path, text, environment=None, flags=None):
    """Load and return the refusal, with the path of the file replaced by FILE."""
    path = tmp_path / "sidehop.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {}, flags or {})
    return caught.value.reason.replace(str(path), "FILE")


def accepted(tmp_path, text, environment=None, flags=None):
    path = tmp_path / "sidehop.yaml"
    path.write_text(text)
    return load(path, environment or {}, flags or {})


# Who wins.


@settings(deadline=None)
@given(
    in_file=st.none() | st.floats(1, 3600),
    in_environment=st.none() | st.floats(1, 3600),
    in_flag=st.none() | st.floats(1, 3600),
)
def test_flags_win_over_environment_over_file_over_default(tmp_path_factory, in_file, in_environment, in_flag):
    path = tmp_path_factory.mktemp("precedence") / "sidehop.yaml"
    path.write_text("" if in_file is None else f"session: {{heartbeat_s: {in_file!r}}}")
    environment = {} if in_environment is None else {"SIDEHOP_SESSION__HEARTBEAT_S": repr(in_environment)}
    flags = {} if in_flag is None else {"session.heartbeat_s": (in_flag, "--heartbeat")}
    strongest = next(value for value in (in_flag, in_environment, in_file, 5.0) if value is not None)
    assert load(path, environment, flags).session.heartbeat_s == strongest


REFUSED = """
listen: {port: -1}
listen: {backlog: 0}
listen: {workers: 0}
listen: {workers: 65}
listen: {workers: 8, retained_bytes_max: 134217727}
listen: {tls_cert: a}
listen: {tls_client_ca: a}
listen: {shutdown_grace_s: -1}
admin: {host: ''}
admin: {port: -1}
log: {queue_bytes_max: 1}
dial: {connect_timeout_s: 0}
dial: {attachments_max: 0}
dial: {spread_s: -1}
dial: {tls_cert: a}
balance: {hash_key: colour}
balance: {panic_threshold_percent: 101}
balance: {slow_start_s: -1}
health: {fall: 0}
health: {timeout_s: 0}
health: {interval_s: 0}
health: {down_interval_s: 0}
health: {jitter_percent: 51}
health: {eject_base_s: 0}
health: {eject_max_percent: 101}
health: {password: a}
health: {http_port: -1}
health: {http_port: 1}
health: {http_path: a}
health: {http_path: /alarms}
health: {http_path: "/a b"}
session: {failover_timeout_s: 0}
session: {heartbeat_s: 0}
session: {client_heartbeat_s: -1}
session: {parked_bytes_max: 0}
session: {unsettled_bytes_max: 0}
session: {delivery_hold_bytes_max: 0}
session: {frame_max_bytes: 0}
session: {channel_max: 0}
session: {handshake_timeout_s: 0}
session: {close_flush_timeout_s: -1}
session: {retry_base_s: 0}
session: {nack_hold_s: -1}
discovery: {cold_start_s: -1}
discovery: {file: {poll_s: 0}}
discovery: {dns: {port: 0}}
discovery: {dns: {timeout_s: 0}}
discovery: {etcd: {endpoints: []}}
discovery: {etcd: {endpoints: ["http://a:b@c"]}}
discovery: {etcd: {prefix: ''}}
discovery: {etcd: {user: a}}
discovery: {etcd: {user: a, password: b, password_file: c}}
discovery: {etcd: {cert: a}}
discovery: {etcd: {ca: a}}
discovery: {etcd: {client: etcd3, endpoints: ["https://a"]}}
discovery: {etcd: {timeout_s: 0}}
discovery: {etcd: {retry_base_s: 0}}
discovery: {etcd: {entries_max: 0}}
"""


@pytest.mark.parametrize("text", REFUSED.strip().splitlines())
def test_a_refusal_names_keys_as_they_are_written(tmp_path, text):
    told = refused(tmp_path, text)
    assert any(key in told.split(" (given")[0] for key in KEYS), "the key is named, not only its value"
    names = "|".join(key.rpartition(".")[2] for key in KEYS if "_" in key.rpartition(".")[2])
    assert re.findall(rf"(?<![\w.])(?:{names})(?!\w)", told) == []


def test_the_places_add_up_key_by_key(tmp_path):
    settings = accepted(
        tmp_path,
        "listen: {port: 1111, backlog: 9}\ndiscovery: {options: {a: 1, b: 2}}",
        {"SIDEHOP_LISTEN__PORT": "2222", "SIDEHOP_DISCOVERY__OPTIONS__B": "3", "PATH": "/bin"},
        {"admin.port": (3333, "--admin")},
    )
    assert (settings.listen.port, settings.listen.backlog, settings.admin.port) == (2222, 9, 3333)
    assert settings.discovery.options == {"a": 1, "b": "3"}


def test_options_of_a_plug_in_may_be_nested_and_the_stronger_place_wins_key_by_key(tmp_path):
    text = "discovery: {options: {a: {b: 1, c: 2}, d: 3, e: {f: 4}}}"
    environment = {"SIDEHOP_DISCOVERY__OPTIONS__A__B": "5", "SIDEHOP_DISCOVERY__OPTIONS__D__X": "6"}
    environment["SIDEHOP_DISCOVERY__OPTIONS__E"] = "7"
    options = accepted(tmp_path, text, environment).discovery.options
    assert options == {"a": {"b": "5", "c": 2}, "d": {"x": "6"}, "e": "7"}


def test_a_list_replaces_a_list(tmp_path):
    text = "discovery: {etcd: {endpoints: [http://a:2379]}}"
    environment = {"SIDEHOP_DISCOVERY__ETCD__ENDPOINTS": "http://b:2379, http://c:2379"}
    assert accepted(tmp_path, text, environment).discovery.etcd.endpoints == ("http://b:2379", "http://c:2379")


@pytest.mark.parametrize("name", sorted(KEYS))
def test_every_key_can_be_given_in_the_environment(name):
    key = KEYS[name]
    variable = "SIDEHOP_" + "__".join(key.path).upper()
    default = key.default
    if isinstance(default, dict):
        table = from_environment({f"{variable}__X": "1"}, ("listen",))
        assert list(table) == [(*key.path, "x")]
        return
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    assert load(None, {variable: text}) == load(None, {})


def test_node_mappings_and_empty_sections_are_understood(tmp_path):
    text = "session:\nlog: {}\ndiscovery: {static: {nodes: [mq1, {url: mq2, weight: 5}]}, options: }"
    settings = accepted(tmp_path, text)
    assert settings.discovery.static.nodes == ("mq1", {"url": "mq2", "weight": 5})
    assert accepted(tmp_path, "") == Settings()


# What is refused, and how it reads.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "session: {heartbeet_s: 5}",
            "session.heartbeet_s (FILE line 1): unknown key; did you mean session.heartbeat_s?",
        ),
        ("heartbeat_s: 5", "heartbeat_s (FILE line 1): unknown key; did you mean session.heartbeat_s?"),
        ("dail: {}", "dail (FILE line 1): unknown key; did you mean dial?"),
        ("dail: {spread_s: 1}", "dail.spread_s (FILE line 1): unknown key; did you mean dial?"),
        (
            "admin: {colour: red}",
            "admin.colour (FILE line 1): unknown key; known here: host, port",
        ),
        (
            "listen:\n  port: fast",
            "listen.port (FILE line 2): expected a whole number, given 'fast'; the default is 5672",
        ),
        (
            "listen: {port: 5672.5}",
            "listen.port (FILE line 1): expected a whole number, given 5672.5; the default is 5672",
        ),
        ("listen: {port: true}", "listen.port (FILE line 1): expected a whole number, given True; the default is 5672"),
        ("listen: {port: }", "listen.port (FILE line 1): expected a whole number, given nothing; the default is 5672"),
        (
            "listen: {host: 127}",
            "listen.host (FILE line 1): expected text (put it in quotes), given 127; the default is '127.0.0.1'",
        ),
        ("listen: {port: {low: 1}}", "listen.port.low (FILE line 1): this key holds a value, it has no keys below it"),
        ("listen: 5672", "listen (FILE line 1): expected a section with keys such as host, given a value"),
        (
            "listen: {port: 70000}",
            "listen.port must be 0 (any free one) to 65535 (given listen.port = 70000 from FILE line 1)",
        ),
        (
            "session: {heartbeat_s: .nan}",
            "session.heartbeat_s (FILE line 1): expected a number, given nan; the default is 5.0",
        ),
        (
            "session: {publish_guarantee: always}",
            (
                "session.publish_guarantee (FILE line 1): expected one of at_least_once, as_sent, given 'always'; "
                "the default is 'at_least_once'"
            ),
        ),
        (
            "dial: {tls_verify: maybe}",
            "dial.tls_verify (FILE line 1): expected true or false, given 'maybe'; the default is True",
        ),
        (
            "discovery: {etcd: {endpoints: http://a}}",
            (
                "discovery.etcd.endpoints (FILE line 1): expected a list, each text (put it in quotes), "
                "given 'http://a'; the default is ('http://127.0.0.1:2379',)"
            ),
        ),
        ("discovery: {options: 5}", "discovery.options (FILE line 1): expected a mapping of keys to values, given 5"),
        ("listen: {port: 1, port: 2}", "listen.port (FILE line 1): the key is given twice; keep one of them"),
        ("listen: {}\nlisten: {}", "listen (FILE line 2): the key is given twice; keep one of them"),
        ("- a", "FILE: the file must hold sections such as `listen:`"),
        ("listen: [", "FILE line 1: expected the node content, but found ..."),
        ("a: &a {b: *a}", "a.b.b.b.b.b.b.b: sections are nested deeper than 8"),
        (
            "listen: !!python/object/apply:os.system [true]",
            "FILE line 1: could not determine a constructor for the tag ...",
        ),
        ("listen: {host: '\x01'}", "FILE: the file holds characters that YAML does not allow"),
        (
            "admin: {host: ''}",
            (
                "admin.host must not be empty (0.0.0.0 or :: mean every address) "
                "(given admin.host = '' from FILE line 1)"
            ),
        ),
        ("admin: {port: -1}", "admin.port must be 0 (any free one) to 65535 (given admin.port = -1 from FILE line 1)"),
        (
            "log: {queue_bytes_max: 1}",
            "log.queue_bytes_max must be at least 65536 (given log.queue_bytes_max = 1 from FILE line 1)",
        ),
        (
            "listen: {port: 4000}\nadmin: {port: 4000}",
            "listen.port and admin.port are the same on one host; give them different ports",
        ),
        (
            "balance: {hash_key: colour}",
            "balance.hash_key (FILE line 1): expected one of vhost, user, name, given 'colour'; the default is 'user'",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_path_what_was_given_and_what_is_right(tmp_path, text, told):
    assert refused(tmp_path, text) == told


def test_all_problems_are_told_at_once(tmp_path):
    told = refused(
        tmp_path,
        "listen: {prot: 1}\nlog: {level: loud}",
        {"SIDEHOP_DIAL__SPREAD_S": "wide"},
        {"admin.port": ("x", "--admin")},
    ).splitlines()
    assert [line.partition(": ")[0] for line in told] == [
        "listen.prot (FILE line 1)",
        "admin.port (flag --admin)",
        "dial.spread_s (environment SIDEHOP_DIAL__SPREAD_S)",
        "log.level (FILE line 2)",
    ]


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        from_file(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        from_file(tmp_path / "binary.yaml")


def test_a_forgotten_underscore_in_the_environment_is_noticed():
    with pytest.raises(ConfigError, match=r"SIDEHOP_SESSION_HEARTBEAT_S.*did you mean SIDEHOP_SESSION__HEARTBEAT_S\?"):
        load(None, {"SIDEHOP_SESSION_HEARTBEAT_S": "5"})


def test_what_kubernetes_and_others_put_into_the_environment_is_left_alone():
    environment = {
        "SIDEHOP_PORT": "tcp://10.0.0.1:5672",
        "SIDEHOP_SERVICE_HOST": "10.0.0.1",
        "SIDEHOP_PORT_5672_TCP_ADDR": "10.0.0.1",
        "SIDEHOP_LISTEN_PORT": "tcp://10.0.0.1:5672",  # a service called sidehop-listen
        "SIDEHOP_LISTEN_SERVICE_PORT": "5672",
        "SIDEHOP_LISTEN_PORT_5672_TCP_PORT": "5672",
        "SIDEHOP_DEMO": "1",
    }
    assert load(None, environment) == Settings()


def test_an_unknown_variable_below_a_section_is_refused():
    with pytest.raises(ConfigError, match=r"listen\.prot \(environment SIDEHOP_LISTEN__PROT\): unknown key"):
        load(None, {"SIDEHOP_LISTEN__PROT": "1"})


# What is never shown.

SECRET = "hunter2/x@y"


@dataclass(frozen=True, slots=True)
class Marked:
    marked: str = field(default="", repr=False, metadata={"secret": True})
    plain: str = ""


def test_secrets_are_hidden_in_what_is_shown_and_in_reprs():
    settings = load(
        None,
        {
            "SIDEHOP_HEALTH__USER": "probe",
            "SIDEHOP_HEALTH__PASSWORD": SECRET,
            "SIDEHOP_DISCOVERY__ETCD__USER": "root",
            "SIDEHOP_DISCOVERY__ETCD__PASSWORD": SECRET,
            "SIDEHOP_DISCOVERY__OPTIONS__API_TOKEN": SECRET,
            "SIDEHOP_DISCOVERY__OPTIONS__URL": f"https://me:{SECRET}@registry",
        },
    )
    assert settings.health.password == SECRET, "it is there all the same"
    text = yaml.safe_dump(shown(settings)) + repr(settings)
    assert "hunter2" not in text
    assert text.count("***") == 4
    assert as_shown(Marked(marked="x", plain="y")) == {"marked": "***", "plain": "y"}


@pytest.mark.parametrize(
    "text",
    [
        f"health: {{pasword: '{SECRET}'}}",
        f"health: {{password: ['{SECRET}']}}",
        f"health: {{password: '{SECRET}'}}",  # refused, since a user is missing
        f"health: '{SECRET}'",
        f"discovery: {{static: {{nodes: ['amqp://u:{SECRET}@mq1']}}}}",
        f"discovery: {{static: {{nodes: ['u:{SECRET}@mq1']}}}}",
        f"discovery: {{static: {{nodes: [{{url: mq1, password: ['{SECRET}'], weight: x}}]}}}}",
        f"discovery: {{etcd: {{endpoints: ['http://u:{SECRET}@etcd']}}}}",
        f"discovery: {{etcd: {{endpoints: {{password: '{SECRET}'}}}}}}",
        "health: {password: *hunter2}",
        "health: {password: !hunter2 x}",
        'health: {password: "hunter2}',
    ],
)
def test_a_refusal_never_repeats_a_secret(tmp_path, text):
    assert "hunter2" not in refused(tmp_path, text)


@given(st.text(min_size=1).filter(lambda text: not re.search(r"[\s'\"]", text)))
def test_no_password_of_a_url_survives(password):
    marked = f"x{password}x"
    assert marked not in without_userinfo(f"cannot reach 'amqp://user:{marked}@mq1:5672'")


def test_addresses_without_a_user_stay_as_they_are():
    for text in ("amqp://mq1:5672", "127.0.0.1:5672", "[::1]:5672", "rabbit@mq1", "http://a:1,http://b:2"):
        assert without_userinfo(text) == text


# The documents say what the code does.


def test_the_sample_file_holds_every_key_with_its_default():
    assert load(ROOT / "config/sidehop.yaml", {}) == Settings()
    assert {".".join(path) for path in from_file(ROOT / "config/sidehop.yaml")} == set(KEYS)


def test_every_key_of_the_sample_file_is_explained():
    lines = (ROOT / "config/sidehop.yaml").read_text().splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *[a-z0-9_]+:", line)]
    assert len(keys) > len(KEYS)
    assert [lines[number] for number in keys if not lines[number - 1].strip().startswith("#")] == []


def test_the_reference_is_made_from_the_sample_file():
    source = ROOT / "config/reference.py"
    module = {"__name__": "reference", "__file__": str(source)}
    exec(compile(source.read_text(), source, "exec"), module)
    document = module["reference"]((ROOT / "config/sidehop.yaml").read_text())
    assert (ROOT / "docs/CONFIGURATION.md").read_text() == document, "run `python config/reference.py`"
    told = re.findall(r"^\| `([a-z0-9_.]+)` \| `", document, re.MULTILINE)
    assert sorted(told) == sorted(KEYS)


def test_what_is_shown_can_be_loaded_again(tmp_path):
    settings = load(ROOT / "config/examples/static.yaml", {"SIDEHOP_LISTEN__BACKLOG": "7"})
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(shown(settings)))
    assert load(tmp_path / "shown.yaml", {}) == settings


def test_sections_stand_in_the_same_order_as_in_the_sample_file():
    in_file = list(yaml.safe_load((ROOT / "config/sidehop.yaml").read_text()))
    assert in_file == [item.name for item in fields(Settings)]


def test_a_policy_without_a_table_is_its_default():
    assert build(Marked, {}) == Marked()
