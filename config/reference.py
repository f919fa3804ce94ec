"""Make docs/CONFIGURATION.md from the comments of config/sidehop.yaml, so that the two cannot differ."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Configuration

<!-- Made from config/sidehop.yaml by `python config/reference.py`; edit that file. -->

Sidehop runs without a file: `sidehop run --etcd http://127.0.0.1:2379` or `sidehop run --node mq1:5672`. Everything
else is a key of a YAML file (`--config`), of which only what differs from the default needs to be written.
`config/sidehop.yaml` holds every key with its default, `config/examples/` short files to start from.

**Four places:** flags win over the environment, the environment over the file, the file over the defaults. A list
replaces the whole list of a weaker place; the keys of `discovery.options` add up.

| Flag | Key |
|---|---|
| `--listen HOST:PORT` | `listen.host` and `listen.port` |
| `--admin HOST:PORT` | `admin.host` and `admin.port` |
| `--node HOST:PORT` (repeatable) | `discovery.static.nodes`, and `discovery.source: static` |
| `--etcd URL` (repeatable) | `discovery.etcd.endpoints`, and `discovery.source: etcd` |
| `--prefix KEY` | `discovery.etcd.prefix` |
| `--policy NAME` | `balance.policy` |
| `--log-format`, `--log-level` | `log.format`, `log.level` |

In the environment, `SIDEHOP_` is followed by the path in capitals with two underscores for each step:
`session.heartbeat_s` is `SIDEHOP_SESSION__HEARTBEAT_S`. The items of a list are separated by commas. Variables that
Kubernetes makes for a service called `sidehop` are left alone.

**Wrong is refused.** An unknown key, a key given twice, a wrong type or an impossible value ends the start with exit
code 2 and a line for each problem: the path, where it was given, and what would be right.
`sidehop check --config FILE` does the same without starting, and prints what is in effect with secrets as `***`.
An address is always two keys, `host` and `port`.

**Secrets** are never printed, logged or served. Give them in the environment or, for etcd, as `password_file`.

The suffix of a key is its unit: `_s` seconds, `_bytes` bytes, `_percent` percent.
"""


def reference(text: str) -> str:
    """The whole document."""
    lines, comment, path = [HEAD], [], []
    for line in text.partition("\n\n")[2].splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
        elif stripped.startswith("- "):
            lines[-1] = lines[-1].replace("| |", f"| `[{stripped[2:]}]` |", 1)
        elif stripped:
            key, _, value = stripped.partition(":")
            depth = (len(line) - len(line.lstrip())) // 2
            path = [*path[:depth], key]
            told, comment = " ".join(comment), []
            lines += entry(path, value.strip(), told)
    return "\n".join(lines) + "\n"


def entry(path: list[str], value: str, told: str) -> list[str]:
    """A heading for a section, a row of its table for a key."""
    name = ".".join(path)
    if not value and path[-1] != "endpoints":
        return ["", f"{'#' * (len(path) + 1)} {name}", "", told, "", "| Key | Default | Meaning |", "|---|---|---|"]
    # Keys of `discovery` itself stand behind its sub-sections, below a heading of their own.
    rest = ["", "### discovery, the rest", "", "| Key | Default | Meaning |", "|---|---|---|"]
    head = rest if name == "discovery.options" else []
    return [*head, f"| `{name}` | {f'`{value}`' if value else ''} | {told} |".replace("|  |", "| |")]


if __name__ == "__main__":
    document = reference((ROOT / "config/sidehop.yaml").read_text(encoding="utf-8"))
    (ROOT / "docs/CONFIGURATION.md").write_text(document, encoding="utf-8")
    sys.exit(0)
