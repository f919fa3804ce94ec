"""From a table of given values to policy objects. The dataclasses of the parts are the schema; there is no other."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from proxy.errors import ConfigError
from proxy.settings.redaction import HIDDEN, is_secret, names_secret, without_userinfo
from proxy.settings.source import Given, KeyPath, Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Policy = TypeVar("Policy", bound="DataclassInstance")

_SHOWN_CHARS_MAX = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One setting: its path, its field and the type its value must have."""

    path: KeyPath
    item: dataclasses.Field[Any]
    hint: object

    @property
    def default(self) -> object:
        """The value where nothing is given."""
        if self.item.default_factory is not dataclasses.MISSING:
            return self.item.default_factory()
        return self.item.default


def keys_of(cls: type, above: KeyPath = ()) -> Iterator[Key]:
    """Every setting below a policy class, depth first in the order of declaration."""
    for key in _members(cls, above).values():
        if _is_policy(key.hint):
            yield from keys_of(key.hint, key.path)
        else:
            yield key


def build(cls: type[Policy], table: Table) -> Policy:
    """Make the policy objects. Raises `ConfigError` naming every problem found, one a line."""
    problems: list[str] = []
    accepted: dict[KeyPath, Given] = {}
    for path, given in table.items():
        problem = _misplaced(cls, path, given)
        if problem is None:
            accepted[path] = given
        elif problem:
            problems.append(f"{'.'.join(path)} ({given.origin}): {problem}")
    built = _construct(cls, (), accepted, problems)
    if problems or built is None:
        raise ConfigError("\n".join(problems))
    return built


def as_shown(policy: DataclassInstance) -> dict[str, object]:
    """The effective configuration as plain values, secrets hidden; the same shape as the file."""
    shown: dict[str, object] = {}
    for item in dataclasses.fields(policy):
        value = getattr(policy, item.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            shown |= as_shown(value) if item.metadata.get("inline") else {item.name: as_shown(value)}
        elif value and is_secret(item):
            shown[item.name] = HIDDEN
        else:
            shown[item.name] = _plain(value)
    return shown


def _plain(value: object) -> object:
    if isinstance(value, str):
        return without_userinfo(value)
    if isinstance(value, Mapping):
        return {key: HIDDEN if names_secret(str(key)) else _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def _members(cls: type, above: KeyPath) -> dict[str, Key]:
    """The keys of one section. A field marked `metadata={"inline": True}` lends it the keys of another policy."""
    hints = get_type_hints(cls)
    members: dict[str, Key] = {}
    for item in dataclasses.fields(cls):
        if item.metadata.get("inline"):
            members |= _members(hints[item.name], above)
        else:
            members[item.name] = Key((*above, item.name), item, hints[item.name])
    return members


def _misplaced(cls: type, path: KeyPath, given: Given) -> str | None:
    """Why no setting has this path; None if one has, and empty for a section that is merely left empty."""
    at = cls
    for depth, part in enumerate(path):
        members = _members(at, path[:depth])
        if part not in members:
            return f"unknown key; {_meant(cls, members, path[: depth + 1])}"
        hint, below = members[part].hint, path[depth + 1 :]
        if _is_policy(hint):
            at = hint
        elif below and not _is_mapping(hint):
            return "this key holds a value, it has no keys below it"
        else:
            return "" if given.value is None and _is_mapping(hint) else None
    if given.value is None:
        return ""
    return f"expected a section with keys such as {next(iter(_members(at, path)))}, given a value"


def _meant(cls: type, members: Mapping[str, Key], path: KeyPath) -> str:
    close = difflib.get_close_matches(path[-1], members, n=1, cutoff=0.6)
    if close:
        return f"did you mean {'.'.join((*path[:-1], close[0]))}?"
    elsewhere = [".".join(key.path) for key in keys_of(cls) if key.path[-1] == path[-1]]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"known here: {', '.join(members)}"


def _construct(
    cls: type[Policy], above: KeyPath, accepted: Mapping[KeyPath, Given], problems: list[str]
) -> Policy | None:
    values: dict[str, Any] = {}
    known = len(problems)
    members, hints = _members(cls, above), get_type_hints(cls)
    for name in (item.name for item in dataclasses.fields(cls)):
        if name not in members:
            values[name] = _construct(hints[name], above, accepted, problems)
            continue
        key = members[name]
        if _is_policy(key.hint):
            values[name] = _construct(key.hint, key.path, accepted, problems)
        elif _is_mapping(key.hint):
            inner = {path: given for path, given in accepted.items() if path[: len(key.path)] == key.path}
            if inner:
                _put(values, name, key, _gathered(key.path, inner), problems)
        elif key.path in accepted:
            _put(values, name, key, accepted[key.path], problems)
    if len(problems) > known:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.append(error.reason + _mentioned(cls, above, accepted, error.reason))
        return None


def _put(values: dict[str, Any], name: str, key: Key, given: Given, problems: list[str]) -> None:
    try:
        values[name] = _convert(key.hint, given)
    except (msgspec.ValidationError, ValueError):
        shown = "a hidden value" if is_secret(key.item) else _shown(given.value)
        advice = f"; the default is {_shown(key.default)}" if key.default not in ("", (), {}) else ""
        problems.append(f"{'.'.join(key.path)} ({given.origin}): expected {describe(key.hint)}, given {shown}{advice}")


def _convert(hint: object, given: Given) -> object:
    value = given.value
    if given.text and isinstance(value, str) and get_origin(hint) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    converted: object = msgspec.convert(value, type=hint, strict=not given.text)
    if isinstance(converted, float) and not math.isfinite(converted):
        # A comparison with a NaN is always false, so it would slip through the checks of the policies.
        raise ValueError("not finite")
    return converted


def _gathered(path: KeyPath, inner: Mapping[KeyPath, Given]) -> Given:
    """Put the values below a free-form mapping together again."""
    whole: dict[str, Any] = {}
    for full, given in inner.items():
        level, below = whole, full[len(path) :]
        if not below:
            return given
        for part in below[:-1]:
            if not isinstance(level.get(part), dict):  # a stronger place may have keys where a weaker one has a value
                level[part] = {}
            level = level[part]
        level[below[-1]] = given.value
    origin = ", ".join(dict.fromkeys(given.origin for given in inner.values()))
    return Given(whole, origin, text=any(given.text for given in inner.values()))


def _mentioned(cls: type, above: KeyPath, accepted: Mapping[KeyPath, Given], text: str) -> str:
    """Which given values a policy's refusal speaks of."""
    told = [
        f"{'.'.join(key.path)} = {HIDDEN if is_secret(key.item) else _shown(accepted[key.path].value)}"
        f" from {accepted[key.path].origin}"
        for key in _members(cls, above).values()
        if key.path in accepted and key.item.name in text
    ]
    return f" (given {'; '.join(told)})" if told else ""


def describe(hint: object) -> str:
    """What a value of this type looks like, for a person."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text (put it in quotes)"}
    if isinstance(hint, type) and hint in plain:
        return plain[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if each is type(None) else describe(each) for each in arguments)
    return "a mapping of keys to values" if _is_mapping(hint) else str(getattr(hint, "__name__", hint))


def _is_policy(hint: object) -> TypeGuard[type[DataclassInstance]]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _is_mapping(hint: object) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict | list) for each in value)):
        return "nested keys and values"  # which may hold anything, a password too
    text = without_userinfo(repr(value))
    return text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "..."
