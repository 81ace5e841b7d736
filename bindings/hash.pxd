from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef extern from "mqcore/hash.h" nogil:
    uint32_t mq_murmur2(const void *bytes, size_t size)
    uint64_t mq_hash64(const void *bytes, size_t size, uint64_t seed)
    int32_t mq_jump_hash(uint64_t hash, int32_t buckets)
    uint64_t mq_mix64(uint64_t v)
    int32_t mq_kafka_partition(const void *key, size_t size, int32_t partitions)
    int32_t mq_consistent_partition(const void *key, size_t size, int32_t partitions)
