"""Reading: records a second out of a filled topic, checksums on, as a share of the checksum alone (arrays) or of the
cheapest way that Python has to make bytes objects (`struct.iter_unpack`)."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from mqcore.bench.harness import Comparison, Side, case
from mqcore.bench.material import COUNT, TOPIC, VALUE_BYTES, filled_store, values

UNPACK = "struct.iter_unpack"
READ_COUNT = 5 * COUNT


def _filled(directory: Path) -> tuple[Any, bytes]:
    items = values(READ_COUNT)
    return filled_store(directory, items), b"".join(items)


def _batches(store: Any) -> Any:
    with store.consumer(TOPIC, follow=False) as consumer:
        yield from consumer.batches(max_records=10_000)


def _unpacked(joined: bytes) -> Side:
    """The base of what makes objects: one bytes object a value, out of the values back to back."""
    unpack = struct.Struct(f"{VALUE_BYTES}s").iter_unpack

    def run(_: Any) -> None:
        for _value in unpack(joined):
            pass

    return Side(run)


@case("read_numpy", goal=0.24, base="CRC32C (awscrt)")
def read_numpy(directory: Path) -> Comparison:
    """Batches as arrays of offsets, timestamps, starts and lengths over the mapped segment: each byte is touched once
    by the checksum, each record header once more."""
    from awscrt import checksums

    store, _ = _filled(directory)
    log = next(iter(sorted((Path(store.path) / "topics" / f"{TOPIC}-0").glob("*.log"))))
    with open(log, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    view = memoryview(mapped)

    def base(_: Any) -> None:
        checksums.crc32c(view)

    def run(_: Any) -> None:
        for batch in _batches(store):
            _columns = batch.offsets, batch.timestamps, batch.values.to_numpy()

    return Comparison(Side(base), Side(run), READ_COUNT, close=store.close)


@case("read_bytes", goal=1.3, base=UNPACK)
def read_bytes(directory: Path) -> Comparison:
    """Every value as a bytes object in a loop that drops it, and so has its object used again; the base makes new ones."""
    store, joined = _filled(directory)

    def run(_: Any) -> None:
        for batch in _batches(store):
            for _value in batch.values.iter_bytes():
                pass

    return Comparison(_unpacked(joined), Side(run), READ_COUNT, close=store.close)


@case("read_records", goal=0.8, base=UNPACK)
def read_records(directory: Path) -> Comparison:
    """Every record as an object, and its value."""
    store, joined = _filled(directory)

    def run(_: Any) -> None:
        for batch in _batches(store):
            for record in batch.records():
                _value = record.value

    return Comparison(_unpacked(joined), Side(run), READ_COUNT, close=store.close)
