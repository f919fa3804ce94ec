"""The command `sidehop`: what a person types and what the exit code says.

0: done. 1: it could not run (an address is in use, say). 2: the command line or the configuration is wrong.
What only `run` needs is imported there, so that `check` and `--help` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.settings import Settings

Flags = dict[str, tuple[object, str]]

_EXAMPLES = """\
examples:
  sidehop run --node mq1:5672 --node mq2:5672      two brokers that are named here
  sidehop run --etcd http://127.0.0.1:2379         brokers below /mq/nodes/ in etcd
  sidehop run --config sidehop.yaml                everything from a file
  sidehop check --config sidehop.yaml              is the file right, and what does it amount to?
  curl -s 127.0.0.1:15680/api/v1/endpoints         which brokers does it know, and are they well?

Every key of the file can also be given as SIDEHOP_<SECTION>__<KEY>, for example SIDEHOP_SESSION__HEARTBEAT_S=10.
Flags win over the environment, the environment over the file, the file over the defaults.
"""

_NO_SOURCE = """\
discovery.source: no brokers are named. Do one of these:
name them:               sidehop run --node mq1:5672 --node mq2:5672
find them in etcd:       sidehop run --etcd http://127.0.0.1:2379 --prefix /mq/nodes/
describe it in a file:   sidehop run --config sidehop.yaml   (with a section `discovery:`)"""

_PREFIX_UNUSED = """\
--prefix: it says where in etcd the brokers are listed, but the source is {}; leave it out or give --etcd"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    if given.version:
        return _say_version()
    if given.command is None:
        _parser().print_help()
        return 2
    from proxy.settings import load

    try:
        settings = load(given.config, flags=_flags(given))
        if settings.discovery.source == "static" and not settings.discovery.static.nodes:
            return _refuse(ConfigError(_NO_SOURCE))
        if given.prefix is not None and settings.discovery.source != "etcd":
            return _refuse(ConfigError(_PREFIX_UNUSED.format(settings.discovery.source)))
        return _check(settings) if given.command == "check" else _run(settings)
    except ConfigError as error:
        return _refuse(error)


def _run(settings: Settings) -> int:
    from proxy.ops.process import run

    if reason := run(settings):
        print(f"sidehop: {reason}", file=sys.stderr)
        return 1
    return 0


def _check(settings: Settings) -> int:
    import yaml

    from proxy.net import dialler, server
    from proxy.settings import shown
    from proxy.upstream.balance import load_balancer
    from proxy.upstream.discovery import load_discovery

    # Made and thrown away: only the parts themselves know whether a plug-in exists, a source is described in full, or
    # a certificate can be read.
    load_balancer(settings.balance.choice.policy, settings.balance.choice, Random())
    load_discovery(settings.discovery, lambda report: None, Random())
    server.tls_context(settings.listen)
    dialler.tls_context(settings.dial)
    _print(yaml.safe_dump(shown(settings), sort_keys=False, allow_unicode=True))
    return 0


def _print(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # whoever reads it, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(error: ConfigError) -> int:
    print("sidehop: the configuration is refused:", file=sys.stderr)
    for problem in error.reason.splitlines():
        print(f"  {problem}", file=sys.stderr)
    return 2


def _say_version() -> int:
    from proxy.ops.build import this_build

    build = this_build()
    print(f"sidehop {build.version} (engine {build.engine}; Python {build.python}, {build.loop})")
    return 0


def _flags(given: argparse.Namespace) -> Flags:
    flags: Flags = {}
    for section in ("listen", "admin"):
        if (address := getattr(given, section)) is not None:
            host, port = _host_and_port(address, f"--{section}")
            flags[f"{section}.host"] = (host, f"--{section}")
            flags[f"{section}.port"] = (port, f"--{section}")
    if given.node and given.etcd:
        raise ConfigError("--node and --etcd: brokers are either named or found in etcd; give one of the two")
    if given.node:
        flags["discovery.source"] = ("static", "--node")
        flags["discovery.static.nodes"] = (given.node, "--node")
    if given.etcd:
        flags["discovery.source"] = ("etcd", "--etcd")
        flags["discovery.etcd.endpoints"] = (given.etcd, "--etcd")
    for name, key in (
        ("prefix", "discovery.etcd.prefix"),
        ("policy", "balance.policy"),
        ("log_format", "log.format"),
        ("log_level", "log.level"),
    ):
        if (value := getattr(given, name)) is not None:
            flags[key] = (value, f"--{name.replace('_', '-')}")
    return flags


def _host_and_port(address: str, flag: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{flag}: expected HOST:PORT such as 127.0.0.1:5672 or [::1]:5672, given {address!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="sidehop",
        description="A sidecar for AMQP 0-9-1: applications connect to it on localhost, it finds a live broker,\n"
        "and keeps the application's connection up while brokers come and go.",
        epilog=_EXAMPLES,
        formatter_class=style,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="say the version and whether the engine is compiled")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    shared = _shared_flags()
    for name, text in (
        ("run", "start the sidecar and stay in the foreground"),
        ("check", "validate the configuration and print what is in effect, secrets hidden"),
    ):
        commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=_EXAMPLES,
            parents=[shared],
            formatter_class=style,
            allow_abbrev=False,
        )
    return parser


def _shared_flags() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    add = shared.add_argument
    add("--config", type=Path, metavar="FILE", help="settings in YAML; config/sidehop.yaml lists every key")
    add("--listen", metavar="HOST:PORT", help="where applications connect (default 127.0.0.1:5672)")
    add("--node", metavar="HOST:PORT", action="append", help="a broker; give it once for each")
    add("--etcd", metavar="URL", action="append", help="a member of the etcd that lists the brokers; once for each")
    add("--prefix", metavar="KEY", help="where in etcd the brokers are listed (default /mq/nodes/)")
    add("--policy", metavar="NAME", help="how sessions are spread over brokers (default p2c)")
    add("--admin", metavar="HOST:PORT", help="health, metrics and API (default 127.0.0.1:15680)")
    add("--log-format", metavar="FORMAT", help="json or console (default json)")
    add("--log-level", metavar="LEVEL", help="debug, info, warning or error (default info)")
    return shared
