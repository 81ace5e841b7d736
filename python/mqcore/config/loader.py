"""Settings from text: `key=value` pairs of a command line, Kafka's `.properties` files, TOML files.

Invariants:
    1. Nothing is guessed: what is neither a pair, a comment nor empty is an InvalidConfigError with its line number.
    2. A key given twice is an error, not "the last one wins".
    3. No value names code, a class or another file to load.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mqcore.errors import InvalidConfigError

MAX_FILE_BYTES = 1 << 20
"""A settings file is a page or two; a larger one is not a settings file."""


def from_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Return {key: text} of `key=value` strings (the CLI's `--config`). Raises InvalidConfigError."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        _add(values, name.strip(), value.strip(), pair if not equals else "", hint="Write it as key=value.")
    return values


def from_properties(text: str) -> dict[str, str]:
    """Return {key: text} of a Java properties text: `key=value` or `key: value`, `#` and `!` comments."""
    values: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#!":
            continue
        ends = [position for position in (line.find("="), line.find(":")) if position > 0]
        if not ends:
            raise InvalidConfigError("not a key=value line", line=number, value=repr(line)[:80])
        _add(values, line[: min(ends)].strip(), line[min(ends) + 1 :].strip(), "", line=number)
    return values


def from_toml(text: str) -> dict[str, Any]:
    """Return {dotted key: value} of a TOML text; tables and dotted keys both spell dots: `[retention] ms = 1`."""
    try:
        return _flatten("", tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfigError(f"not TOML: {error}") from None


def from_file(path: str | Path) -> dict[str, Any]:
    """Return the settings of a file: TOML if its name ends in `.toml`, else properties.

    Raises InvalidConfigError, OSError.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidConfigError("settings file is too large", path=str(path), limit=MAX_FILE_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidConfigError("settings file is not UTF-8", path=str(path)) from None
    return from_toml(text) if str(path).endswith(".toml") else from_properties(text)


def _add(values: dict[str, str], name: str, value: str, bad: str, *, hint: str = "", line: int | None = None) -> None:
    if bad or not name:
        raise InvalidConfigError("not a key=value pair", value=repr(bad or value)[:80], line=line, hint=hint)
    if name in values:
        raise InvalidConfigError("config key is given twice", key=name, line=line)
    values[name] = value


def _flatten(prefix: str, table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(f"{prefix}{name}.", value))
        else:
            flat[prefix + name] = value
    return flat
