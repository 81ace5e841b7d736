"""Which partition a key goes to.

Invariants:
    1. `default` equals Kafka's default partitioner for every key: a Kafka client and mqcore agree where a key lives.
    2. Both are pure functions of (key, partitions), fixed for ever: a record's partition is never looked up.
    3. `consistent`: growing from n to m partitions moves a key only to one of the new partitions, so the share of
       moved keys is (m - n)/m, the least that fills them evenly.

Records without a key have no place of their own: the producer spreads them ("sticky", one partition per batch).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mqcore._native.hashing import consistent_partition, kafka_partition
from mqcore.errors import InvalidConfigError

Partitioner: TypeAlias = Callable[[bytes, int], int]

default: Partitioner = kafka_partition
"""(key, partitions) -> partition: `(murmur2(key) & 0x7fffffff) % partitions`."""

consistent: Partitioner = consistent_partition
"""(key, partitions) -> partition by jump consistent hash (Lamping and Veach, 2014)."""

PARTITIONERS: dict[str, Partitioner] = {"default": default, "consistent": consistent}
"""By the value of the topic key `mqcore.partitioner`."""


def partitioner(name: str) -> Partitioner:
    """The partitioner of that name. Raises InvalidConfigError with the known names otherwise."""
    try:
        return PARTITIONERS[name]
    except KeyError:
        raise InvalidConfigError(
            f"no partitioner {name!r}", hint="Known: " + ", ".join(sorted(PARTITIONERS)), key="mqcore.partitioner"
        ) from None
