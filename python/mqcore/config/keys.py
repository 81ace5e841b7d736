"""One configuration key: its name, type, default, unit and range, and how text becomes its value.

Invariants:
    1. `Key.parse(Key.format(value)) == value` for every value that `parse` accepts.
    2. A value that does not fit raises InvalidConfigError with the key, the value what fits; nothing is clipped.
    3. An unknown key is an error that names the nearest known one: a misspelt `retention.ms` must never mean "keep
       the default and delete after a week".

Text forms are Kafka's (ConfigDef): integers in decimal (with `_` between digits, as Python has it), `true`/`false`,
lists with commas.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mqcore.errors import InvalidConfigError

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1

Kind = Literal["int", "float", "bool", "string", "set"]
ConfigValue = int | float | bool | str | Iterable[str]
"""What a caller may give for a key: the value itself or its text."""


@dataclass(frozen=True, slots=True)
class Key:
    """name: as Kafka spells it. unit: "ms", "bytes" or "". low, high: inclusive. choices: allowed words, if bounded."""

    name: str
    kind: Kind
    default: Any
    doc: str
    unit: str = ""
    low: float = -LONG_MAX - 1
    high: float = LONG_MAX
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Name of the dataclass field: dots become underscores, the prefix `mqcore.` goes."""
        return self.name.removeprefix("mqcore.").replace(".", "_")

    def parse(self, value: ConfigValue) -> Any:
        """Return the typed value of a value or its text. Raises InvalidConfigError."""
        if self.kind == "int":
            return self._in_range(value, self._int(value))
        if self.kind == "float":
            return self._in_range(value, self._float(value))
        if self.kind == "bool":
            return self._bool(value)
        if self.kind == "set":
            return self._set(value)
        if not isinstance(value, str):
            raise self._misfit(value, "text")
        if self.choices and value not in self.choices:
            raise self._misfit(value, "one of " + ", ".join(repr(c) for c in self.choices))
        return value

    def format(self, value: Any) -> str:
        """Return the text of a typed value, as Kafka's tools print it."""
        if self.kind == "bool":
            return "true" if value else "false"
        if self.kind == "set":
            return ",".join(sorted(value))
        return str(value)

    def _int(self, value: ConfigValue) -> int:
        # bool is an int in Python; "retention.ms": True is a mistake, not one millisecond.
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            try:
                return int(value.strip())
            except ValueError:
                pass
        raise self._misfit(value, "a whole number")

    def _float(self, value: ConfigValue) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value.strip())
            except ValueError:
                pass
        raise self._misfit(value, "a number")

    def _bool(self, value: ConfigValue) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            return value.strip().lower() == "true"
        raise self._misfit(value, "true or false")

    def _set(self, value: ConfigValue) -> frozenset[str]:
        if isinstance(value, str):
            words = frozenset(word.strip() for word in value.split(",") if word.strip())
        elif isinstance(value, Iterable):
            words = frozenset(value)
        else:
            raise self._misfit(value, "a list of words")
        if not words or not words <= frozenset(self.choices):
            raise self._misfit(value, "words out of " + ", ".join(repr(c) for c in self.choices))
        return words

    def _in_range(self, given: ConfigValue, number: float) -> float:
        # `not (low <= x <= high)`, so that NaN, which compares false with everything, is refused too.
        if not (self.low <= number <= self.high):
            unit = f" {self.unit}" if self.unit else ""
            raise self._misfit(given, f"{self.low:.0f} to {self.high:.0f}{unit}")
        return number

    def _misfit(self, value: object, wanted: str) -> InvalidConfigError:
        # repr, cut: the value may come from a peer or a file and be of any length (no key holds a secret).
        return InvalidConfigError(f"{self.name} must be {wanted}", key=self.name, value=repr(value)[:80])


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that looks most like `name`, or "" if none does. Underscores count as dots."""
    close = difflib.get_close_matches(name.replace("_", ".").lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else ""


def unknown_key(name: object, known: Iterable[str]) -> InvalidConfigError:
    """Return the error for a key that nobody knows, with the nearest name in the hint."""
    text = str(name)[:80]
    near = nearest(text, known)
    return InvalidConfigError("unknown config key", key=text, hint=f"Did you mean {near!r}?" if near else "")


def parse_all(values: Mapping[str, ConfigValue], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Return {field: typed value} for the given keys only. Raises InvalidConfigError at the first that does not fit."""
    parsed = {}
    for name, value in values.items():
        key = keys.get(name)
        if key is None:
            raise unknown_key(name, keys)
        parsed[key.field] = key.parse(value)
    return parsed
