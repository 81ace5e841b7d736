/* Snapshot of a dedup set. Little-endian:
 *    0 "MQDEDUP1" | 8 bucket_ms u32 | 12 buckets u32 | 16 epoch_ms i64 | 24 ids u64 | 32 tags u32 | 36 zero u32
 *   40 buckets, numbers rising: number u64 | min_offset i64 | max_offset i64 | count u64 | form u32 (0 flat, 2 packed)
 *      | length u32 | payload_length u32 | zero u32
 *      | flat: u32 * length; packed: (key u16, meta u16, at u32 or two u16) * length, u16 * payload_length
 *      tags, rising: tag u64 | length u32 | zero u32 | (id u64, offset i64) * length
 *      crc32c u32 of all bytes before it
 * The decoder trusts nothing: each length is compared with what is left before it is used, and what it builds keeps
 * the invariants of dedup.h and dedup_bucket.h, so a snapshot that is accepted behaves as the set that wrote it. */
#include <string.h>

#include "dedup_internal.h"
#include "mqcore/crc32c.h"

enum { HEADER_BYTES = 40, BUCKET_BYTES = 48, TAG_BYTES = 16, PENDING_BYTES = 16, ENTRY_BYTES = 8 };
static const char MAGIC[8] = {'M', 'Q', 'D', 'E', 'D', 'U', 'P', '1'};

/* ---- writing ---- */

typedef struct writer {
    uint8_t *bytes; /* NULL: only count */
    size_t at;
} writer;

static void put(writer *w, const void *bytes, size_t size)
{
    if (w->bytes != NULL && size > 0)
        memcpy(w->bytes + w->at, bytes, size);
    w->at += size;
}

static void put32(writer *w, uint32_t v)
{
    put(w, &v, sizeof v);
}

static void put64(writer *w, uint64_t v)
{
    put(w, &v, sizeof v);
}

static int by_number(const void *a, const void *b)
{
    const int64_t x = (*(mq_bucket *const *)a)->number, y = (*(mq_bucket *const *)b)->number;
    return (x > y) - (x < y);
}

/* Entries and payload are written in two walks, since they lie in two places. lows, packed: 2^16 uint16s each. */
static void put_packed(writer *w, const mq_bucket *b, uint32_t entries, uint16_t *lows, uint16_t *packed)
{
    writer payload = {w->bytes, w->at + (size_t)entries * ENTRY_BYTES};
    mq_bucket_walk walk = {b, 0};
    uint16_t key;
    uint32_t count, used, at = 0;
    while (mq_bucket_next(&walk, &key, lows, &count)) {
        const uint16_t meta = mq_pack_choose(lows, count, &used);
        uint16_t few[2] = {0, 0};
        put(w, &key, sizeof key);
        put(w, &meta, sizeof meta);
        if (meta >> 14 == PACK_FEW) {
            mq_pack_write(meta, lows, count, few);
            put(w, few, sizeof few);
            continue;
        }
        put32(w, at);
        mq_pack_write(meta, lows, count, packed);
        put(&payload, packed, used * sizeof(uint16_t));
        at += used;
    }
    w->at = payload.at;
}

static void put_bucket(writer *w, const mq_bucket *b, uint16_t *lows, uint16_t *packed)
{
    mq_bucket_walk walk = {b, 0};
    uint16_t key;
    uint32_t count, used, entries = 0, payload = 0;
    while (mq_bucket_next(&walk, &key, lows, &count)) {
        mq_pack_choose(lows, count, &used);
        payload += used;
        entries++;
    }
    const bool flat = b->count * sizeof(uint32_t) <= (size_t)entries * ENTRY_BYTES + payload * sizeof(uint16_t);
    put64(w, (uint64_t)b->number);
    put64(w, (uint64_t)b->min_offset);
    put64(w, (uint64_t)b->max_offset);
    put64(w, b->count);
    put32(w, flat ? FORM_FLAT : FORM_PACKED);
    put32(w, flat ? (uint32_t)b->count : entries);
    put32(w, flat ? 0 : payload);
    put32(w, 0);
    if (!flat) {
        put_packed(w, b, entries, lows, packed);
        return;
    }
    walk = (mq_bucket_walk){b, 0};
    while (mq_bucket_next(&walk, &key, lows, &count))
        for (uint32_t i = 0; i < count; i++)
            put32(w, (uint32_t)key << 16 | lows[i]);
}

static void put_all(writer *w, const mq_dedup *d, mq_bucket *const *buckets, uint16_t *lows)
{
    put(w, MAGIC, sizeof MAGIC);
    put32(w, d->config.bucket_ms);
    put32(w, d->count);
    put64(w, (uint64_t)d->config.epoch_ms);
    put64(w, d->ids);
    put32(w, d->pending.length);
    put32(w, 0);
    for (uint32_t i = 0; i < d->count; i++)
        put_bucket(w, buckets[i], lows, lows + 65536);
    for (uint32_t i = 0; i < d->pending.length; i++) {
        const mq_pending_tag *t = &d->pending.tags[i];
        put64(w, t->tag);
        put32(w, t->length);
        put32(w, 0);
        for (uint32_t j = 0; j < t->length; j++) {
            put64(w, t->ids[j].low);
            put64(w, (uint64_t)t->ids[j].offset);
        }
    }
}

mq_status mq_dedup_serialize(const mq_dedup *d, uint8_t **bytes, size_t *size, mq_error *err)
{
    writer w = {NULL, 0};
    mq_bucket **buckets = mq_alloc((d->count > 0 ? d->count : 1) * sizeof *buckets);
    uint16_t *lows = mq_alloc(2 * 65536 * sizeof *lows);
    if (buckets != NULL && lows != NULL) {
        uint32_t n = 0;
        for (size_t i = 0; i < (size_t)1 << d->bits; i++)
            if (d->table[i] != NULL)
                buckets[n++] = d->table[i];
        qsort(buckets, n, sizeof *buckets, by_number);
        put_all(&w, d, buckets, lows);
        w.bytes = mq_alloc(w.at + sizeof(uint32_t));
        w.at = 0;
        if (w.bytes != NULL) {
            put_all(&w, d, buckets, lows);
            put32(&w, mq_crc32c(0, w.bytes, w.at));
        }
    }
    mq_free(buckets);
    mq_free(lows);
    if (w.bytes == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for a dedup snapshot");
    *bytes = w.bytes;
    *size = w.at;
    return MQ_OK;
}

/* ---- reading ---- */

typedef struct reader {
    const uint8_t *at, *end;
    bool failed; /* a read past the end yields 0 and sets this */
} reader;

static bool get(reader *r, void *to, size_t size)
{
    if (size > (size_t)(r->end - r->at)) {
        r->failed = true;
        memset(to, 0, size);
        return false;
    }
    memcpy(to, r->at, size);
    r->at += size;
    return true;
}

static uint32_t get32(reader *r)
{
    uint32_t v;
    get(r, &v, sizeof v);
    return v;
}

static uint64_t get64(reader *r)
{
    uint64_t v;
    get(r, &v, sizeof v);
    return v;
}

/* Entries in order, each over the payload where the last ended; the ids must add up. */
static bool check_packed(const mq_bucket *b, uint32_t keys, uint16_t *lows)
{
    uint64_t ids = 0, at = 0;
    for (uint32_t i = 0; i < b->length; i++) {
        const mq_entry *e = &b->u.entries[i];
        const uint32_t kind = e->meta >> 14, n = e->meta & 0x3fffu;
        static const uint32_t most[] = {2, ARRAY_MAX, BITS_WORDS / 2, 0};
        if (e->key >= keys || (i > 0 && e->key <= e[-1].key) || n > most[kind] || (n == 0 && kind != PACK_BITS))
            return false;
        const uint32_t words = kind == PACK_FEW ? 0 : kind == PACK_ARRAY ? n : kind == PACK_RUNS ? 2 * n : BITS_WORDS;
        if (kind != PACK_FEW && (e->u.at != at || words > b->payload_length - at))
            return false;
        const uint32_t count = mq_pack_read(e->meta, kind == PACK_FEW ? e->u.few : b->payload + at, lows);
        if (count == 0)
            return false;
        at += words;
        ids += count;
    }
    return ids == b->count && at == b->payload_length;
}

static bool check_flat(const mq_bucket *b, uint64_t end)
{
    for (uint32_t i = 0; i < b->length; i++)
        if (b->u.flat[i] >= end || (i > 0 && b->u.flat[i] <= b->u.flat[i - 1]))
            return false;
    return b->length == b->count && b->payload_length == 0;
}

static mq_status read_bucket(mq_dedup *d, reader *r, int64_t *last_number)
{
    mq_bucket head = {.number = (int64_t)get64(r)};
    head.min_offset = (int64_t)get64(r);
    head.max_offset = (int64_t)get64(r);
    head.count = get64(r);
    const uint32_t form = get32(r), length = get32(r), payload_length = get32(r), zero = get32(r);
    const bool offsets_fit =
        head.min_offset >= 0 ? head.min_offset <= head.max_offset : head.min_offset == -1 && head.max_offset == -1;
    if (r->failed || head.number <= *last_number || (uint64_t)head.number >> (64 - d->shift) != 0 || !offsets_fit ||
        head.count == 0 || length == 0 || (form != FORM_FLAT && form != FORM_PACKED) || zero != 0)
        return MQ_ECORRUPT;
    *last_number = head.number;
    const size_t unit = form == FORM_FLAT ? sizeof(uint32_t) : sizeof(mq_entry);
    const size_t left = (size_t)(r->end - r->at);
    if (length > left / unit || payload_length > (left - length * unit) / sizeof(uint16_t))
        return MQ_ETRUNCATED;
    mq_status status;
    mq_bucket *b = mq_dedup_add_bucket(d, head.number, &status);
    if (b == NULL)
        return status;
    b->open = false;
    b->form = (uint8_t)form;
    b->min_offset = head.min_offset;
    b->max_offset = head.max_offset;
    status = mq_budget_resize(&d->budget, &b->u.block, 0, length * unit);
    if (status != MQ_OK)
        return status;
    b->room = length;
    if (payload_length > 0) {
        void *block = NULL;
        status = mq_budget_resize(&d->budget, &block, 0, payload_length * sizeof(uint16_t));
        if (status != MQ_OK)
            return status;
        b->payload = block;
        b->payload_length = payload_length;
        memcpy(b->payload, r->at + length * unit, payload_length * sizeof(uint16_t));
    }
    memcpy(b->u.block, r->at, length * unit);
    r->at += length * unit + payload_length * sizeof(uint16_t);
    b->length = length;
    b->count = head.count;
    d->ids += b->count;
    const bool good =
        form == FORM_FLAT ? check_flat(b, 1ull << d->shift) : check_packed(b, 1u << (d->shift - 16), d->scratch);
    return good ? MQ_OK : MQ_ECORRUPT;
}

static mq_status read_tag(mq_dedup *d, reader *r, bool first, uint64_t *last_tag)
{
    const uint64_t tag = get64(r);
    const uint32_t length = get32(r), zero = get32(r);
    if (r->failed || length == 0 || zero != 0 || (!first && tag <= *last_tag))
        return MQ_ECORRUPT;
    *last_tag = tag;
    if (length > (size_t)(r->end - r->at) / PENDING_BYTES)
        return MQ_ETRUNCATED;
    for (uint32_t i = 0; i < length; i++) {
        const uint64_t id = get64(r);
        const int64_t offset = (int64_t)get64(r);
        if (offset < -1 || mq_dedup_find(d, id, NULL, NULL) != MQ_SEEN_NEW)
            return MQ_ECORRUPT;
        const mq_status status = mq_pending_add(&d->pending, tag, 0, id, offset, &d->budget);
        if (status != MQ_OK)
            return status;
    }
    return MQ_OK;
}

static const char *describe(mq_status status)
{
    switch (status) {
    case MQ_EFULL: return "the dedup snapshot does not fit the memory cap";
    case MQ_ENOMEM: return "no memory for the dedup snapshot";
    case MQ_ETRUNCATED: return "the dedup snapshot ends early";
    default: return "the dedup snapshot breaks its format";
    }
}

mq_dedup *mq_dedup_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, mq_error *err)
{
    if (size >= sizeof MAGIC && memcmp(bytes, MAGIC, sizeof MAGIC - 1) == 0 && bytes[7] != MAGIC[7]) {
        mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "a dedup snapshot of another version");
        return NULL;
    }
    if (size < HEADER_BYTES + sizeof(uint32_t) || memcmp(bytes, MAGIC, sizeof MAGIC) != 0) {
        mq_fail(err, size < HEADER_BYTES ? MQ_ETRUNCATED : MQ_ECORRUPT, NULL, 0, "not a dedup snapshot");
        return NULL;
    }
    reader r = {bytes + sizeof MAGIC, bytes + size - sizeof(uint32_t), false};
    uint32_t crc;
    memcpy(&crc, r.end, sizeof crc);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (mq_crc32c(0, bytes, size - sizeof crc) != crc) {
        mq_fail(err, MQ_ECRC, NULL, size - sizeof crc, "checksum (CRC32C) of a dedup snapshot does not match");
        return NULL;
    }
#endif
    mq_dedup_config config = {.bucket_ms = get32(&r), .max_bytes = max_bytes};
    const uint32_t buckets = get32(&r);
    config.epoch_ms = (int64_t)get64(&r);
    const uint64_t ids = get64(&r);
    const uint32_t tags = get32(&r), zero = get32(&r);
    mq_dedup *d = mq_dedup_new(&config, err);
    if (d == NULL) {
        if (err != NULL && err->status == MQ_EINVAL && max_bytes >= 64 << 10) /* not the caller's fault */
            mq_fail(err, MQ_ECORRUPT, NULL, 8, describe(MQ_ECORRUPT));
        return NULL;
    }
    mq_status status = zero == 0 ? MQ_OK : MQ_ECORRUPT;
    int64_t number = -1;
    uint64_t tag = 0;
    for (uint32_t i = 0; status == MQ_OK && i < buckets; i++)
        status = read_bucket(d, &r, &number);
    for (uint32_t i = 0; status == MQ_OK && i < tags; i++)
        status = read_tag(d, &r, i == 0, &tag);
    if (status == MQ_OK && (r.at != r.end || d->ids != ids))
        status = MQ_ECORRUPT;
    if (status == MQ_OK)
        return d;
    mq_dedup_free(d);
    mq_fail(err, status, NULL, (uint64_t)(r.at - bytes), describe(status));
    return NULL;
}
