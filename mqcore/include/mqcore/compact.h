/* compact.h -- keep the last record of each key: a map from key to last offset, and the copy that goes by it.
 *
 * A round reads the dirty batches into the map, in offset order, then copies every batch below the round's end through
 * the filter. Both run over uncompressed batches; the caller inflates the others, and decides about transactions.
 * Invariants:
 *   I1  the map compares whole keys: two keys are never taken for one, whatever their hashes are. A record is dropped
 *       for a newer one only if that has the same key, byte for byte.
 *   I2  the map's bytes never pass max_bytes. Where it is full the round ends, at a batch that was read whole; records
 *       past that end are kept whatever the map says of them.
 *   I3  a batch that is written has the offsets, timestamps, producer fields and last_offset_delta that it had; what
 *       goes is records. A batch whose every record stays is copied byte for byte.
 *   I4  a tombstone (a null value) that is its key's last record stays until the delete horizon of its batch: set,
 * once, when a round first copies it, to now + delete.retention.ms, in base_timestamp under attribute bit 6 (KIP-534).
 *   I5  every batch's CRC is checked before a byte of it is used.
 * Threads: none; the caller serialises. Records without a key are dropped, as Kafka drops them. */
#ifndef MQCORE_COMPACT_H
#define MQCORE_COMPACT_H

#include "mqcore/batch.h"
#include "mqcore/wire.h"

typedef struct mq_keymap mq_keymap;

/* max_bytes: at least 64 KiB (MQ_EINVAL). seed: of the hash; a secret one keeps chosen keys from colliding. */
mq_keymap *mq_keymap_new(size_t max_bytes, uint64_t seed, mq_error *err);
void mq_keymap_free(mq_keymap *m);
/* Set the last offset of a key (any bytes; offset >= 0; the larger one stays). MQ_EFULL (I2), MQ_ENOMEM: unchanged. */
mq_status mq_keymap_put(mq_keymap *m, const uint8_t *key, size_t size, int64_t offset, mq_error *err);
/* The last offset of a key, -1 if it has none. */
int64_t mq_keymap_get(const mq_keymap *m, const uint8_t *key, size_t size);
uint64_t mq_keymap_count(const mq_keymap *m);
size_t mq_keymap_bytes(const mq_keymap *m);

typedef struct mq_compact_rules {
    const mq_keymap *map;
    int64_t end_offset; /* records from here on are kept (I2) */
    int64_t round_end;  /* the batch that ends right before this offset stays, even empty */
    int64_t now_ms;
    int64_t delete_retention_ms; /* >= 0 */
    const int64_t *last_offsets; /* sorted: last offsets of batches that stay, even empty (of active producers) */
    size_t last_count;
} mq_compact_rules;

/* Growing output. Zero it before use; mq_compact_out_free. size is what was written. */
typedef struct mq_compact_out {
    uint8_t *bytes;
    size_t size;
    size_t room;
} mq_compact_out;

typedef struct mq_compact_stats {
    uint64_t batches_read, batches_written;
    uint64_t records_read, records_written;
} mq_compact_stats;

enum {                          /* flags of mq_compact_batch */
       MQ_COMPACT_DISCARD = 1,  /* every record goes (an aborted transaction's, an expired marker) */
       MQ_COMPACT_KEEP = 2,     /* every record stays (a marker) */
       MQ_COMPACT_HORIZON = 4,  /* give it a delete horizon, as if it held a tombstone (the marker of an empty txn) */
       MQ_COMPACT_MAY_EMPTY = 8 /* stay without records if none are left */
};

typedef enum mq_compact_outcome {
    MQ_COMPACT_DROPPED,
    MQ_COMPACT_COPIED, /* byte for byte */
    MQ_COMPACT_REWRITTEN,
    MQ_COMPACT_EMPTIED /* only the header is left */
} mq_compact_outcome;

/* Put the keys of a whole, uncompressed batch into the map: records at start_offset and above.
 * MQ_EFULL: some are in (harmless, I2); MQ_ECRC, MQ_ECORRUPT, …: damage. */
mq_status mq_compact_index_batch(mq_keymap *m, const uint8_t *batch, size_t size, int64_t start_offset, mq_error *err);

/* The same for the batches from *position on, which moves past each that was read whole; *next_offset follows. Stops,
 * with MQ_OK, before a batch that is compressed, transactional or a control batch (the caller's), or at the end. */
mq_status mq_compact_index_run(mq_keymap *m, const uint8_t *bytes, size_t size, size_t *position, int64_t start_offset,
                               int64_t *next_offset, mq_error *err);

/* Filter one whole, uncompressed batch to the end of out. On an error out->size is as before. */
mq_status mq_compact_batch(const mq_compact_rules *rules, const uint8_t *batch, size_t size, unsigned flags,
                           mq_compact_out *out, mq_compact_stats *stats, mq_compact_outcome *outcome, mq_error *err);

/* The same for the batches from *position on, until out holds out_limit bytes or more. Stops as the index run does. */
mq_status mq_compact_run(const mq_compact_rules *rules, const uint8_t *bytes, size_t size, size_t *position,
                         size_t out_limit, mq_compact_out *out, mq_compact_stats *stats, mq_error *err);

void mq_compact_out_free(mq_compact_out *out);

/* Whether a batch that ends at last_offset stays even if it is emptied. */
bool mq_compact_stays(const mq_compact_rules *rules, int64_t last_offset);

/* The type in a control batch's record: 0 abort, 1 commit, other numbers as they are; -1: it has no records. */
mq_status mq_compact_control_type(const uint8_t *batch, size_t size, int32_t *type, mq_error *err);

#endif
