/* batch_build.h -- records become v2 record batches, in place, in one buffer: a chunk, which a log appends in one call.
 *
 * A chunk is a buffer of the caller's that fills from the left: sealed batches back to back, then at most one open one.
 * Invariants:
 *   I1  batch_start <= size <= capacity. [0, batch_start) are whole sealed batches; [batch_start, size) is the open
 *       one (empty, or room for its header and batch_records whole records). Bytes from size to capacity mean nothing.
 *   I2  a record goes in whole or not at all; a batch over batch_bytes holds one record, and none is over batch_max.
 *   I3  sealed batches count offsets from 0 (the first one's base_offset is 0, the next one's the records before it) and
 *       have leader epoch -1: the log stamps both. Their CRC is right, unless seal_later: then mq_batch_repack makes it.
 *   I4  sizes are compared with the room before a byte is written; no size from outside enters arithmetic as int32.
 * Threads: one at a time; nothing here locks, allocates or calls the system.
 * Source: KIP-98 (batch), Kafka's DefaultRecord (record: length, attributes, timestamp delta, offset delta, key, value,
 * headers; all integers but the attributes byte are zig-zag varints; -1 is the length of null). */
#ifndef MQCORE_BATCH_BUILD_H
#define MQCORE_BATCH_BUILD_H

#include <string.h>

#include "mqcore/batch.h"
#include "mqcore/wire.h"

typedef struct mq_chunk {
    uint8_t *bytes;
    size_t capacity;
    size_t size;
    size_t batch_start;
    size_t batch_bytes;     /* a batch that holds more than one record is at most this large, header included */
    size_t batch_max;       /* no batch is larger (max.message.bytes) */
    int64_t base_timestamp; /* of the open batch: its first record's; ms */
    int64_t max_timestamp;
    int32_t batch_records; /* in the open batch */
    int32_t records;       /* in the sealed ones */
    int64_t producer_id;   /* -1: none */
    int32_t base_sequence; /* of the open batch; moves on with each record (idempotent producers) */
    int16_t producer_epoch;
    uint16_t attributes; /* of every batch (transactional, control); the codec's bits are mq_batch_repack's */
    bool seal_later;     /* leave the CRC to mq_batch_repack */
} mq_chunk;

/* One record; sizes in bytes, -1 for a null key or value. headers: as mq_header_put wrote them after a count varint, or
 * NULL with size 0 for none. timestamp: ms since 1970, not negative. */
typedef struct mq_record {
    const uint8_t *key;
    const uint8_t *value;
    const uint8_t *headers;
    int64_t timestamp;
    int32_t key_size;
    int32_t value_size;
    uint32_t headers_size;
} mq_record;

/* An empty chunk over bytes (capacity > 0), which stay the caller's. batch_bytes is cut to batch_max.
 * No producer id, no attributes. */
void mq_chunk_init(mq_chunk *c, uint8_t *bytes, size_t capacity, size_t batch_bytes, size_t batch_max);

/* Close the open batch, if there is one: header and (unless seal_later) CRC. The next record opens another. */
void mq_chunk_seal(mq_chunk *c);

/* Bytes of a record's body (what its length field counts), for these deltas. */
static inline size_t mq_record_body_size(const mq_record *r, int64_t timestamp_delta, int32_t offset_delta)
{
    const size_t key = r->key_size > 0 ? (size_t)r->key_size : 0;
    const size_t value = r->value_size > 0 ? (size_t)r->value_size : 0;
    const size_t headers = r->headers_size > 0 ? r->headers_size : 1;
    return 1 + mq_varint_size(timestamp_delta) + mq_varint_size(offset_delta) + mq_varint_size(r->key_size) + key +
           mq_varint_size(r->value_size) + value + headers;
}

/* Bytes that a chunk needs at least for this record alone: a batch header and the record. */
static inline size_t mq_record_room(const mq_record *r)
{
    const size_t body = mq_record_body_size(r, 0, 0);
    return MQ_BATCH_HEADER + mq_varint_size((int64_t)body) + body;
}

/* Write a record at p, where its bytes have room; return the first byte after it. */
static inline uint8_t *mq_record_write(uint8_t *p, const mq_record *r, size_t body, int64_t timestamp_delta,
                                       int32_t offset_delta)
{
    p = mq_put_varint(p, (int64_t)body);
    *p++ = 0; /* attributes: none are defined */
    p = mq_put_varint(p, timestamp_delta);
    p = mq_put_varint(p, offset_delta);
    p = mq_put_varint(p, r->key_size);
    if (r->key_size > 0) {
        memcpy(p, r->key, (size_t)r->key_size);
        p += r->key_size;
    }
    p = mq_put_varint(p, r->value_size);
    if (r->value_size > 0) {
        memcpy(p, r->value, (size_t)r->value_size);
        p += r->value_size;
    }
    if (r->headers_size == 0) {
        *p++ = 0;
        return p;
    }
    memcpy(p, r->headers, r->headers_size);
    return p + r->headers_size;
}

/* Seal what is open, then start a batch with this record. See mq_chunk_put. */
mq_status mq_chunk_put_first(mq_chunk *c, const mq_record *r);

/* Append a record. MQ_EFULL: no room in this chunk (take it to the log, go on in another); MQ_ETOOBIG: its batch would
 * pass batch_max, in any chunk; MQ_EINVAL: a size below -1 or a negative timestamp. After an error the chunk holds the
 * same records (the open batch may have been sealed). No mq_error: callers know key, value and limit. */
static inline mq_status mq_chunk_put(mq_chunk *c, const mq_record *r)
{
    if (c->batch_records > 0 && r->timestamp >= 0 && r->key_size >= -1 && r->value_size >= -1) {
        const int64_t delta = r->timestamp - c->base_timestamp; /* both >= 0: no overflow */
        const size_t body = mq_record_body_size(r, delta, c->batch_records);
        const size_t whole = mq_varint_size((int64_t)body) + body;
        if (whole <= c->capacity - c->size && c->size - c->batch_start + whole <= c->batch_bytes) {
            c->size = (size_t)(mq_record_write(c->bytes + c->size, r, body, delta, c->batch_records) - c->bytes);
            c->batch_records++;
            if (r->timestamp > c->max_timestamp)
                c->max_timestamp = r->timestamp;
            return MQ_OK;
        }
    }
    return mq_chunk_put_first(c, r);
}

/* Records in the chunk; the offset that the next one gets, counted from the chunk's first. */
static inline int32_t mq_chunk_records(const mq_chunk *c)
{
    return c->records + c->batch_records;
}

/* ---- columns: many records from arrays, without an object for each -------------------------------------------------- */

typedef enum mq_column_kind {
    MQ_COLUMN_NULL,      /* every cell is null */
    MQ_COLUMN_POINTERS,  /* cell i: pointers[i], sizes[i] bytes (-1 null) */
    MQ_COLUMN_OFFSETS32, /* cell i: base[offsets[i] .. offsets[i + 1]) (Arrow Binary) */
    MQ_COLUMN_OFFSETS64, /* the same with int64 offsets (Arrow LargeBinary) */
    MQ_COLUMN_ROWS,      /* cell i: width bytes at base + i * stride (2-D array, Arrow FixedSizeBinary) */
    MQ_COLUMN_RANGES     /* cell i: sizes[i] bytes (-1 null) at base + offsets64[i] (what mq_run_columns finds) */
} mq_column_kind;

typedef struct mq_column {
    mq_column_kind kind;
    const uint8_t *base;
    const uint8_t *const *pointers;
    const int32_t *sizes;
    const int32_t *offsets32;
    const int64_t *offsets64;
    ptrdiff_t stride;
    int32_t width;
    const uint8_t *valid;     /* Arrow's bitmap, least bit first, a 0 is null; NULL: none is */
    size_t valid_start;       /* bit of cell 0 */
    const void *const *ahead; /* POINTERS: what is read soon; cell i fetches three lines from ahead[i] on, a hint */
    size_t ahead_count;
} mq_column;

/* Many records: cell i of keys and of values, timestamps[i] or, where that is NULL, timestamp. */
typedef struct mq_rows {
    mq_column keys;
    mq_column values;
    const int64_t *timestamps;
    int64_t timestamp;
} mq_rows;

/* Bytes that a chunk needs at least for row i alone (mq_record_room); 0 if its offsets fall. */
size_t mq_rows_room(const mq_rows *rows, size_t i);

/* Append rows first .. end to c; return how many went in. *status: MQ_OK if all did, else why row first + result did
 * not: as for mq_chunk_put, and MQ_EINVAL also for offsets that fall. */
size_t mq_chunk_put_rows(mq_chunk *c, const mq_rows *rows, size_t first, size_t end, mq_status *status);

/* Append each row to the chunk of its key's partition: chunks[mq_kafka_partition(key)], or with `consistent` its jump
 * hash. A NULL chunk counts as full. Stops at the first row that does not go in: *partition says where it belongs.
 * Rows with a null key stop with MQ_ENOTFOUND: their place is the caller's choice. */
size_t mq_chunks_put_keyed(mq_chunk *const *chunks, int32_t partitions, bool consistent, const mq_rows *rows,
                           size_t first, size_t end, int32_t *partition, mq_status *status);

/* First sequence of sealed batches back to back; -1 without a producer. */
static inline int32_t mq_batches_sequence(const uint8_t *batches)
{
    return (int32_t)mq_load_be32(batches + 53);
}

/* Number the records of sealed batches (size bytes) from `sequence` on; their CRCs are made anew, unless seal_later. */
void mq_batches_restamp(uint8_t *batches, size_t size, int32_t sequence, bool seal_later);

/* ---- headers and compression ---------------------------------------------------------------------------------------- */

/* Bytes that mq_header_put writes. value_size -1: null. */
static inline size_t mq_header_size(int32_t name_size, int32_t value_size)
{
    return mq_varint_size(name_size) + (size_t)name_size + mq_varint_size(value_size) +
           (value_size > 0 ? (size_t)value_size : 0);
}

/* Write one header (name_size >= 0) at p, where it has room; return the first byte after it. */
uint8_t *mq_header_put(uint8_t *p, const uint8_t *name, int32_t name_size, const uint8_t *value, int32_t value_size);

/* Move the sealed batch `batch` (size bytes, not compressed) down to `at` (at <= batch, they may overlap), with its
 * records replaced by `packed` in codec 1-4; packed NULL, or no smaller than the records: they stay as they are.
 * Makes the CRC. Returns the size of the batch at `at`, never more than size. packed overlaps neither. */
size_t mq_batch_repack(uint8_t *at, const uint8_t *batch, size_t size, const uint8_t *packed, size_t packed_size,
                       unsigned codec);

#endif
