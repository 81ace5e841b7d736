"""Kafka's primitive types, as far as the records of groups use them: a reader with bounds, and an appender.

Invariants:
    1. Every read passes `take`, which knows where the bytes end: damaged or hostile bytes raise StoreFormatError.
    2. `Reader(bytes).xyz()` gives back what `xyz` of `Writer` took.
Compact forms are those of flexible versions (KIP-482): length + 1 as an unsigned varint.
"""

from __future__ import annotations

import struct
import uuid

from mqcore.errors import StoreFormatError

_I16, _I32, _I64 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
VARINT_BYTES_MAX = 5
TEXT_BYTES_MAX = 32767


class Reader:
    """Reads one record's key or value from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size < 0 or size > self.left:
            raise StoreFormatError("a group's record ends too early", needs=size, has=self.left)
        self._at += size
        return self._data[self._at - size : self._at]

    def int16(self) -> int:
        return int(_I16.unpack(self.take(2))[0])

    def int32(self) -> int:
        return int(_I32.unpack(self.take(4))[0])

    def int64(self) -> int:
        return int(_I64.unpack(self.take(8))[0])

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self.take(16))

    def varint(self) -> int:
        """An unsigned varint of at most 32 bits."""
        value = 0
        for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
        raise StoreFormatError("a varint is too long")

    def text(self) -> str:
        found = self.nullable_text()
        if found is None:
            raise StoreFormatError("a text that must be there is null")
        return found

    def nullable_text(self) -> str | None:
        size = self.int16()
        return None if size < 0 else _decode(self.take(size))

    def nullable_bytes(self) -> bytes | None:
        size = self.int32()
        return None if size < 0 else self.take(size)

    def count(self, least: int = 1) -> int:
        """Elements of an array, each of at least `least` bytes, so that a count cannot claim more than is there."""
        return self._bounded(self.int32(), least)

    def compact_text(self) -> str:
        return self.compact_nullable_text() or ""

    def compact_nullable_text(self) -> str | None:
        size = self.varint() - 1
        return None if size < 0 else _decode(self.take(size))

    def compact_bytes(self) -> bytes:
        return self.take(max(0, self.varint() - 1))

    def compact_count(self, least: int = 1) -> int:
        return self._bounded(self.varint() - 1, least)

    def _bounded(self, count: int, least: int) -> int:
        if count * least > self.left:
            raise StoreFormatError("an array is longer than its record", count=count)
        return max(0, count)

    def tagged(self) -> dict[int, bytes]:
        """The tagged fields (KIP-482): number -> bytes."""
        return {self.varint(): self.take(self.varint()) for _ in range(self._bounded(self.varint(), 2))}


class Writer(bytearray):
    """Appends; each method returns the writer."""

    def int16(self, value: int) -> Writer:
        self += _I16.pack(value)
        return self

    def int32(self, value: int) -> Writer:
        self += _I32.pack(value)
        return self

    def int64(self, value: int) -> Writer:
        self += _I64.pack(value)
        return self

    def varint(self, value: int) -> Writer:
        while value > 0x7F:
            self.append(value & 0x7F | 0x80)
            value >>= 7
        self.append(value)
        return self

    def text(self, value: str | None) -> Writer:
        if value is None:
            return self.int16(-1)
        encoded = value.encode()
        self.int16(len(encoded))
        self += encoded
        return self

    def nullable_bytes(self, value: bytes | None) -> Writer:
        self.int32(-1 if value is None else len(value))
        self += value or b""
        return self

    def compact_text(self, value: str | None) -> Writer:
        return self.compact_bytes(None if value is None else value.encode())

    def compact_bytes(self, value: bytes | None) -> Writer:
        self.varint(0 if value is None else len(value) + 1)
        self += value or b""
        return self

    def tagged(self, fields: dict[int, bytes]) -> Writer:
        self.varint(len(fields))
        for number, value in sorted(fields.items()):
            self.varint(number).varint(len(value))
            self += value
        return self


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise StoreFormatError("a text in a group's record is no UTF-8") from None
