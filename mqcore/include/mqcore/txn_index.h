/* txn_index.h -- a segment's .txnindex file: the aborted transactions whose marker lies in the segment (KIP-98), as
 * Kafka's TransactionIndex lays them out.
 *
 *   0 version int16 (0) | 2 producer_id int64 | 10 first_offset int64 | 18 last_offset int64 (the marker's)
 *  26 last_stable_offset int64 (when the marker was appended)
 *
 * Invariants: last offsets rise strictly; first_offset <= last_offset. The file is made at the first entry: most
 * segments have none. A torn last entry is no entry; the next append overwrites it. */
#ifndef MQCORE_TXN_INDEX_H
#define MQCORE_TXN_INDEX_H

#include "mqcore/io.h"

enum { MQ_TXN_ENTRY = 34 };

/* Aborts in one segment: 16 Mi entries; past it the file is no index of ours. */
#define MQ_TXN_INDEX_BYTES_MAX ((uint64_t)MQ_TXN_ENTRY << 24)

typedef struct mq_txn_entry {
    int64_t producer_id;
    int64_t first_offset;
    int64_t last_offset;
    int64_t last_stable_offset;
} mq_txn_entry;

void mq_txn_entry_put(uint8_t *bytes, const mq_txn_entry *entry);
/* MQ_EUNSUPPORTED: a later version; MQ_ECORRUPT: offsets out of order. */
mq_status mq_txn_entry_get(const uint8_t *bytes, mq_txn_entry *entry, mq_error *err);

/* Append one entry. MQ_EINVAL: its last offset is not above the last one's. Not synced. */
mq_status mq_txn_index_append(mq_io *io, const char *path, const mq_txn_entry *entry, mq_error *err);

/* All entries of the file (mq_alloc, the caller frees with mq_free; NULL and 0 where there is no file). */
mq_status mq_txn_index_load(mq_io *io, const char *path, mq_txn_entry **entries, size_t *count, mq_error *err);

/* Drop entries with a last offset >= offset. Not synced. */
mq_status mq_txn_index_truncate(mq_io *io, const char *path, int64_t offset, mq_error *err);

/* fsync, if the file is there. */
mq_status mq_txn_index_sync(mq_io *io, const char *path, mq_error *err);

#endif
