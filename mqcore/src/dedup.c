#include "mqcore/dedup.h"

#include <string.h>

#include "dedup_internal.h"
#include "mqcore/hash.h"

enum { TABLE_BITS_START = 4, MAX_BYTES_LEAST = 64 << 10 };

static mq_status fail(mq_status status, mq_error *err)
{
    return mq_fail(err, status, NULL, 0,
                   status == MQ_EFULL ? "the dedup window reached its memory cap" : "no memory for the dedup window");
}

/* ---- the table of buckets ---- */

static size_t table_size(const mq_dedup *d)
{
    return (size_t)1 << d->bits;
}

static size_t place(mq_bucket *const *table, uint32_t bits, int64_t number)
{
    const size_t mask = ((size_t)1 << bits) - 1;
    size_t at = (size_t)(mq_mix64((uint64_t)number) >> (64 - bits));
    while (table[at] != NULL && table[at]->number != number)
        at = (at + 1) & mask;
    return at;
}

mq_bucket *mq_dedup_bucket(const mq_dedup *d, int64_t number)
{
    return d->table[place(d->table, d->bits, number)];
}

/* Move all buckets into a table of 2^bits places. */
static mq_status table_rebuild(mq_dedup *d, uint32_t bits)
{
    void *block = NULL;
    const mq_status status = mq_budget_resize(&d->budget, &block, 0, sizeof(mq_bucket *) << bits);
    if (status != MQ_OK)
        return status;
    memset(block, 0, sizeof(mq_bucket *) << bits);
    mq_bucket **table = block;
    for (size_t i = 0; i < table_size(d); i++)
        if (d->table[i] != NULL)
            table[place(table, bits, d->table[i]->number)] = d->table[i];
    block = d->table;
    mq_budget_resize(&d->budget, &block, sizeof(mq_bucket *) << d->bits, 0);
    d->table = table;
    d->bits = bits;
    return MQ_OK;
}

static void list_open(mq_dedup *d, mq_bucket *b)
{
    b->listed = true;
    b->previous = NULL;
    b->next = d->open;
    if (b->next != NULL)
        b->next->previous = b;
    d->open = b;
    d->open_count++;
}

static void unlist(mq_dedup *d, mq_bucket *b)
{
    if (!b->listed)
        return;
    *(b->previous != NULL ? &b->previous->next : &d->open) = b->next;
    if (b->next != NULL)
        b->next->previous = b->previous;
    b->listed = false;
    d->open_count--;
}

/* Pack what has been out of use the longest, two for each new bucket, until few are open. Packing that fails (memory)
 * changes no answer: the bucket stays open. */
static void pack_idle(mq_dedup *d)
{
    for (int turn = 0; turn < 2 && d->open_count > OPEN_BUCKETS; turn++) {
        mq_bucket *idle = d->open;
        for (mq_bucket *b = idle->next; b != NULL; b = b->next)
            if ((int32_t)(b->touched - idle->touched) < 0)
                idle = b;
        if (idle == d->last || (int32_t)(d->clock - idle->touched) <= 0 ||
            mq_bucket_pack(idle, &d->budget, d->scratch) != MQ_OK)
            return;
        unlist(d, idle);
    }
}

mq_bucket *mq_dedup_add_bucket(mq_dedup *d, int64_t number, mq_status *status)
{
    *status = MQ_OK;
    if (((size_t)d->count + 1) * 4 > table_size(d) * 3)
        *status = table_rebuild(d, d->bits + 1);
    void *block = NULL;
    if (*status == MQ_OK)
        *status = mq_budget_resize(&d->budget, &block, 0, sizeof(mq_bucket));
    if (*status != MQ_OK)
        return NULL;
    mq_bucket *b = block;
    *b = (mq_bucket){.number = number, .min_offset = -1, .max_offset = -1, .touched = ++d->clock, .open = true};
    d->table[place(d->table, d->bits, number)] = b;
    d->count++;
    return b;
}

static void remove_empty(mq_dedup *d, mq_bucket *b)
{
    /* Backward shift: what would be cut off from its home by the hole is pulled back. */
    const size_t mask = table_size(d) - 1;
    size_t hole = place(d->table, d->bits, b->number), at = hole;
    for (;;) {
        at = (at + 1) & mask;
        if (d->table[at] == NULL)
            break;
        const size_t home = (size_t)(mq_mix64((uint64_t)d->table[at]->number) >> (64 - d->bits));
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            d->table[hole] = d->table[at];
            hole = at;
        }
    }
    d->table[hole] = NULL;
    d->count--;
    unlist(d, b);
    if (d->last == b)
        d->last = NULL;
    void *block = b;
    mq_bucket_clear(b, &d->budget);
    mq_budget_resize(&d->budget, &block, sizeof(mq_bucket), 0);
}

/* ---- life ---- */

mq_dedup *mq_dedup_new(const mq_dedup_config *config, mq_error *err)
{
    if (config->bucket_ms == 0 || config->bucket_ms > MQ_DEDUP_BUCKET_MS_MAX ||
        (config->bucket_ms & (config->bucket_ms - 1)) != 0) {
        mq_fail(err, MQ_EINVAL, NULL, 0, "bucket_ms must be a power of two from 1 to 1024");
        return NULL;
    }
    if (config->max_bytes < MAX_BYTES_LEAST || config->epoch_ms < 0 || config->epoch_ms > INT64_MAX >> 1) {
        mq_fail(err, MQ_EINVAL, NULL, 0, "max_bytes must be at least 65536 and the epoch from 1970 on");
        return NULL;
    }
    mq_dedup *d = mq_alloc_zeroed(sizeof *d);
    mq_bucket **table = mq_alloc_zeroed(sizeof *table << TABLE_BITS_START);
    uint16_t *scratch = mq_alloc(65536 * sizeof *scratch);
    if (d == NULL || table == NULL || scratch == NULL) {
        mq_free(d);
        mq_free(table);
        mq_free(scratch);
        mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for a dedup window");
        return NULL;
    }
    d->config = *config;
    d->shift = MQ_ID_TIME_SHIFT + (uint32_t)__builtin_ctz(config->bucket_ms);
    d->budget = (mq_budget){mq_block_bytes(sizeof *table << TABLE_BITS_START), config->max_bytes};
    d->table = table;
    d->bits = TABLE_BITS_START;
    d->scratch = scratch;
    return d;
}

void mq_dedup_free(mq_dedup *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < table_size(d); i++)
        if (d->table[i] != NULL) {
            mq_bucket_clear(d->table[i], &d->budget);
            mq_free(d->table[i]);
        }
    mq_pending_clear(&d->pending, &d->budget);
    mq_free(d->table);
    mq_free(d->scratch);
    mq_free(d);
}

const mq_dedup_config *mq_dedup_configuration(const mq_dedup *d)
{
    return &d->config;
}

static int64_t bucket_end_ms(const mq_dedup *d, int64_t number)
{
    return d->config.epoch_ms + (number + 1) * (int64_t)d->config.bucket_ms;
}

void mq_dedup_get_stats(const mq_dedup *d, mq_dedup_stats *stats)
{
    *stats = (mq_dedup_stats){.ids = d->ids,
                              .pending = d->pending.count,
                              .bytes_used = d->budget.used,

                              .buckets = d->count,
                              .buckets_open = d->open_count,
                              .oldest_ms = -1,
                              .newest_ms = -1};
    for (size_t i = 0; i < table_size(d); i++) {
        const mq_bucket *b = d->table[i];
        if (b == NULL)
            continue;
        const int64_t end = bucket_end_ms(d, b->number);
        if (end > stats->newest_ms)
            stats->newest_ms = end;
        if (stats->oldest_ms < 0 || end - (int64_t)d->config.bucket_ms < stats->oldest_ms)
            stats->oldest_ms = end - (int64_t)d->config.bucket_ms;
    }
}

/* ---- test and set ---- */

static void note_offset(mq_bucket *b, int64_t offset)
{
    if (offset < 0)
        return;
    if (b->min_offset < 0 || offset < b->min_offset)
        b->min_offset = offset;
    if (offset > b->max_offset)
        b->max_offset = offset;
}

/* Set an id that is not pending. Out of line: new buckets, full arrays, late ids. */
static mq_status __attribute__((noinline)) set_slow(mq_dedup *d, uint64_t id, int64_t offset, bool *seen)
{
    const int64_t number = (int64_t)(id >> d->shift);
    const uint32_t local = (uint32_t)(id & ((1ull << d->shift) - 1));
    mq_status status = MQ_OK;
    mq_bucket *b = mq_dedup_bucket(d, number);
    if (b == NULL) {
        b = mq_dedup_add_bucket(d, number, &status);
        if (b == NULL)
            return status;
    }
    status = mq_bucket_set(b, local, &d->budget, seen);
    if (status != MQ_OK) {
        if (b->count == 0)
            remove_empty(d, b);
        return status;
    }
    if (b->open && !b->listed) {
        list_open(d, b);
        b->touched = b->count == 1 ? d->clock : d->clock + REOPENED_GRACE; /* late ids must not repack it each time */
        pack_idle(d);
    } else if ((int32_t)(d->clock - b->touched) > 0) {
        b->touched = d->clock;
    }
    d->last = b;
    if (!*seen) {
        d->ids++;
        note_offset(b, offset);
    }
    return MQ_OK;
}

static inline mq_status set(mq_dedup *d, uint64_t id, int64_t offset, bool *seen)
{
    mq_bucket *b = d->last;
    if (b != NULL && b->number == (int64_t)(id >> d->shift)) {
        const int fast = mq_bucket_set_fast(b, (uint32_t)(id & ((1ull << d->shift) - 1)));
        if (fast >= 0) {
            *seen = fast;
            if (!fast) {
                d->ids++;
                note_offset(b, offset);
            }
            return MQ_OK;
        }
    }
    return set_slow(d, id, offset, seen);
}

mq_status mq_dedup_test_and_set(mq_dedup *d, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err)
{
    bool was = false;
    if (d->pending.count != 0 && mq_pending_find(&d->pending, 0, id) >= -1) {
        *seen = MQ_SEEN_PENDING;
        return MQ_OK;
    }
    const mq_status status = set(d, id, offset, &was);
    if (status != MQ_OK)
        return fail(status, err);
    *seen = was ? MQ_SEEN_DUPLICATE : MQ_SEEN_NEW;
    return MQ_OK;
}

mq_status mq_dedup_test_and_set_many(mq_dedup *d, const uint64_t *ids, size_t count, int64_t base_offset, uint8_t *seen,
                                     size_t *done, size_t *duplicates, mq_error *err)
{
    const bool pending = d->pending.count != 0;
    const int64_t step = base_offset >= 0;
    size_t old = 0, i = 0;
    mq_status status = MQ_OK;
    for (; i < count; i++, base_offset += step) {
        bool was = false;
        if (pending && mq_pending_find(&d->pending, 0, ids[i]) >= -1) {
            seen[i] = MQ_SEEN_PENDING;
            old++;
            continue;
        }
        status = set(d, ids[i], base_offset, &was);
        if (status != MQ_OK)
            break;
        seen[i] = was;
        old += was;
    }
    *done = i;
    *duplicates = old;
    return status == MQ_OK ? MQ_OK : fail(status, err);
}

mq_seen mq_dedup_find(mq_dedup *d, uint64_t id, int64_t *min_offset, int64_t *max_offset)
{
    int64_t low = -1, high = -1;
    mq_seen seen = MQ_SEEN_NEW;
    const int64_t pending = mq_pending_find(&d->pending, 0, id);
    if (pending >= -1) {
        low = high = pending;
        seen = MQ_SEEN_PENDING;
    } else {
        const int64_t number = (int64_t)(id >> d->shift);
        mq_bucket *b = d->last != NULL && d->last->number == number ? d->last : mq_dedup_bucket(d, number);
        if (b != NULL && mq_bucket_contains(b, (uint32_t)(id & ((1ull << d->shift) - 1)))) {
            low = b->min_offset;
            high = b->max_offset;
            seen = MQ_SEEN_DUPLICATE;
            d->last = b;
        }
    }
    if (min_offset != NULL)
        *min_offset = low;
    if (max_offset != NULL)
        *max_offset = high;
    return seen;
}

void mq_dedup_find_many(mq_dedup *d, const uint64_t *ids, size_t count, uint8_t *seen)
{
    for (size_t i = 0; i < count; i++)
        seen[i] = (uint8_t)mq_dedup_find(d, ids[i], NULL, NULL);
}

/* ---- transactions ---- */

mq_status mq_dedup_add_pending(mq_dedup *d, uint64_t tag, uint64_t id, int64_t offset, mq_seen *seen, mq_error *err)
{
    *seen = mq_dedup_find(d, id, NULL, NULL);
    if (*seen != MQ_SEEN_NEW)
        return MQ_OK;
    const mq_status status = mq_pending_add(&d->pending, tag, 0, id, offset < 0 ? -1 : offset, &d->budget);
    return status == MQ_OK ? MQ_OK : fail(status, err);
}

mq_status mq_dedup_confirm(mq_dedup *d, uint64_t tag, size_t *confirmed, mq_error *err)
{
    *confirmed = 0;
    const mq_pending_tag *t = mq_pending_get(&d->pending, tag);
    if (t == NULL)
        return MQ_OK;
    for (uint32_t i = 0; i < t->length; i++) {
        bool was;
        const mq_status status = set(d, t->ids[i].low, t->ids[i].offset, &was);
        if (status != MQ_OK) /* those set so far are still pending too (I4 holds again after the next call) */
            return fail(status, err);
    }
    *confirmed = mq_pending_drop(&d->pending, tag, &d->budget);
    return MQ_OK;
}

size_t mq_dedup_abort(mq_dedup *d, uint64_t tag)
{
    return mq_pending_drop(&d->pending, tag, &d->budget);
}

/* ---- window ---- */

uint64_t mq_dedup_expire(mq_dedup *d, int64_t before_ms)
{
    const uint64_t before = d->ids;
    for (size_t i = 0; i < table_size(d);) {
        mq_bucket *b = d->table[i];
        if (b == NULL || bucket_end_ms(d, b->number) > before_ms) {
            i++;
            continue;
        }
        d->ids -= b->count;
        remove_empty(d, b); /* may pull another bucket into place i: look at it again */
    }
    uint32_t bits = d->bits;
    while (bits > TABLE_BITS_START && (size_t)d->count * 4 < ((size_t)1 << bits))
        bits--;
    if (bits < d->bits)
        table_rebuild(d, bits); /* to fail is to stay large */
    return before - d->ids;
}

mq_status mq_dedup_pack(mq_dedup *d, int64_t before_ms, mq_error *err)
{
    for (size_t i = 0; i < table_size(d); i++) {
        mq_bucket *b = d->table[i];
        if (b == NULL || !b->open || bucket_end_ms(d, b->number) > before_ms)
            continue;
        const mq_status status = mq_bucket_pack(b, &d->budget, d->scratch);
        if (status == MQ_ENOMEM)
            return fail(status, err);
        if (status == MQ_OK) /* MQ_EFULL: no room for both forms at once; it stays open */
            unlist(d, b);
    }
    return MQ_OK;
}
