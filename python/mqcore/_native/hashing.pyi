from typing_extensions import Buffer

def murmur2(key: Buffer, /) -> int:
    """MurmurHash2 of a bytes-like key as a signed 32-bit int: equal to Kafka's `Utils.murmur2`."""

def hash64(key: Buffer, /, seed: int = 0) -> int:
    """A 64-bit hash for tables in memory. Never store it: its value may change with a version."""

def jump_hash(hash: int, buckets: int, /) -> int:
    """Bucket 0 .. buckets - 1 of a well-mixed unsigned 64-bit hash. ValueError if buckets < 1."""

def kafka_partition(key: Buffer, partitions: int, /) -> int:
    """`(murmur2(key) & 0x7fffffff) % partitions`. ValueError if partitions < 1."""

def consistent_partition(key: Buffer, partitions: int, /) -> int:
    """Partition by jump consistent hash: adding partitions to n moves at most 1/n of the keys."""
