"""How a client gets its first broker, and what it hears when it gets none."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER
from proxy.amqp.wire import parse_table, table_of, text_of
from proxy.session.commands import CloseClient, Dial
from proxy.session.credentials import Face
from proxy.session.journal import Phase
from tests.support.engine import (
    After,
    BrokerLost,
    BrokerUp,
    ClientGone,
    DialFailed,
    FromBroker,
    FromClient,
    Reported,
    Sees,
    Story,
    ToBroker,
    ToClient,
    greeted,
    running,
)
from tests.support.engine_frames import (
    BROKER_OPEN_OK,
    BROKER_START,
    BROKER_TUNE,
    SERVER_CAPABILITIES,
    frames_of,
    on,
    properties,
    start,
    start_ok,
)

TUNE_AND_OPEN = on(0, m.ConnectionTuneOk(2045, 131072, 0), m.ConnectionOpen(b"/"))
REFUSED = m.ConnectionClose(403, b"ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")
NO_VHOST = m.ConnectionClose(530, b"NOT_ALLOWED - vhost 'x' not found", 10, 40)


def tuning(**given):
    """The first broker has accepted the credentials, the client was told the limits."""
    story = (greeted(**given).forget() >> BrokerUp("rabbit1:5672")).forget()
    return (story >> FromBroker(BROKER_START, BROKER_TUNE)).forget()


def opening(**given):
    """The first broker was asked for the virtual host."""
    return (tuning(**given) >> FromClient(TUNE_AND_OPEN)).forget()


def test_a_client_is_greeted_before_any_broker_is_known():
    story = Story() >> FromClient(PROTOCOL_HEADER)
    introduced = m.decode(m.ConnectionStart, story.to_client.pop()[7:-1])
    assert introduced.mechanisms == b"PLAIN AMQPLAIN"
    assert table_of(parse_table(introduced.server_properties), b"capabilities")[b"publisher_confirms"] == b"t\x01"
    story.done()


@pytest.mark.parametrize("header", [b"AMQP\x01\x01\x08\x00", b"GET / HTTP/1.1\r\n", b"AMQP\x00\x00\x09\x02", b"AMX"])
def test_a_stranger_hears_what_is_spoken_here(header):
    (Story() >> FromClient(header) << ToClient(PROTOCOL_HEADER) << CloseClient()).done()


def test_a_header_may_come_byte_by_byte():
    story = Story()
    for byte in PROTOCOL_HEADER[:-1]:
        story.session.from_client(bytes((byte,)), story.now)
    assert frames_of((story >> FromClient(PROTOCOL_HEADER[-1:])).to_client.pop())[0][0] == 1
    story.done()


def test_the_brokers_handshake_begins_with_the_clients_own_words():
    story = greeted() << Dial(1, frozenset(), False)
    story = story >> BrokerUp("rabbit1:5672") << ToBroker(PROTOCOL_HEADER)
    said = m.decode(m.ConnectionStartOk, story.to_broker.pop()[7:-1])
    assert (said.mechanism, said.response) == (b"PLAIN", b"\0guest\0secret")
    assert text_of(parse_table(said.client_properties), b"connection_name") == "app (sidehop)"
    story.done()


def test_a_client_without_capabilities_still_has_them_asked_of_the_broker():
    story = greeted(capabilities=()).forget() >> BrokerUp()
    said = m.decode(m.ConnectionStartOk, story.to_broker.pop()[7:-1])
    assert table_of(parse_table(said.client_properties), b"capabilities")[b"consumer_cancel_notify"] == b"t\x01"


def test_limits_are_the_strictest_of_broker_and_policy():
    story = (greeted(frame_max_bytes=8192).forget() >> BrokerUp("rabbit1:5672")).forget()
    (
        story
        >> FromBroker(BROKER_START, on(0, m.ConnectionTune(100, 131072, 60)))
        << ToClient(on(0, m.ConnectionTune(98, 8192, 60)))
    ).done()


def test_a_session_opens_when_the_broker_has_opened_the_virtual_host():
    (
        tuning()
        >> FromClient(TUNE_AND_OPEN)
        << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))
        >> FromBroker(BROKER_OPEN_OK)
        << Reported("session_opened", {"endpoint": "rabbit1:5672"})
        << ToClient(on(0, m.ConnectionOpenOk()))
    ).done()


def test_an_unknown_mechanism_is_refused():
    story = (Story() >> FromClient(PROTOCOL_HEADER)).forget()
    (story >> FromClient(start_ok(mechanism=b"EXTERNAL")) << CloseClient()).done()


def test_amqplain_is_understood():
    from proxy.amqp.wire import pack_table, text_value

    response = pack_table({b"LOGIN": text_value("ann"), b"PASSWORD": text_value("secret")})
    story = (Story() >> FromClient(PROTOCOL_HEADER)).forget()
    story = story >> FromClient(start_ok(mechanism=b"AMQPLAIN", response=response)) << Dial(1, frozenset(), False)
    credentials = story.done().journal.credentials
    assert credentials.user == "ann"
    assert "secret" not in repr(credentials)


def test_refused_credentials_reach_a_client_that_understands_word_by_word():
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    (
        story
        >> FromBroker(BROKER_START, on(0, REFUSED))
        << ToBroker(on(0, m.ConnectionCloseOk()))
        << ToClient(on(0, REFUSED))
    ).done()


def test_refused_credentials_close_the_socket_of_an_old_client():
    story = (greeted(capabilities=()).forget() >> BrokerUp("rabbit1:5672")).forget()
    (
        story >> FromBroker(BROKER_START, on(0, REFUSED)) << ToBroker(on(0, m.ConnectionCloseOk())) << CloseClient()
    ).done()


def test_a_missing_virtual_host_is_told_word_by_word():
    (
        opening()
        >> FromBroker(on(0, NO_VHOST))
        << ToBroker(on(0, m.ConnectionCloseOk()))
        << ToClient(on(0, NO_VHOST))
        >> FromClient(on(0, m.ConnectionCloseOk()))
        << CloseClient()
    ).done()


def test_a_broker_that_is_down_for_the_virtual_host_is_not_the_only_one():
    (
        opening()
        >> FromBroker(on(0, m.ConnectionClose(541, b"INTERNAL_ERROR - vhost '/' is down")))
        << Reported("failover_attempt_failed")
        << ToBroker(on(0, m.ConnectionCloseOk()))
        >> After(0)
        << Dial(2, frozenset({"rabbit1:5672"}), False)
    ).done()


def test_a_first_broker_that_dies_before_its_start_is_replaced_in_silence():
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    (story >> BrokerLost() >> After(0) << Dial(2, frozenset({"rabbit1:5672"}), False)).done()


def test_a_first_broker_that_dies_while_the_client_tunes_is_replaced_in_silence():
    story = tuning() >> BrokerLost() >> After(0) << Dial(2, frozenset({"rabbit1:5672"}), False)
    story = (story >> BrokerUp("rabbit2:5672")).forget()
    story = story >> FromBroker(BROKER_START, BROKER_TUNE)
    story = story >> FromClient(TUNE_AND_OPEN)
    (
        story
        << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))
        >> FromBroker(BROKER_OPEN_OK)
        << ToClient(on(0, m.ConnectionOpenOk()))
    ).done()


def test_a_first_broker_that_dies_before_open_ok_is_replaced_in_silence():
    story = opening() >> BrokerLost() >> After(0) << Dial(2, frozenset({"rabbit1:5672"}), False)
    story = (story >> BrokerUp("rabbit2:5672")).forget()
    (
        story
        >> FromBroker(BROKER_START, BROKER_TUNE)
        << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))
        >> FromBroker(BROKER_OPEN_OK)
        << ToClient(on(0, m.ConnectionOpenOk()))
    ).done()


def test_a_broker_that_accepts_and_says_nothing_is_left():
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    (
        story
        >> After(10.0)
        << Reported("failover_attempt_failed", {"reason": "no answer to the handshake"})
        << Dial(2, frozenset({"rabbit1:5672"}), False)
    ).done()


def test_a_client_is_told_when_no_broker_is_found_in_time():
    story = greeted(failover_timeout_s=0.01).forget() >> DialFailed("connection refused")
    text = b"CONNECTION_FORCED - no broker reachable for 0.01s (last: connection refused)"
    (story >> After(0.02) << Reported("failover_given_up") << ToClient(on(0, m.ConnectionClose(320, text)))).done()


@pytest.mark.parametrize(
    "words",
    [
        on(0, m.ConnectionTuneOk(2045, 131072, 0)),
        on(0, m.ConnectionOpen(b"/")),
        on(1, m.ChannelOpen()),
        on(0, m.ConnectionUpdateSecret(b"s", b"r")),
        on(0, m.ConnectionStart(0, 9, b"", b"", b"")),
    ],
)
def test_a_client_that_skips_a_step_is_turned_away(words):
    story = (Story() >> FromClient(PROTOCOL_HEADER)).forget()
    (story >> FromClient(words) << CloseClient()).done()


@pytest.mark.parametrize("tune", [(2045, 131073, 0), (2046, 131072, 0), (2045, 4095, 0)])
def test_a_client_may_not_stretch_the_limits(tune):
    story = tuning() >> FromClient(on(0, m.ConnectionTuneOk(*tune)))
    close = m.decode(m.ConnectionClose, story.to_client.pop()[7:-1])
    assert close.reply_code == 530
    assert story.session.journal.phase is Phase.CLOSING


def test_a_client_that_says_nothing_is_hung_up_on():
    (Story() >> After(10.0) << CloseClient()).done()


def test_a_client_that_leaves_during_the_handshake_leaves_nothing_behind():
    (opening() >> ClientGone() << CloseClient() << Sees("the end", lambda s: s.deadline() is None)).done()


def test_a_broker_that_talks_out_of_turn_is_left():
    story = (greeted().forget() >> BrokerUp("rabbit1:5672")).forget()
    (story >> FromBroker(BROKER_OPEN_OK) << Reported("failover_attempt_failed")).done()


def shown(face):
    return parse_table(m.decode(m.ConnectionStart, face.greeting[7:-1]).server_properties)


def test_the_next_client_is_shown_what_the_broker_says_of_itself():
    assert text_of(shown(running().done().journal.face), b"product") == "RabbitMQ"


def test_a_capability_is_offered_if_every_broker_has_it():
    face, others = Face(), [each for each in SERVER_CAPABILITIES if each != b"direct_reply_to"]
    for endpoint, capabilities in (("old", others), ("new", [*SERVER_CAPABILITIES, b"of_tomorrow"])):
        introduced = m.decode(m.ConnectionStart, start(*capabilities)[7:-1])
        face.learn(endpoint, introduced.server_properties, 1000.0)
        assert sorted(table_of(shown(face), b"capabilities")) == sorted(others)
    face.learn("new", introduced.server_properties, 1000.0 + 2 * 3600)  # nobody has met the old one since
    assert sorted(table_of(shown(face), b"capabilities")) == sorted(SERVER_CAPABILITIES)


def test_a_face_forgets_what_it_saw_first():
    face = Face()
    for endpoint in range(300):
        face.learn(str(endpoint), b"", 1000.0)
    assert len(face._seen) == 256


def test_a_broker_that_lacks_what_was_offered_is_the_last_choice():
    lacking = start(*(each for each in SERVER_CAPABILITIES if each != b"direct_reply_to"))
    story = (running() >> BrokerLost()).forget() >> BrokerUp("old:5672")
    story = story.forget() >> FromBroker(lacking, BROKER_TUNE)
    reason = "it lacks what the client was offered: direct_reply_to"
    story << Reported("failover_attempt_failed", {"endpoint": "old:5672", "reason": reason})
    story = (story.forget() >> After(1.0)).forget() >> BrokerUp("old:5672")
    story = story.forget() >> FromBroker(lacking, BROKER_TUNE)
    (story << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))).done()


def test_the_clients_properties_are_kept_whatever_is_beside_them():
    story = greeted().forget() >> BrokerUp()
    said = m.decode(m.ConnectionStartOk, story.to_broker.pop()[7:-1])
    ours, theirs = parse_table(said.client_properties), parse_table(properties(b"basic.nack"))
    assert set(theirs) <= set(ours)


def test_a_client_that_does_not_answer_tune_is_hung_up_on_and_the_broker_not_blamed():
    story = (tuning() >> After(10.0)).forget()
    assert (story.session.ending.reason, story.session.journal.phase) == ("handshake_timeout", Phase.ENDED)


def test_a_client_placed_by_its_vhost_logs_in_again_where_that_belongs():
    story = tuning(place_by_vhost=True) >> FromClient(TUNE_AND_OPEN) << Dial(2, frozenset(), False)
    story = (story >> BrokerUp("rabbit2:5672")).forget() >> FromBroker(BROKER_START, BROKER_TUNE)
    story = story << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))
    (story >> FromBroker(BROKER_OPEN_OK) << ToClient(on(0, m.ConnectionOpenOk()))).done()


def test_a_broker_that_was_picked_by_vhost_is_not_left_for_it_again():
    story = (tuning(place_by_vhost=True) >> BrokerLost()).forget() >> FromClient(TUNE_AND_OPEN) >> After(0.0)
    story = (story << Dial(2, frozenset({"rabbit1:5672"}), False) >> BrokerUp("rabbit2:5672")).forget()
    story = story >> FromBroker(BROKER_START, BROKER_TUNE)
    (story << ToBroker(on(0, m.ConnectionTuneOk(2047, 131072, 5), m.ConnectionOpen(b"/")))).done()
