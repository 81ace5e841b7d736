/* dedup128.h -- which 128-bit message ids (UUIDs) were seen: one open-addressing table, a window by arrival time.
 * A 128-bit id need not hold a time, so each entry keeps when it came and at which offset: a hit gives the offset of
 * the first record without a search.
 * Invariants:
 *   I1  an id is seen if and only if it was set (or is pending) and its time is not below the last expire
 *   I2  bytes_used <= max_bytes; a set that would pass it is refused with MQ_EFULL and changes nothing
 *   I3  at most 3/4 of the table's places are taken: probes end. Expired entries stay as places until the table is
 *       rebuilt, or until a new id takes one
 * Threads: none; the caller serialises. */
#ifndef MQCORE_DEDUP128_H
#define MQCORE_DEDUP128_H

#include "mqcore/dedup.h"

typedef struct mq_dedup128 mq_dedup128;

/* NULL with err filled: MQ_EINVAL (max_bytes under 64 KiB), MQ_ENOMEM. seed: of the table's hash; a secret one keeps
 * chosen ids from colliding. */
mq_dedup128 *mq_dedup128_new(size_t max_bytes, uint64_t seed, mq_error *err);
void mq_dedup128_free(mq_dedup128 *d);
size_t mq_dedup128_bytes_used(const mq_dedup128 *d);
uint64_t mq_dedup128_ids(const mq_dedup128 *d); /* set and not expired when expire last ran; pending ones not */
uint64_t mq_dedup128_pending(const mq_dedup128 *d);

/* `count` ids of 16 bytes, offsets base_offset + i (all -1 if it is -1), all arrived at now_ms (>= 0). seen: answers.
 * done, duplicates: as mq_dedup_test_and_set_many. MQ_EFULL, MQ_ENOMEM: the id at *done and later ones did nothing. */
mq_status mq_dedup128_test_and_set_many(mq_dedup128 *d, const uint8_t *ids, size_t count, int64_t now_ms,
                                        int64_t base_offset, uint8_t *seen, size_t *done, size_t *duplicates,
                                        mq_error *err);
/* The answer without setting; *offset (may be NULL): of the first record with this id, -1 if unknown. */
mq_seen mq_dedup128_find(const mq_dedup128 *d, const uint8_t id[16], int64_t *offset);

/* Transactions: as in dedup.h. confirm sets the ids as arrived at now_ms. */
mq_status mq_dedup128_add_pending(mq_dedup128 *d, uint64_t tag, const uint8_t id[16], int64_t offset, mq_seen *seen,
                                  mq_error *err);
mq_status mq_dedup128_confirm(mq_dedup128 *d, uint64_t tag, int64_t now_ms, size_t *confirmed, mq_error *err);
size_t mq_dedup128_abort(mq_dedup128 *d, uint64_t tag);

/* Forget what arrived before before_ms; returns how many ids. Time never goes back: a smaller value does nothing. */
uint64_t mq_dedup128_expire(mq_dedup128 *d, int64_t before_ms);

/* Snapshot: "MQDE1281" | horizon_ms i64 | ids u64 | tags u32 | zero u32 | (id 16 bytes, offset i64, time_ms i64) * ids
 * | tags as in dedup_snapshot.c with 16-byte ids | crc32c u32. Decoded with every check, as there. */
mq_status mq_dedup128_serialize(const mq_dedup128 *d, uint8_t **bytes, size_t *size, mq_error *err);
mq_dedup128 *mq_dedup128_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, uint64_t seed, mq_error *err);

#endif
