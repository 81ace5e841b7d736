#include "dedup_bucket.h"

#include <string.h>

/* ---- packed ---- */

bool mq_packed_test(const mq_bucket *b, uint32_t local)
{
    const uint16_t key = (uint16_t)(local >> 16), low = (uint16_t)local;
    uint32_t first = 0, n = b->length;
    while (n > 0) {
        const uint32_t half = n / 2;
        if (b->u.entries[first + half].key < key) {
            first += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    if (first == b->length || b->u.entries[first].key != key)
        return false;
    const mq_entry *e = &b->u.entries[first];
    const uint32_t size = e->meta & 0x3fffu;
    if (e->meta >> 14 == PACK_FEW)
        return e->u.few[0] == low || e->u.few[size - 1] == low;
    const uint16_t *payload = b->payload + e->u.at;
    if (e->meta >> 14 == PACK_BITS)
        return payload[low >> 4] >> (low & 15) & 1;
    if (e->meta >> 14 == PACK_ARRAY) {
        const uint32_t at = mq_lower_bound16(payload, size, low);
        return at < size && payload[at] == low;
    }
    uint32_t runs = size, run = 0; /* the last run that starts at or before low */
    while (runs > 1) {
        const uint32_t half = runs / 2;
        if (payload[2 * (run + half)] <= low)
            run += half;
        runs -= half;
    }
    return payload[2 * run] <= low && low - payload[2 * run] <= payload[2 * run + 1];
}

uint16_t mq_pack_choose(const uint16_t *lows, uint32_t count, uint32_t *payload)
{
    uint32_t runs = 1;
    for (uint32_t i = 1; i < count; i++)
        runs += lows[i] != lows[i - 1] + 1;
    if (count <= 2) {
        *payload = 0;
        return (uint16_t)(PACK_FEW << 14 | count);
    }
    const uint32_t array = count <= ARRAY_MAX ? count : UINT32_MAX;
    if (2 * runs < BITS_WORDS && 2 * runs <= array) {
        *payload = 2 * runs;
        return (uint16_t)(PACK_RUNS << 14 | runs);
    }
    if (array < BITS_WORDS) {
        *payload = count;
        return (uint16_t)(PACK_ARRAY << 14 | count);
    }
    *payload = BITS_WORDS;
    return (uint16_t)(PACK_BITS << 14);
}

void mq_pack_write(uint16_t meta, const uint16_t *lows, uint32_t count, uint16_t *to)
{
    switch (meta >> 14) {
    case PACK_RUNS:
        for (uint32_t i = 0, run = 0; i < count; run++) {
            uint32_t end = i + 1;
            while (end < count && lows[end] == lows[end - 1] + 1)
                end++;
            to[2 * run] = lows[i];
            to[2 * run + 1] = (uint16_t)(end - i - 1);
            i = end;
        }
        break;
    case PACK_BITS:
        memset(to, 0, BITS_WORDS * sizeof(uint16_t));
        for (uint32_t i = 0; i < count; i++)
            to[lows[i] >> 4] = (uint16_t)(to[lows[i] >> 4] | 1u << (lows[i] & 15));
        break;
    default: memcpy(to, lows, count * sizeof(uint16_t));
    }
}

uint32_t mq_pack_read(uint16_t meta, const uint16_t *from, uint16_t *lows)
{
    const uint32_t size = meta & 0x3fffu;
    uint32_t n = 0;
    switch (meta >> 14) {
    case PACK_RUNS: {
        int32_t last = -2; /* runs that touch would be one run */
        for (uint32_t run = 0; run < size; run++) {
            const int32_t start = from[2 * run], end = start + from[2 * run + 1];
            if (start <= last + 1 || end > UINT16_MAX)
                return 0;
            for (int32_t v = start; v <= end; v++)
                lows[n++] = (uint16_t)v;
            last = end;
        }
        return n;
    }
    case PACK_BITS:
        for (uint32_t word = 0; word < BITS_WORDS; word++)
            for (uint32_t bits = from[word]; bits != 0; bits &= bits - 1)
                lows[n++] = (uint16_t)(word << 4 | (uint32_t)__builtin_ctz(bits));
        return n;
    default:
        for (n = 0; n < size; n++) {
            if (n > 0 && from[n] <= from[n - 1])
                return 0;
            lows[n] = from[n];
        }
        return n;
    }
}

/* Fill made's entries and payload, or flat ids, from b; sizes were counted before. */
static void pack_fill(const mq_bucket *b, mq_bucket *made, uint16_t *scratch)
{
    mq_bucket_walk walk = {b, 0};
    uint16_t key;
    uint32_t count, at = 0, used;
    while (mq_bucket_next(&walk, &key, scratch, &count)) {
        if (made->form == FORM_FLAT) {
            for (uint32_t i = 0; i < count; i++)
                made->u.flat[made->length++] = (uint32_t)key << 16 | scratch[i];
            continue;
        }
        mq_entry *e = &made->u.entries[made->length++];
        e->key = key;
        e->meta = mq_pack_choose(scratch, count, &used);
        e->u.at = at;
        mq_pack_write(e->meta, scratch, count, e->meta >> 14 == PACK_FEW ? e->u.few : made->payload + at);
        at += used;
    }
}

mq_status mq_bucket_pack(mq_bucket *b, mq_budget *budget, uint16_t *scratch)
{
    mq_bucket_walk walk = {b, 0};
    uint16_t key;
    uint32_t count, used, entries = 0;
    uint64_t payload = 0;
    while (mq_bucket_next(&walk, &key, scratch, &count)) {
        mq_pack_choose(scratch, count, &used);
        payload += used;
        entries++;
    }
    mq_bucket made = {.form = FORM_PACKED};
    const uint64_t packed = mq_block_bytes(entries * sizeof(mq_entry)) + mq_block_bytes((size_t)payload * 2);
    mq_status status;
    if (b->count * sizeof(uint32_t) <= packed || payload > UINT32_MAX) {
        if (b->form == FORM_FLAT && b->room == b->length) {
            b->open = false;
            return MQ_OK;
        }
        made.form = FORM_FLAT;
        status = mq_budget_resize(budget, &made.u.block, 0, (size_t)b->count * sizeof(uint32_t));
        made.room = status == MQ_OK ? (uint32_t)b->count : 0;
    } else {
        status = mq_budget_resize(budget, &made.u.block, 0, entries * sizeof(mq_entry));
        made.room = status == MQ_OK ? entries : 0;
        if (status == MQ_OK && payload > 0) {
            void *block = NULL;
            status = mq_budget_resize(budget, &block, 0, (size_t)payload * 2);
            made.payload = block;
            made.payload_length = status == MQ_OK ? (uint32_t)payload : 0;
        }
    }
    if (status != MQ_OK) {
        mq_bucket_clear(&made, budget);
        return status;
    }
    pack_fill(b, &made, scratch);
    const uint64_t ids = b->count;
    mq_bucket_clear(b, budget);
    b->form = made.form;
    b->u.block = made.u.block;
    b->payload = made.payload;
    b->payload_length = made.payload_length;
    b->length = made.length;
    b->room = made.room;
    b->count = ids;
    b->open = false;
    return MQ_OK;
}
