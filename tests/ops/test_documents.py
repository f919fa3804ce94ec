"""docs/OPERATING.md says what the code does: its events with their levels, its paths, its flags."""

import re
from pathlib import Path

from proxy.ops import cli
from proxy.ops.api import AdminServer
from proxy.reports import ENDS, EVENTS
from proxy.settings.policy import AdminPolicy
from tests.ops.sidecar import Sidecar

ROOT = Path(__file__).resolve().parent.parent.parent
OPERATING = (ROOT / "docs/OPERATING.md").read_text()


def test_the_table_of_events_is_the_catalogue():
    told = re.findall(r"^\| `([a-z_]+)` \| (debug|info|warning|error) \| (.+?) \|", OPERATING, re.MULTILINE)
    assert {event: (level, text) for event, level, text in told} == EVENTS


def test_the_table_of_honest_ends_is_the_catalogue():
    told = re.findall(r"^\| ([a-z]+) \| `([a-z_]+)` \| (.+?) \|$", OPERATING, re.MULTILINE)
    assert told == [(scope, cause, text) for scope, causes in ENDS.items() for cause, text in causes.items()]


async def test_every_path_of_the_api_is_described():
    server = AdminServer(AdminPolicy(port=0), Sidecar().vitals)
    await server.start()
    paths = {resource.canonical for resource in server._runner.app.router.resources()}
    await server.close()
    assert paths == set(re.findall(r"^\| `(?:GET|POST) (/\S*)`", OPERATING, re.MULTILINE))


def test_every_flag_is_in_the_reference_of_settings():
    reference = (ROOT / "docs/CONFIGURATION.md").read_text()
    flags = [flag for action in cli._shared_flags()._actions for flag in action.option_strings]
    assert len(flags) > 5
    assert [flag for flag in flags if f"`{flag}" not in reference] == []
