#include "mqcore/batch_build.h"

#include <assert.h>

#include "mqcore/hash.h"

enum { HEAD_ROOM = 24, DELTA_ONE = 64, DELTA_TWO = 8192 /* first offset deltas that take two and three bytes */ };

void mq_chunk_init(mq_chunk *c, uint8_t *bytes, size_t capacity, size_t batch_bytes, size_t batch_max)
{
    memset(c, 0, sizeof *c);
    c->bytes = bytes;
    c->capacity = capacity;
    c->batch_max = batch_max < MQ_BATCH_BYTES_MAX ? batch_max : MQ_BATCH_BYTES_MAX;
    c->batch_bytes = batch_bytes < c->batch_max ? batch_bytes : c->batch_max;
    c->producer_id = -1;
    c->producer_epoch = -1;
    c->base_sequence = -1;
}

/* Sequences go from INT32_MAX to 0 (Kafka's DefaultRecordBatch.incrementSequence). */
static int32_t sequence_after(int32_t sequence, int64_t records)
{
    return (int32_t)((sequence + records) & INT32_MAX);
}

void mq_chunk_seal(mq_chunk *c)
{
    if (c->batch_records == 0)
        return;
    uint8_t *at = c->bytes + c->batch_start;
    const size_t size = c->size - c->batch_start;
    assert(size <= MQ_BATCH_BYTES_MAX);
    mq_store_be64(at, (uint64_t)c->records);
    mq_store_be32(at + 8, (uint32_t)(size - MQ_BATCH_LOG_OVERHEAD));
    mq_store_be32(at + 12, UINT32_MAX); /* leader epoch -1: not known yet */
    at[16] = 2;
    mq_store_be32(at + 17, 0);
    mq_store_be16(at + 21, c->attributes);
    mq_store_be32(at + 23, (uint32_t)(c->batch_records - 1));
    mq_store_be64(at + 27, (uint64_t)c->base_timestamp);
    mq_store_be64(at + 35, (uint64_t)c->max_timestamp);
    mq_store_be64(at + 43, (uint64_t)c->producer_id);
    mq_store_be16(at + 51, (uint16_t)c->producer_epoch);
    mq_store_be32(at + 53, (uint32_t)c->base_sequence);
    mq_store_be32(at + 57, (uint32_t)c->batch_records);
    if (!c->seal_later)
        mq_batch_seal(at, size);
    if (c->base_sequence >= 0)
        c->base_sequence = sequence_after(c->base_sequence, c->batch_records);
    c->records += c->batch_records;
    c->batch_records = 0;
    c->batch_start = c->size;
}

mq_status mq_chunk_put_first(mq_chunk *c, const mq_record *r)
{
    if (r->timestamp < 0 || r->key_size < -1 || r->value_size < -1)
        return MQ_EINVAL;
    mq_chunk_seal(c);
    const size_t body = mq_record_body_size(r, 0, 0);
    const size_t whole = MQ_BATCH_HEADER + mq_varint_size((int64_t)body) + body;
    if (body > MQ_RECORD_BYTES_MAX || whole > c->batch_max)
        return MQ_ETOOBIG;
    if (whole > c->capacity - c->size)
        return MQ_EFULL;
    mq_record_write(c->bytes + c->size + MQ_BATCH_HEADER, r, body, 0, 0);
    c->size += whole;
    c->base_timestamp = c->max_timestamp = r->timestamp;
    c->batch_records = 1;
    return MQ_OK;
}

/* Cell i; false: its offsets fall or its size is no int32. Offsets are read once: another thread of the user's may
 * write to the array meanwhile, and then the bytes may be any, but never more than were measured. */
static inline __attribute__((always_inline)) bool cell(const mq_column *c, mq_column_kind kind, size_t i,
                                                       const uint8_t **bytes, int32_t *size)
{
    int64_t start, end;
    if (c->valid != NULL) {
        const size_t bit = c->valid_start + i;
        if (!(c->valid[bit >> 3] >> (bit & 7) & 1)) {
            *bytes = NULL;
            *size = -1;
            return true;
        }
    }
    switch (kind) {
    case MQ_COLUMN_POINTERS:
        if (i < c->ahead_count) {
            __builtin_prefetch(c->ahead[i], 0, 3);
            __builtin_prefetch((const uint8_t *)c->ahead[i] + 64, 0, 3);
            __builtin_prefetch((const uint8_t *)c->ahead[i] + 128, 0, 3);
        }
        *bytes = c->pointers[i];
        *size = c->sizes[i];
        return true;
    case MQ_COLUMN_OFFSETS32:
        start = c->offsets32[i];
        end = c->offsets32[i + 1];
        break;
    case MQ_COLUMN_OFFSETS64:
        start = c->offsets64[i];
        end = c->offsets64[i + 1];
        break;
    case MQ_COLUMN_ROWS:
        *bytes = c->base + (ptrdiff_t)i * c->stride;
        *size = c->width;
        return true;
    case MQ_COLUMN_RANGES:
        *bytes = c->base + c->offsets64[i];
        *size = c->sizes[i];
        return true;
    case MQ_COLUMN_NULL:
    default:
        *bytes = NULL;
        *size = -1;
        return true;
    }
    if (start < 0 || end < start || end - start > INT32_MAX)
        return false;
    *bytes = c->base + start;
    *size = (int32_t)(end - start);
    return true;
}

/* What stands before the value in a record without key: length, attributes, deltas, key size, value size. Records of one
 * run differ in the offset delta alone as long as their values are of one size. */
typedef struct head {
    uint8_t bytes[HEAD_ROOM];
    size_t size;
    size_t delta_at;    /* of the offset delta */
    size_t whole;       /* bytes of the whole record */
    int32_t value_size; /* -1: null */
    bool two;           /* the offset delta has two bytes, not one */
} head;

static void head_make(head *h, int64_t timestamp_delta, int32_t offset_delta, int32_t value_size)
{
    const mq_record r = {NULL, NULL, NULL, 0, -1, value_size, 0};
    const size_t body = mq_record_body_size(&r, timestamp_delta, offset_delta);
    uint8_t *p = mq_put_varint(h->bytes, (int64_t)body);
    h->whole = (size_t)(p - h->bytes) + body;
    *p++ = 0;
    p = mq_put_varint(p, timestamp_delta);
    h->delta_at = (size_t)(p - h->bytes);
    h->two = offset_delta >= DELTA_ONE;
    p = mq_put_varint(p, offset_delta);
    p = mq_put_varint(mq_put_varint(p, -1), value_size);
    h->size = (size_t)(p - h->bytes);
    h->value_size = value_size;
}

/* memcpy without a call for the sizes of most messages: both ends, which overlap in the middle. */
static inline __attribute__((always_inline)) void copy_value(uint8_t *to, const uint8_t *from, size_t size)
{
    if (size - 64 <= 64) {
        memcpy(to, from, 64);
        memcpy(to + size - 64, from + size - 64, 64);
    } else if (size - 32 <= 32) {
        memcpy(to, from, 32);
        memcpy(to + size - 32, from + size - 32, 32);
    } else if (size > 0) {
        memcpy(to, from, size);
    }
}

/* Append records of one timestamp and without keys to the open batch, for as long as there is room; the first one that
 * needs more (another batch, a third byte for its delta, an error) is mq_chunk_put's. Returns the index after the last
 * that went in. What changes is kept in locals: a store of bytes could otherwise change the chunk, for all that the
 * compiler knows. */
static inline __attribute__((always_inline)) size_t put_run(mq_chunk *c, const mq_rows *rows, mq_column_kind values,
                                                            size_t i, size_t end)
{
    if (c->batch_records == 0 || c->batch_records >= DELTA_TWO || rows->timestamp < 0)
        return i;
    const int64_t delta = rows->timestamp - c->base_timestamp; /* both >= 0: no overflow */
    uint8_t *p = c->bytes + c->size, *const stop = c->bytes + c->capacity;
    uint8_t *const full =
        c->batch_bytes < c->capacity - c->batch_start ? c->bytes + c->batch_start + c->batch_bytes : stop;
    int32_t records = c->batch_records;
    head h;
    head_make(&h, delta, records, -1);
    for (; i < end && records < DELTA_TWO; i++, records++) {
        const uint8_t *value;
        int32_t size;
        if (!cell(&rows->values, values, i, &value, &size) || size < -1)
            break;
        if (size != h.value_size || h.two != (records >= DELTA_ONE))
            head_make(&h, delta, records, size);
        if ((size_t)(stop - p) < HEAD_ROOM || p > full || h.whole > (size_t)(full - p))
            break;
        memcpy(p, h.bytes, HEAD_ROOM);
        if (h.two) {
            p[h.delta_at] = (uint8_t)(2 * records | 0x80);
            p[h.delta_at + 1] = (uint8_t)(records >> 6);
        } else {
            p[h.delta_at] = (uint8_t)(2 * records);
        }
        if (size > 0)
            copy_value(p + h.size, value, (size_t)size);
        p += h.whole;
        p[-1] = 0; /* no headers */
    }
    if (rows->timestamp > c->max_timestamp && records > c->batch_records)
        c->max_timestamp = rows->timestamp;
    c->size = (size_t)(p - c->bytes);
    c->batch_records = records;
    return i;
}

/* The loop of mq_chunk_put_rows for one kind of values: kinds are constants where it is inlined. */
static inline __attribute__((always_inline)) size_t put_rows(mq_chunk *c, const mq_rows *rows, mq_column_kind keys,
                                                             mq_column_kind values, size_t first, size_t end,
                                                             mq_status *status)
{
    mq_record r = {NULL, NULL, NULL, rows->timestamp, -1, -1, 0};
    *status = MQ_OK;
    for (size_t i = first; i < end; i++) {
        if (keys == MQ_COLUMN_NULL && rows->timestamps == NULL && (i = put_run(c, rows, values, i, end)) == end)
            break;
        if (!cell(&rows->values, values, i, &r.value, &r.value_size) ||
            (keys != MQ_COLUMN_NULL && !cell(&rows->keys, keys, i, &r.key, &r.key_size))) {
            *status = MQ_EINVAL;
            return i - first;
        }
        if (rows->timestamps != NULL)
            r.timestamp = rows->timestamps[i];
        if ((*status = mq_chunk_put(c, &r)) != MQ_OK)
            return i - first;
    }
    return end - first;
}

size_t mq_rows_room(const mq_rows *rows, size_t i)
{
    mq_record r = {NULL, NULL, NULL, 0, -1, -1, 0};
    if (!cell(&rows->values, rows->values.kind, i, &r.value, &r.value_size) ||
        !cell(&rows->keys, rows->keys.kind, i, &r.key, &r.key_size))
        return 0;
    return mq_record_room(&r);
}

size_t mq_chunk_put_rows(mq_chunk *c, const mq_rows *rows, size_t first, size_t end, mq_status *status)
{
    if (rows->keys.kind != MQ_COLUMN_NULL)
        return put_rows(c, rows, rows->keys.kind, rows->values.kind, first, end, status);
    switch (rows->values.kind) {
    case MQ_COLUMN_POINTERS: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_POINTERS, first, end, status);
    case MQ_COLUMN_OFFSETS32: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_OFFSETS32, first, end, status);
    case MQ_COLUMN_OFFSETS64: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_OFFSETS64, first, end, status);
    case MQ_COLUMN_ROWS: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_ROWS, first, end, status);
    case MQ_COLUMN_RANGES: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_RANGES, first, end, status);
    case MQ_COLUMN_NULL:
    default: return put_rows(c, rows, MQ_COLUMN_NULL, MQ_COLUMN_NULL, first, end, status);
    }
}

size_t mq_chunks_put_keyed(mq_chunk *const *chunks, int32_t partitions, bool consistent, const mq_rows *rows,
                           size_t first, size_t end, int32_t *partition, mq_status *status)
{
    mq_record r = {NULL, NULL, NULL, rows->timestamp, -1, -1, 0};
    *partition = -1;
    for (size_t i = first; i < end; i++) {
        if (!cell(&rows->values, rows->values.kind, i, &r.value, &r.value_size) ||
            !cell(&rows->keys, rows->keys.kind, i, &r.key, &r.key_size) || r.key_size < -1) {
            *status = MQ_EINVAL;
            return i - first;
        }
        if (r.key_size < 0) {
            *status = MQ_ENOTFOUND;
            return i - first;
        }
        *partition = consistent ? mq_consistent_partition(r.key, (size_t)r.key_size, partitions)
                                : mq_kafka_partition(r.key, (size_t)r.key_size, partitions);
        if (rows->timestamps != NULL)
            r.timestamp = rows->timestamps[i];
        mq_chunk *c = chunks[*partition];
        if ((*status = c == NULL ? MQ_EFULL : mq_chunk_put(c, &r)) != MQ_OK)
            return i - first;
    }
    *status = MQ_OK;
    return end - first;
}

void mq_batches_restamp(uint8_t *batches, size_t size, int32_t sequence, bool seal_later)
{
    for (size_t at = 0; at < size;) {
        uint8_t *batch = batches + at;
        const size_t batch_size = mq_load_be32(batch + 8) + MQ_BATCH_LOG_OVERHEAD;
        mq_store_be32(batch + 53, (uint32_t)sequence);
        if (!seal_later)
            mq_batch_seal(batch, batch_size);
        sequence = sequence_after(sequence, mq_load_be32(batch + 57));
        at += batch_size;
    }
}

uint8_t *mq_header_put(uint8_t *p, const uint8_t *name, int32_t name_size, const uint8_t *value, int32_t value_size)
{
    p = mq_put_varint(p, name_size);
    if (name_size > 0)
        memcpy(p, name, (size_t)name_size);
    p = mq_put_varint(p + name_size, value_size);
    if (value_size <= 0)
        return p;
    memcpy(p, value, (size_t)value_size);
    return p + value_size;
}

size_t mq_batch_repack(uint8_t *at, const uint8_t *batch, size_t size, const uint8_t *packed, size_t packed_size,
                       unsigned codec)
{
    assert(at <= batch && size >= MQ_BATCH_HEADER);
    if (packed == NULL || packed_size >= size - MQ_BATCH_HEADER) {
        memmove(at, batch, size);
    } else {
        memmove(at, batch, MQ_BATCH_HEADER);
        memcpy(at + MQ_BATCH_HEADER, packed, packed_size);
        size = MQ_BATCH_HEADER + packed_size;
        mq_store_be32(at + 8, (uint32_t)(size - MQ_BATCH_LOG_OVERHEAD));
        mq_store_be16(at + 21, (uint16_t)(mq_load_be16(at + 21) | (codec & MQ_ATTR_CODEC)));
    }
    mq_batch_seal(at, size);
    return size;
}
