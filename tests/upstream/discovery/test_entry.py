"""What a registry value may say, and that the published schema says the same."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.discovery.entry import URL_PATTERN, VALUE_BYTES_MAX, BadEntry, parse_entry, parse_node
from proxy.upstream.endpoint import Endpoint

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "endpoint.schema.json").read_text())


@pytest.mark.parametrize(
    ("value", "host", "port", "tls"),
    [
        ("http://mq1:5672", "mq1", 5672, False),
        ("http://mq1:1234/", "mq1", 1234, False),
        ("http://mq1", "mq1", 5672, False),
        ("amqp://mq1.example.org", "mq1.example.org", 5672, False),
        ("amqps://mq1", "mq1", 5671, True),
        ("amqps://mq1:5672", "mq1", 5672, True),
        ("tcp://10.0.0.1:65535", "10.0.0.1", 65535, False),
        ("mq1:1", "mq1", 1, False),
        ("mq_1", "mq_1", 5672, False),
        ("http://[2001:db8::1]:5673", "2001:db8::1", 5673, False),
        ("[::1]", "::1", 5672, False),
        (b"  http://mq1:5672\n", "mq1", 5672, False),
    ],
)
def test_the_plain_form(value, host, port, tls):
    assert parse_entry(value, "a") == Endpoint("a", host, port, tls=tls)


def test_the_json_form_says_more():
    value = {
        "url": "amqps://mq1:5671",
        "weight": 5,
        "zone": "a",
        "priority": 1,
        "state": "drain",
        "tags": {"rack": "7"},
        "added": "by a newer registrar",
    }
    assert parse_entry(json.dumps(value), "mq1") == Endpoint(
        "mq1", "mq1", 5671, tls=True, weight=5, zone="a", priority=1, intent="drain", tags={"rack": "7"}
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "empty"),
        ("   ", "empty"),
        (b"\xff\xfe", "UTF-8"),
        ("https://mq1:5672", "scheme 'https'"),
        ("http://mq1:0", "port of 1 to 65535"),
        ("http://mq1:65536", "port of 1 to 65535"),
        ("http://mq1:five", "port of 1 to 65535"),
        ("http://", "not scheme://host:port"),
        ("http://mq1:5672/vhost", "virtual host"),
        ("http://mq 1", "not scheme://host:port"),
        ("::1", r"brackets: \[::1\]"),
        ("2001:db8::1:5672", "brackets"),
        ("[::::]:5672", "not an IPv6 address"),
        ("{", "not a valid entry"),
        ("{}", "url"),
        ('{"url": 5}', "url"),
        ('{"url": "mq1", "weight": 0}', "weight"),
        ('{"url": "mq1", "weight": "5"}', "weight"),
        ('{"url": "mq1", "state": "down"}', "state"),
        ('{"url": "mq1", "tags": {"a": 1}}', "tags"),
        ("[" * 5000, "not scheme://host:port"),
        ('{"url": "mq1", "more": ' + "[" * 5000, "not a valid entry"),
        ("x" * (VALUE_BYTES_MAX + 1), "at most 65536"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_reason(value, reason):
    with pytest.raises(BadEntry, match=reason):
        parse_entry(value, "mq1")


@pytest.mark.parametrize(
    "value", ["http://me:hunter2@mq1:5672", "me:hunter2@mq1", '{"url": "amqp://me:hunter2@mq1/v"}']
)
def test_credentials_are_refused_and_never_repeated(value):
    with pytest.raises(BadEntry, match="remove the user and password") as refused:
        parse_entry(value, "mq1")
    assert "hunter2" not in str(refused.value)


def test_a_node_of_a_list_is_named_by_itself_or_by_its_address():
    assert parse_node("mq1").name == "mq1:5672"
    assert parse_node("[::1]:5673").name == "[::1]:5673"
    assert parse_node({"url": "mq1"}).name == "mq1:5672"
    assert parse_node({"url": "mq1", "name": "left"}).name == "left"


@pytest.mark.parametrize(
    "node", [5, None, ["mq1"], {"host": "mq1"}, {"url": "mq1", "name": 5}, {"url": "mq1", "name": "a\nb"}]
)
def test_a_node_of_a_list_that_is_not_understood(node):
    with pytest.raises(BadEntry):
        parse_node(node)


def test_schema_and_parser_know_the_same_addresses():
    assert SCHEMA["properties"]["url"]["pattern"] == URL_PATTERN


urls = st.one_of(
    st.sampled_from(["mq1", "amqps://mq1:5671", "http://mq1:0", "ftp://mq1", "a@b", "[::1]:5672", "", "mq1:65536"]),
    st.text(max_size=20),
    st.builds(
        "{}://{}:{}".format, st.sampled_from(["http", "amqp", "x"]), st.text("a.-_ 9", max_size=5), st.integers()
    ),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-10, 20000), st.text(max_size=140), st.just(1.5))
documents = st.fixed_dictionaries(
    {},
    optional={
        "url": st.one_of(urls, urls, scalars),
        "weight": st.one_of(st.integers(1, 10000), scalars),
        "zone": st.one_of(st.text(max_size=130), scalars),
        "priority": st.one_of(st.integers(0, 100), scalars),
        "state": st.one_of(st.sampled_from(["up", "drain"]), scalars),
        "tags": st.one_of(
            st.dictionaries(st.text(max_size=130), st.one_of(st.text(), st.integers()), max_size=3), scalars
        ),
        "else": scalars,
    },
)


@given(documents)
def test_schema_and_parser_accept_the_same_documents(document):
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    try:
        parse_entry(json.dumps(document), "mq1")
    except BadEntry:
        assert not valid
    else:
        assert valid


@given(st.one_of(st.text(), st.binary()))
def test_any_value_is_an_endpoint_or_refused(value):
    try:
        endpoint = parse_entry(value, "mq1")
    except BadEntry:
        return
    assert 1 <= endpoint.port <= 65535
    assert endpoint.host
