"""Certificates and keys in PEM files: which of them is wrong, for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxy.errors import ConfigError


def unusable(files: Mapping[str, str], error: Exception) -> ConfigError:
    """Say which of the files made TLS fail. `files` are paths by the key of the configuration, empty if not set.

    OpenSSL's own errors name no file. One that cannot be read is found by reading; else all that are set may be wrong.
    """
    named = {key: path for key, path in files.items() if path}
    for key, path in named.items():
        try:
            Path(path).read_bytes()
        except OSError as reason:
            return ConfigError(f"{key}: {path} cannot be read: {reason.strerror}")
    return ConfigError(f"{' or '.join(f'{key} ({path})' for key, path in named.items())} cannot be used: {error}")
