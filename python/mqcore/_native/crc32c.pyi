from typing_extensions import Buffer

def crc32c(data: Buffer, crc: int = 0, /) -> int:
    """CRC-32C of a bytes-like object; crc is the value of the bytes before it (calls chain). The GIL is released
    for more than 64 KiB: the bytes must not change meanwhile. OverflowError if crc is not an unsigned 32-bit int."""

def implementations() -> tuple[str, ...]:
    """The implementations that this processor can run, slowest first."""

def active() -> str:
    """The implementation in use; environment MQCORE_CRC32C=<name> chooses another before the first call."""

def crc32c_with(implementation: str, data: Buffer, crc: int = 0, /) -> int:
    """One implementation by name (tests, benchmarks). ValueError if this processor cannot run it."""
