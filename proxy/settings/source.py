"""Where a setting was given: file, environment or flag. Each becomes the same flat table, so merging is one update."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import ConfigError

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader

KeyPath = tuple[str, ...]

ENVIRONMENT_PREFIX = "SIDEHOP_"
_DEPTH_MAX = 8

# Kubernetes describes each service of the namespace in variables; a service named `sidehop` makes these of it.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_")


@dataclass(frozen=True, slots=True)
class Given:
    """One value and where it came from. `text` is True where every value is a string, whatever was meant."""

    value: object
    origin: str
    text: bool = False

    def __repr__(self) -> str:
        return f"Given(origin={self.origin!r})"


Table = dict[KeyPath, Given]


def from_file(path: Path) -> Table:
    """Read a YAML file; a key given twice, an unsafe tag or a file that is not a mapping is refused."""
    import yaml  # here, since `--help` needs no YAML

    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path}: the file cannot be read: {reason}") from error
    table: Table = {}
    try:
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if node is None:
            return table
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: the file must hold sections such as `listen:`")
        _flatten(loader, node, (), table, path)
    except yaml.MarkedYAMLError as error:
        # PyYAML quotes what it could not read, and that may be a password: only the place is told.
        problem = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "...", error.problem or "the file is not YAML")
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {problem}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{path}: the file holds characters that YAML does not allow") from None
    return table


def _flatten(loader: SafeLoader, node: MappingNode, above: KeyPath, table: Table, path: Path) -> None:
    import yaml

    if len(above) >= _DEPTH_MAX:
        raise ConfigError(f"{'.'.join(above)}: sections are nested deeper than {_DEPTH_MAX}")
    loader.flatten_mapping(node)
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node, deep=True))
        where = f"{path} line {key_node.start_mark.line + 1}"
        here = (*above, key)
        if key in seen:
            raise ConfigError(f"{'.'.join(here)} ({where}): the key is given twice; keep one of them")
        seen.add(key)
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            _flatten(loader, value_node, here, table, path)
        else:
            # An empty section says nothing, but its name may still be wrong.
            value = loader.construct_object(value_node, deep=True)
            table[here] = Given(None if value == {} else value, where)


def from_environment(environment: Mapping[str, str], sections: tuple[str, ...]) -> Table:
    """Read `SIDEHOP_SECTION__KEY` variables; two underscores go one level down.

    Other `SIDEHOP_` variables belong to somebody else, unless one looks like a section with an underscore missing.
    """
    table: Table = {}
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        value, rest = environment[name], name.removeprefix(ENVIRONMENT_PREFIX)
        if "__" in rest:
            path = tuple(part.lower() for part in rest.split("__"))
            table[path] = Given(value, f"environment {name}", text=True)
            continue
        section, _, key = rest.partition("_")
        if section.lower() in sections and not _SERVICE_LINK.search(name) and "://" not in value:
            meant = f"{ENVIRONMENT_PREFIX}{section}__{key}"
            raise ConfigError(f"environment {name}: two underscores separate section and key; did you mean {meant}?")
    return table


def from_flags(flags: Mapping[str, tuple[object, str]]) -> Table:
    """Turn `{"listen.port": (5672, "--listen")}` into a table."""
    return {tuple(key.split(".")): Given(value, f"flag {flag}") for key, (value, flag) in flags.items()}
