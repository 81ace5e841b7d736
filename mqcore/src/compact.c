#include "mqcore/compact.h"

#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/limits.h"
#include "mqcore/record.h"

enum { RECORD_GROWTH_MAX = 14 }; /* a new timestamp delta: 9 bytes more, and 5 for the length before it */

static mq_status bad_record(mq_error *err, const uint8_t *batch, const uint8_t *at)
{
    return mq_fail(err, MQ_ECORRUPT, NULL, (uint64_t)(at - batch), "a record breaks its format");
}

/* What the runs leave to the caller. */
static bool is_special(const mq_batch *b)
{
    return (b->attributes & (MQ_ATTR_CODEC | MQ_ATTR_TRANSACTIONAL | MQ_ATTR_CONTROL)) != 0;
}

/* ---- index ---- */

static mq_status index_records(mq_keymap *m, const uint8_t *bytes, const mq_batch *b, int64_t start_offset,
                               mq_error *err)
{
    const uint8_t *at = bytes + MQ_BATCH_HEADER, *const end = bytes + b->size;
    for (int32_t i = 0; i < b->record_count; i++) {
        mq_record r;
        if (!mq_record_parse(at, end, &r) || r.offset_delta > b->last_offset_delta)
            return bad_record(err, bytes, at);
        const int64_t offset = b->base_offset + r.offset_delta;
        if (r.key_length >= 0 && offset >= start_offset) {
            const mq_status status = mq_keymap_put(m, r.key, (size_t)r.key_length, offset, err);
            if (status != MQ_OK)
                return status;
        }
        at = r.end;
    }
    return at == end ? MQ_OK : bad_record(err, bytes, at);
}

static mq_status uncompressed(const uint8_t *batch, size_t size, bool check_crc, mq_batch *b, mq_error *err)
{
    const mq_status status = check_crc ? mq_batch_check(batch, size, MQ_BATCH_BYTES_MAX, b, err)
                                       : mq_batch_parse(batch, size, MQ_BATCH_BYTES_MAX, b, err);
    if (status != MQ_OK)
        return status;
    if (b->attributes & MQ_ATTR_CODEC)
        return mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "records are compressed: inflate before compacting");
    return b->size == size ? MQ_OK : mq_fail(err, MQ_ECORRUPT, NULL, b->size, "bytes follow the batch");
}

mq_status mq_compact_index_batch(mq_keymap *m, const uint8_t *batch, size_t size, int64_t start_offset, mq_error *err)
{
    mq_batch b;
    const mq_status status = uncompressed(batch, size, false, &b, err);
    return status != MQ_OK ? status : index_records(m, batch, &b, start_offset, err);
}

mq_status mq_compact_index_run(mq_keymap *m, const uint8_t *bytes, size_t size, size_t *position, int64_t start_offset,
                               int64_t *next_offset, mq_error *err)
{
    while (*position < size) {
        mq_batch b;
        mq_status status = mq_batch_check(bytes + *position, size - *position, MQ_BATCH_BYTES_MAX, &b, err);
        if (status == MQ_OK) {
            if (is_special(&b))
                return MQ_OK;
            status = index_records(m, bytes + *position, &b, start_offset, err);
        }
        if (status != MQ_OK) {
            if (err != NULL)
                err->position += *position;
            return status;
        }
        *position += b.size;
        *next_offset = mq_batch_last_offset(&b) + (mq_batch_last_offset(&b) < INT64_MAX);
    }
    return MQ_OK;
}

/* ---- filter ---- */

static mq_status out_reserve(mq_compact_out *out, size_t more, mq_error *err)
{
    if (more <= out->room - out->size)
        return MQ_OK;
    size_t room = out->room < 4096 ? 4096 : out->room * 2;
    if (room < out->size + more)
        room = out->size + more;
    uint8_t *bytes = mq_realloc(out->bytes, room);
    if (bytes == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for compacted batches");
    out->bytes = bytes;
    out->room = room;
    return MQ_OK;
}

void mq_compact_out_free(mq_compact_out *out)
{
    mq_free(out->bytes);
    *out = (mq_compact_out){0};
}

bool mq_compact_stays(const mq_compact_rules *rules, int64_t last_offset)
{
    if (last_offset == rules->round_end - 1)
        return true;
    size_t low = 0, n = rules->last_count;
    while (n > 0) {
        const size_t half = n / 2;
        if (rules->last_offsets[low + half] < last_offset) {
            low += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    return low < rules->last_count && rules->last_offsets[low] == last_offset;
}

typedef struct kept {
    int32_t records;
    bool tombstones;
    int64_t max_timestamp; /* of the records, by their deltas */
    uint8_t *end;          /* of what was written */
} kept;

static bool keep_record(const mq_compact_rules *rules, const mq_batch *b, const mq_record *r, unsigned flags)
{
    if (flags & (MQ_COMPACT_DISCARD | MQ_COMPACT_KEEP))
        return (flags & MQ_COMPACT_KEEP) != 0;
    const int64_t offset = b->base_offset + r->offset_delta;
    if (offset >= rules->end_offset)
        return true;
    if (r->key_length < 0)
        return false;
    if (r->value_length < 0 && (b->attributes & MQ_ATTR_DELETE_HORIZON) && rules->now_ms >= b->base_timestamp)
        return false;
    return offset >= mq_keymap_get(rules->map, r->key, (size_t)r->key_length);
}

/* Copy the records that stay to `to`, which has room for all of them; neighbours go in one copy. */
static mq_status filter_records(const mq_compact_rules *rules, const uint8_t *bytes, const mq_batch *b, unsigned flags,
                                uint8_t *to, kept *k, mq_error *err)
{
    const uint8_t *at = bytes + MQ_BATCH_HEADER, *const end = bytes + b->size, *from = at;
    *k = (kept){.max_timestamp = -1, .end = to};
    for (int32_t i = 0; i < b->record_count; i++) {
        mq_record r;
        if (!mq_record_parse(at, end, &r) || r.offset_delta > b->last_offset_delta)
            return bad_record(err, bytes, at);
        if (keep_record(rules, b, &r, flags)) {
            const int64_t timestamp = (int64_t)((uint64_t)b->base_timestamp + (uint64_t)r.timestamp_delta);
            k->records++;
            k->tombstones |= r.value_length < 0;
            if (timestamp > k->max_timestamp)
                k->max_timestamp = timestamp;
        } else {
            if (at > from) {
                memcpy(k->end, from, (size_t)(at - from));
                k->end += at - from;
            }
            from = r.end;
        }
        at = r.end;
    }
    if (at != end)
        return bad_record(err, bytes, at);
    if (at > from) {
        memcpy(k->end, from, (size_t)(at - from));
        k->end += at - from;
    }
    return MQ_OK;
}

/* Write the records in [from, end), which parsed before, to `to` with timestamps against another base. */
static uint8_t *rebase_records(const uint8_t *from, const uint8_t *end, int64_t old_base, int64_t new_base, uint8_t *to)
{
    while (from < end) {
        mq_record r;
        if (!mq_record_parse(from, end, &r))
            return NULL;
        mq_wire w = mq_wire_of(from, (size_t)(r.end - from));
        mq_wire_varint(&w);
        const uint8_t attributes = mq_wire_u8(&w);
        mq_wire_varlong(&w);
        const uint8_t *rest = w.at; /* offset delta, key, value, headers: as they are */
        /* Unsigned: far timestamps may wrap, and a reader's addition wraps back. */
        const int64_t delta = (int64_t)((uint64_t)old_base + (uint64_t)r.timestamp_delta - (uint64_t)new_base);
        const size_t body = 1 + mq_varint_size(delta) + (size_t)(r.end - rest);
        to = mq_put_varint(to, (int64_t)body);
        *to++ = attributes;
        to = mq_put_varint(to, delta);
        memcpy(to, rest, (size_t)(r.end - rest));
        to += r.end - rest;
        from = r.end;
    }
    return to;
}

/* The header of what is left, over a copy of the old one. */
static void write_header(uint8_t *to, const uint8_t *old, size_t size, const mq_batch *b, int32_t records,
                         uint16_t attributes, int64_t base_timestamp, int64_t max_timestamp)
{
    memmove(to, old, MQ_BATCH_HEADER);
    mq_store_be32(to + 8, (uint32_t)(size - MQ_BATCH_LOG_OVERHEAD));
    mq_store_be16(to + 21, attributes);
    mq_store_be64(to + 27, (uint64_t)base_timestamp);
    mq_store_be64(to + 35, (uint64_t)(b->attributes & MQ_ATTR_LOG_APPEND_TIME ? b->max_timestamp : max_timestamp));
    mq_store_be32(to + 57, (uint32_t)records);
    mq_batch_seal(to, size);
}

static mq_status filter(const mq_compact_rules *rules, const uint8_t *bytes, const mq_batch *b, unsigned flags,
                        mq_compact_out *out, mq_compact_stats *stats, mq_compact_outcome *outcome, mq_error *err)
{
    kept k;
    mq_status status = out_reserve(out, b->size, err);
    uint8_t *to = status == MQ_OK ? out->bytes + out->size : NULL;
    if (status == MQ_OK)
        status = filter_records(rules, bytes, b, flags, to + MQ_BATCH_HEADER, &k, err);
    if (status != MQ_OK)
        return status;
    const bool has_horizon = (b->attributes & MQ_ATTR_DELETE_HORIZON) != 0;
    const bool set_horizon = k.records > 0 && !has_horizon && (k.tombstones || (flags & MQ_COMPACT_HORIZON));
    size_t size = (size_t)(k.end - to);
    *outcome = MQ_COMPACT_REWRITTEN;
    if (k.records == 0 && !(flags & MQ_COMPACT_MAY_EMPTY)) {
        *outcome = MQ_COMPACT_DROPPED;
        size = 0;
    } else if (k.records == 0) {
        *outcome = MQ_COMPACT_EMPTIED;
        const uint16_t attributes = b->attributes & (MQ_ATTR_LOG_APPEND_TIME | MQ_ATTR_TRANSACTIONAL | MQ_ATTR_CONTROL);
        write_header(to, bytes, MQ_BATCH_HEADER, b, 0, attributes, -1, b->max_timestamp);
        size = MQ_BATCH_HEADER;
    } else if (set_horizon) {
        /* The records are written anew behind those just filtered, and moved down over them. */
        const int64_t horizon = rules->delete_retention_ms > INT64_MAX - rules->now_ms
                                    ? INT64_MAX
                                    : rules->now_ms + rules->delete_retention_ms;
        status = out_reserve(out, 2 * size + (size_t)k.records * RECORD_GROWTH_MAX, err);
        if (status != MQ_OK)
            return status;
        to = out->bytes + out->size;
        uint8_t *again = to + size;
        const uint8_t *end = rebase_records(to + MQ_BATCH_HEADER, again, b->base_timestamp, horizon, again);
        if (end == NULL)
            return bad_record(err, bytes, bytes + MQ_BATCH_HEADER);
        memmove(to + MQ_BATCH_HEADER, again, (size_t)(end - again));
        size = MQ_BATCH_HEADER + (size_t)(end - again);
        write_header(to, bytes, size, b, k.records, b->attributes | MQ_ATTR_DELETE_HORIZON, horizon, k.max_timestamp);
    } else if (k.records == b->record_count) {
        *outcome = MQ_COMPACT_COPIED;
        memcpy(to, bytes, MQ_BATCH_HEADER);
    } else {
        write_header(to, bytes, size, b, k.records, b->attributes, b->base_timestamp, k.max_timestamp);
    }
    out->size += size;
    stats->batches_read++;
    stats->batches_written += *outcome != MQ_COMPACT_DROPPED;
    stats->records_read += (uint32_t)b->record_count;
    stats->records_written += (uint32_t)k.records;
    return MQ_OK;
}

mq_status mq_compact_batch(const mq_compact_rules *rules, const uint8_t *batch, size_t size, unsigned flags,
                           mq_compact_out *out, mq_compact_stats *stats, mq_compact_outcome *outcome, mq_error *err)
{
    mq_batch b;
    const mq_status status = uncompressed(batch, size, false, &b, err);
    if (status != MQ_OK)
        return status;
    return filter(rules, batch, &b, flags, out, stats, outcome, err);
}

mq_status mq_compact_run(const mq_compact_rules *rules, const uint8_t *bytes, size_t size, size_t *position,
                         size_t out_limit, mq_compact_out *out, mq_compact_stats *stats, mq_error *err)
{
    while (*position < size && out->size < out_limit) {
        mq_batch b;
        mq_compact_outcome outcome;
        mq_status status = mq_batch_check(bytes + *position, size - *position, MQ_BATCH_BYTES_MAX, &b, err);
        if (status == MQ_OK) {
            if (is_special(&b))
                return MQ_OK;
            const bool stays = mq_compact_stays(rules, mq_batch_last_offset(&b));
            status = filter(rules, bytes + *position, &b, stays ? MQ_COMPACT_MAY_EMPTY : 0, out, stats, &outcome, err);
        }
        if (status != MQ_OK) {
            if (err != NULL)
                err->position += *position;
            return status;
        }
        *position += b.size;
    }
    return MQ_OK;
}

mq_status mq_compact_control_type(const uint8_t *batch, size_t size, int32_t *type, mq_error *err)
{
    mq_batch b;
    const mq_status status = uncompressed(batch, size, false, &b, err);
    if (status != MQ_OK)
        return status;
    *type = -1;
    if (b.record_count == 0)
        return MQ_OK;
    mq_record r;
    if (!mq_record_parse(batch + MQ_BATCH_HEADER, batch + b.size, &r) || r.key_length < 4)
        return bad_record(err, batch, batch + MQ_BATCH_HEADER);
    *type = (int16_t)mq_load_be16(r.key + 2); /* key: version int16, type int16 */
    return MQ_OK;
}
