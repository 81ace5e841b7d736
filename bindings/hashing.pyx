"""Hashes of keys: Kafka's murmur2, partitions by it, a table hash, jump consistent hash. See hashing.pyi."""
from libc.stdint cimport int32_t, uint64_t

from borrow cimport Borrowed, borrow, give_back
from hash cimport mq_consistent_partition, mq_hash64, mq_jump_hash, mq_kafka_partition, mq_murmur2


cdef inline int check_partitions(int32_t partitions) except -1:
    if partitions < 1:
        raise ValueError(f"partitions must be at least 1, not {partitions}")
    return 0


def murmur2(key, /) -> int:
    cdef Borrowed b
    borrow(key, &b)
    cdef int32_t h = <int32_t>mq_murmur2(b.bytes, b.size)
    give_back(&b)
    return h


def hash64(key, /, uint64_t seed=0) -> int:
    cdef Borrowed b
    borrow(key, &b)
    cdef uint64_t h = mq_hash64(b.bytes, b.size, seed)
    give_back(&b)
    return h


def jump_hash(uint64_t hash, int32_t buckets, /) -> int:
    check_partitions(buckets)
    return mq_jump_hash(hash, buckets)


def kafka_partition(key, int32_t partitions, /) -> int:
    cdef Borrowed b
    check_partitions(partitions)
    borrow(key, &b)
    cdef int32_t partition = mq_kafka_partition(b.bytes, b.size, partitions)
    give_back(&b)
    return partition


def consistent_partition(key, int32_t partitions, /) -> int:
    cdef Borrowed b
    check_partitions(partitions)
    borrow(key, &b)
    cdef int32_t partition = mq_consistent_partition(b.bytes, b.size, partitions)
    give_back(&b)
    return partition
