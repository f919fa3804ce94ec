"""What must not be shown. Every place that prints a setting or a fact asks here."""

from __future__ import annotations

import re
from dataclasses import Field
from typing import Any

HIDDEN = "***"

# Everything between `://` and the last `@` of a word: a password may itself hold `/` or `@`. Without a scheme, `a:b@`.
_USERINFO = re.compile(r"(?<=://)[^\s'\"]*@|[^\s'\",/@]+:[^\s'\"]*@")
_SECRET_NAME = re.compile(r"passw|secret|token|credential", re.IGNORECASE)


def without_userinfo(text: str) -> str:
    """The text with the user and password of every URL in it hidden."""
    return _USERINFO.sub(f"{HIDDEN}@", text) if "@" in text else text


def names_secret(key: str) -> bool:
    """Whether a free-form key, such as one of a third party's options, sounds like a secret. A `*_file` is a path."""
    return bool(_SECRET_NAME.search(key)) and not key.endswith(("_file", "_path"))


def is_secret(item: Field[Any]) -> bool:
    """Whether a policy's field is marked `metadata={"secret": True}` or named like a secret."""
    return bool(item.metadata.get("secret")) or names_secret(item.name)
