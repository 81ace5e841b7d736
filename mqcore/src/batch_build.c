#include "mqcore/batch_build.h"

#include <assert.h>

#include "mqcore/hash.h"

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
    if (c->base_sequence >= 0) /* sequences go from INT32_MAX to 0 (Kafka's DefaultRecordBatch.incrementSequence) */
        c->base_sequence = (int32_t)(((int64_t)c->base_sequence + c->batch_records) & INT32_MAX);
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

/* The loop of mq_chunk_put_rows for one kind of values: kinds are constants where it is inlined. */
static inline __attribute__((always_inline)) size_t put_rows(mq_chunk *c, const mq_rows *rows, mq_column_kind keys,
                                                             mq_column_kind values, size_t first, size_t end,
                                                             mq_status *status)
{
    mq_record r = {NULL, NULL, NULL, rows->timestamp, -1, -1, 0};
    for (size_t i = first; i < end; i++) {
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
    *status = MQ_OK;
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
