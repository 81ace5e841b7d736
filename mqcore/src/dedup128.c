#include "mqcore/dedup128.h"

#include <string.h>

#include "dedup_pending.h"
#include "mqcore/crc32c.h"
#include "mqcore/hash.h"

enum { TABLE_BITS_START = 6, MAX_BYTES_LEAST = 64 << 10, HEADER_BYTES = 32, ENTRY_BYTES = 32 };
static const char MAGIC[8] = {'M', 'Q', 'D', 'E', '1', '2', '8', '1'};
#define FREE_PLACE INT64_MIN

typedef struct entry {
    uint64_t high, low; /* the id's bytes, as loaded */
    int64_t offset;
    int64_t time_ms; /* FREE_PLACE: never used */
} entry;

struct mq_dedup128 {
    entry *table;
    uint32_t bits;
    uint64_t taken; /* places that are not free: live and expired */
    uint64_t ids;   /* live at the last expire, plus those set since */
    int64_t horizon_ms;
    uint64_t seed;
    mq_budget budget;
    mq_pending pending;
};

static mq_status fail(mq_status status, mq_error *err)
{
    return mq_fail(err, status, NULL, 0,
                   status == MQ_EFULL ? "the dedup window reached its memory cap" : "no memory for the dedup window");
}

static void split(const uint8_t id[16], uint64_t *high, uint64_t *low)
{
    memcpy(high, id, 8);
    memcpy(low, id + 8, 8);
}

static uint64_t hash(const mq_dedup128 *d, uint64_t high, uint64_t low)
{
    return mq_mix64(low ^ d->seed) ^ mq_mix64(high + d->seed);
}

/* The place of an id, or where it would go: the first expired place of its chain, else the free one that ends it. */
static entry *place(const mq_dedup128 *d, entry *table, uint32_t bits, uint64_t high, uint64_t low)
{
    const size_t mask = ((size_t)1 << bits) - 1;
    entry *reuse = NULL;
    for (size_t at = (size_t)(mq_mix64(hash(d, high, low)) >> (64 - bits));; at = (at + 1) & mask) {
        entry *e = &table[at];
        if (e->time_ms == FREE_PLACE)
            return reuse != NULL ? reuse : e;
        if (e->low == low && e->high == high)
            return e;
        if (reuse == NULL && e->time_ms < d->horizon_ms)
            reuse = e;
    }
}

static bool live(const mq_dedup128 *d, const entry *e)
{
    return e->time_ms != FREE_PLACE && e->time_ms >= d->horizon_ms;
}

static mq_status rebuild(mq_dedup128 *d, uint32_t bits)
{
    void *block = NULL;
    const mq_status status = mq_budget_resize(&d->budget, &block, 0, sizeof(entry) << bits);
    if (status != MQ_OK)
        return status;
    entry *table = block;
    for (size_t i = 0; i < (size_t)1 << bits; i++)
        table[i].time_ms = FREE_PLACE;
    uint64_t taken = 0;
    for (size_t i = 0; d->table != NULL && i < (size_t)1 << d->bits; i++)
        if (live(d, &d->table[i])) {
            *place(d, table, bits, d->table[i].high, d->table[i].low) = d->table[i];
            taken++;
        }
    block = d->table;
    mq_budget_resize(&d->budget, &block, d->table != NULL ? sizeof(entry) << d->bits : 0, 0);
    d->table = table;
    d->bits = bits;
    d->taken = d->ids = taken;
    return MQ_OK;
}

static mq_status reserve(mq_dedup128 *d)
{
    const uint64_t size = 1ull << d->bits;
    if ((d->taken + 1) * 4 <= size * 3)
        return MQ_OK;
    /* Many of the places may hold expired ids: then the same size will do. */
    return rebuild(d, d->ids * 2 < size ? d->bits : d->bits + 1);
}

mq_dedup128 *mq_dedup128_new(size_t max_bytes, uint64_t seed, mq_error *err)
{
    if (max_bytes < MAX_BYTES_LEAST) {
        mq_fail(err, MQ_EINVAL, NULL, 0, "max_bytes must be at least 65536");
        return NULL;
    }
    mq_dedup128 *d = mq_alloc_zeroed(sizeof *d);
    if (d != NULL) {
        d->budget.max = max_bytes;
        d->seed = seed;
        if (rebuild(d, TABLE_BITS_START) == MQ_OK)
            return d;
    }
    mq_free(d);
    fail(MQ_ENOMEM, err);
    return NULL;
}

void mq_dedup128_free(mq_dedup128 *d)
{
    if (d == NULL)
        return;
    mq_pending_clear(&d->pending, &d->budget);
    mq_free(d->table);
    mq_free(d);
}

size_t mq_dedup128_bytes_used(const mq_dedup128 *d)
{
    return d->budget.used;
}

uint64_t mq_dedup128_ids(const mq_dedup128 *d)
{
    return d->ids;
}

uint64_t mq_dedup128_pending(const mq_dedup128 *d)
{
    return d->pending.count;
}

static mq_status set(mq_dedup128 *d, uint64_t high, uint64_t low, int64_t now_ms, int64_t offset, bool *seen)
{
    const mq_status status = reserve(d);
    if (status != MQ_OK) {
        const entry *e = place(d, d->table, d->bits, high, low); /* a full table still knows what it holds */
        *seen = live(d, e) && e->low == low && e->high == high;
        return *seen ? MQ_OK : status;
    }
    entry *e = place(d, d->table, d->bits, high, low);
    *seen = live(d, e) && e->low == low && e->high == high;
    if (*seen)
        return MQ_OK;
    d->taken += e->time_ms == FREE_PLACE;
    d->ids++;
    *e = (entry){high, low, offset, now_ms > d->horizon_ms ? now_ms : d->horizon_ms};
    return MQ_OK;
}

mq_status mq_dedup128_test_and_set_many(mq_dedup128 *d, const uint8_t *ids, size_t count, int64_t now_ms,
                                        int64_t base_offset, uint8_t *seen, size_t *done, size_t *duplicates,
                                        mq_error *err)
{
    size_t i = 0, old = 0;
    mq_status status = MQ_OK;
    for (; i < count; i++) {
        uint64_t high, low;
        bool was = false;
        split(ids + 16 * i, &high, &low);
        if (d->pending.count != 0 && mq_pending_find(&d->pending, high, low) >= -1) {
            seen[i] = MQ_SEEN_PENDING;
            old++;
            continue;
        }
        status = set(d, high, low, now_ms, base_offset >= 0 ? base_offset + (int64_t)i : -1, &was);
        if (status != MQ_OK)
            break;
        seen[i] = was;
        old += was;
    }
    *done = i;
    *duplicates = old;
    return status == MQ_OK ? MQ_OK : fail(status, err);
}

mq_seen mq_dedup128_find(const mq_dedup128 *d, const uint8_t id[16], int64_t *offset)
{
    uint64_t high, low;
    split(id, &high, &low);
    int64_t found = mq_pending_find(&d->pending, high, low);
    mq_seen seen = MQ_SEEN_PENDING;
    if (found < -1) {
        const entry *e = place(d, d->table, d->bits, high, low);
        const bool hit = live(d, e) && e->low == low && e->high == high;
        found = hit ? e->offset : -1;
        seen = hit ? MQ_SEEN_DUPLICATE : MQ_SEEN_NEW;
    }
    if (offset != NULL)
        *offset = found;
    return seen;
}

mq_status mq_dedup128_add_pending(mq_dedup128 *d, uint64_t tag, const uint8_t id[16], int64_t offset, mq_seen *seen,
                                  mq_error *err)
{
    uint64_t high, low;
    split(id, &high, &low);
    *seen = mq_dedup128_find(d, id, NULL);
    if (*seen != MQ_SEEN_NEW)
        return MQ_OK;
    const mq_status status = mq_pending_add(&d->pending, tag, high, low, offset < 0 ? -1 : offset, &d->budget);
    return status == MQ_OK ? MQ_OK : fail(status, err);
}

mq_status mq_dedup128_confirm(mq_dedup128 *d, uint64_t tag, int64_t now_ms, size_t *confirmed, mq_error *err)
{
    *confirmed = 0;
    const mq_pending_tag *t = mq_pending_get(&d->pending, tag);
    for (uint32_t i = 0; t != NULL && i < t->length; i++) {
        bool was;
        const mq_status status = set(d, t->ids[i].high, t->ids[i].low, now_ms, t->ids[i].offset, &was);
        if (status != MQ_OK)
            return fail(status, err);
    }
    *confirmed = mq_pending_drop(&d->pending, tag, &d->budget);
    return MQ_OK;
}

size_t mq_dedup128_abort(mq_dedup128 *d, uint64_t tag)
{
    return mq_pending_drop(&d->pending, tag, &d->budget);
}

uint64_t mq_dedup128_expire(mq_dedup128 *d, int64_t before_ms)
{
    if (before_ms <= d->horizon_ms)
        return 0;
    d->horizon_ms = before_ms;
    uint64_t left = 0;
    for (size_t i = 0; i < (size_t)1 << d->bits; i++)
        left += live(d, &d->table[i]);
    const uint64_t dropped = d->ids - left;
    d->ids = left;
    uint32_t bits = d->bits;
    while (bits > TABLE_BITS_START && left * 4 < 1ull << bits)
        bits--;
    if (bits < d->bits)
        rebuild(d, bits); /* to fail is to stay large */
    return dropped;
}

/* ---- snapshot ---- */

static uint8_t *put(uint8_t *to, const void *bytes, size_t size)
{
    memcpy(to, bytes, size);
    return to + size;
}

mq_status mq_dedup128_serialize(const mq_dedup128 *d, uint8_t **bytes, size_t *size, mq_error *err)
{
    const size_t whole = HEADER_BYTES + (size_t)d->ids * ENTRY_BYTES + d->pending.length * (size_t)16 +
                         (size_t)d->pending.count * sizeof(mq_pending_id) + 4;
    uint8_t *made = mq_alloc(whole), *at = made;
    if (made == NULL)
        return fail(MQ_ENOMEM, err);
    const uint32_t counts[2] = {d->pending.length, 0};
    at = put(at, MAGIC, sizeof MAGIC);
    at = put(at, &d->horizon_ms, 8);
    at = put(at, &d->ids, 8);
    at = put(at, counts, 8);
    for (size_t i = 0; i < (size_t)1 << d->bits; i++)
        if (live(d, &d->table[i]))
            at = put(at, &d->table[i], sizeof(entry));
    for (uint32_t i = 0; i < d->pending.length; i++) {
        const mq_pending_tag *t = &d->pending.tags[i];
        const uint32_t lengths[2] = {t->length, 0};
        at = put(at, &t->tag, 8);
        at = put(at, lengths, 8);
        at = put(at, t->ids, t->length * sizeof(mq_pending_id));
    }
    const uint32_t crc = mq_crc32c(0, made, whole - 4);
    put(at, &crc, 4);
    *bytes = made;
    *size = whole;
    return MQ_OK;
}

static mq_status read_entries(mq_dedup128 *d, const uint8_t *at, uint64_t count)
{
    for (; count > 0; count--, at += ENTRY_BYTES) {
        entry e;
        bool was;
        memcpy(&e, at, sizeof e);
        if (e.time_ms < d->horizon_ms || e.offset < -1)
            return MQ_ECORRUPT;
        const mq_status status = set(d, e.high, e.low, e.time_ms, e.offset, &was);
        if (status != MQ_OK || was)
            return status != MQ_OK ? status : MQ_ECORRUPT;
    }
    return MQ_OK;
}

static mq_status read_tags(mq_dedup128 *d, const uint8_t **at, const uint8_t *end, uint32_t tags)
{
    uint64_t last = 0;
    for (uint32_t i = 0; i < tags; i++) {
        uint64_t tag;
        uint32_t lengths[2];
        if (end - *at < 16)
            return MQ_ETRUNCATED;
        memcpy(&tag, *at, 8);
        memcpy(lengths, *at + 8, 8);
        *at += 16;
        if (lengths[0] == 0 || lengths[1] != 0 || (i > 0 && tag <= last))
            return MQ_ECORRUPT;
        if (lengths[0] > (size_t)(end - *at) / sizeof(mq_pending_id))
            return MQ_ETRUNCATED;
        last = tag;
        for (uint32_t j = 0; j < lengths[0]; j++, *at += sizeof(mq_pending_id)) {
            mq_pending_id id;
            memcpy(&id, *at, sizeof id);
            if (id.offset < -1 || mq_dedup128_find(d, *at, NULL) != MQ_SEEN_NEW)
                return MQ_ECORRUPT;
            const mq_status status = mq_pending_add(&d->pending, tag, id.high, id.low, id.offset, &d->budget);
            if (status != MQ_OK)
                return status;
        }
    }
    return MQ_OK;
}

mq_dedup128 *mq_dedup128_deserialize(const uint8_t *bytes, size_t size, size_t max_bytes, uint64_t seed, mq_error *err)
{
    if (size < HEADER_BYTES + 4 || memcmp(bytes, MAGIC, sizeof MAGIC) != 0) {
        mq_fail(err, size < HEADER_BYTES + 4 ? MQ_ETRUNCATED : MQ_ECORRUPT, NULL, 0, "not a dedup snapshot");
        return NULL;
    }
    const uint8_t *end = bytes + size - 4, *at = bytes + HEADER_BYTES;
    uint32_t crc, counts[2];
    uint64_t ids;
    memcpy(&crc, end, 4);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (mq_crc32c(0, bytes, size - 4) != crc) {
        mq_fail(err, MQ_ECRC, NULL, size - 4, "checksum (CRC32C) of a dedup snapshot does not match");
        return NULL;
    }
#endif
    mq_dedup128 *d = mq_dedup128_new(max_bytes, seed, err);
    if (d == NULL)
        return NULL;
    memcpy(&d->horizon_ms, bytes + 8, 8);
    memcpy(&ids, bytes + 16, 8);
    memcpy(counts, bytes + 24, 8);
    mq_status status = counts[1] == 0 && d->horizon_ms >= 0 ? MQ_OK : MQ_ECORRUPT;
    if (status == MQ_OK && ids > (size_t)(end - at) / ENTRY_BYTES)
        status = MQ_ETRUNCATED;
    if (status == MQ_OK)
        status = read_entries(d, at, ids);
    if (status == MQ_OK) {
        at += (size_t)ids * ENTRY_BYTES;
        status = read_tags(d, &at, end, counts[0]);
    }
    if (status == MQ_OK && at != end)
        status = MQ_ECORRUPT;
    if (status == MQ_OK)
        return d;
    mq_dedup128_free(d);
    mq_fail(err, status, NULL, (uint64_t)(at - bytes), "the dedup snapshot breaks its format or does not fit its cap");
    return NULL;
}
