/* hash.h -- the three hashes of keys: which partition, which slot of a table, which bucket when there are n.
 * Invariants:
 *   I1  mq_murmur2 equals Kafka's Utils.murmur2 for every input: it decides where keys live, for ever.
 *   I2  mq_hash64 is never stored: its value may change with a version of mqcore; a table that holds it is rebuilt.
 *   I3  mq_jump_hash: from n to n + 1 buckets a key stays, or moves to the new bucket; never between old ones. */
#ifndef MQCORE_HASH_H
#define MQCORE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* MurmurHash2, 32 bits, with Kafka's seed 0x9747b28c. size: bytes, at most INT32_MAX (a Java array). */
uint32_t mq_murmur2(const void *bytes, size_t size);

/* A fast hash of 64 good bits for tables in memory. seed: any; a secret one keeps chosen keys from colliding. */
uint64_t mq_hash64(const void *bytes, size_t size, uint64_t seed);

/* Bucket of a well-mixed 64-bit hash among `buckets` >= 1; result 0 .. buckets - 1.
 * Source: Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014. */
int32_t mq_jump_hash(uint64_t hash, int32_t buckets);

/* Mix one word into 64 good bits (for keys that are numbers). */
static inline uint64_t mq_mix64(uint64_t v)
{
    v = (v ^ (v >> 32)) * 0xE9846AF9B1A615Du;
    v = (v ^ (v >> 32)) * 0xE9846AF9B1A615Du;
    return v ^ (v >> 28);
}

/* Partition of a key among `partitions` >= 1, as Kafka's default partitioner has it. */
static inline int32_t mq_kafka_partition(const void *key, size_t size, int32_t partitions)
{
    return (int32_t)(mq_murmur2(key, size) & 0x7fffffffu) % partitions;
}

/* Partition of a key among `partitions` >= 1 that moves at most 1/n of the keys when partitions are added. Made of
 * murmur2 and not of mq_hash64: what it says holds for the life of a topic. */
static inline int32_t mq_consistent_partition(const void *key, size_t size, int32_t partitions)
{
    return mq_jump_hash(mq_mix64(mq_murmur2(key, size)), partitions);
}

#endif
