#include "dedup_bucket.h"

#include <string.h>

enum { FLAT_START = 4, FLAT_ALWAYS = 256 };

static uint32_t lower_bound32(const uint32_t *a, uint32_t n, uint32_t v)
{
    uint32_t low = 0;
    while (n > 0) {
        const uint32_t half = n / 2;
        if (a[low + half] < v) {
            low += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    return low;
}

/* ---- directory and flat ---- */

/* Index of the slot for key, or of the first slot above it. */
static uint32_t directory_find(const mq_bucket *b, uint16_t key)
{
    const uint32_t last = b->length - 1;
    if (b->u.slots[last].key < key) /* time moves on: most new keys are past the last */
        return b->length;
    uint32_t low = 0, n = b->length;
    while (n > 0) {
        const uint32_t half = n / 2;
        if (b->u.slots[low + half].key < key) {
            low += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    return low;
}

static mq_status directory_set(mq_bucket *b, uint32_t local, mq_budget *budget, bool *seen)
{
    const uint16_t key = (uint16_t)(local >> 16);
    uint32_t at = b->hint;
    if (b->u.slots[at].key != key)
        at = directory_find(b, key);
    if (at < b->length && b->u.slots[at].key == key) {
        b->hint = at;
        return mq_slot_set(&b->u.slots[at], (uint16_t)local, budget, seen);
    }
    if (b->length == b->room) {
        const uint32_t room = mq_more_room(b->room, 8);
        const mq_status status =
            mq_budget_resize(budget, &b->u.block, b->room * sizeof(mq_slot), room * sizeof(mq_slot));
        if (status != MQ_OK)
            return status;
        b->room = room;
    }
    const uint16_t low = (uint16_t)local;
    mq_slot made;
    mq_status status = MQ_EFULL;
    if (at > 0) /* the slot before is a good guess of what this one will hold */
        status = mq_slot_make_like(&made, key, low, &b->u.slots[at - 1], budget);
    if (status != MQ_OK)
        made = (mq_slot){.key = key, .kind = SLOT_FEW, .count = 1, .u = {.few = {low}}};
    mq_slot *slot = &b->u.slots[at];
    memmove(slot + 1, slot, (b->length - at) * sizeof(mq_slot));
    *slot = made;
    b->length++;
    b->hint = at;
    *seen = false;
    return MQ_OK;
}

/* Move every id of b into a directory. On failure b is as before. */
static mq_status to_directory(mq_bucket *b, mq_budget *budget)
{
    uint16_t *lows = mq_alloc(65536 * sizeof(uint16_t));
    if (lows == NULL)
        return MQ_ENOMEM;
    mq_bucket made = {.form = FORM_DIRECTORY};
    mq_bucket_walk walk = {b, 0};
    uint16_t key;
    uint32_t count;
    mq_status status = MQ_OK;
    while (status == MQ_OK && mq_bucket_next(&walk, &key, lows, &count)) {
        if (made.length == made.room) {
            const uint32_t room = mq_more_room(made.room, 8);
            status = mq_budget_resize(budget, &made.u.block, made.room * sizeof(mq_slot), room * sizeof(mq_slot));
            if (status != MQ_OK)
                break;
            made.room = room;
        }
        status = mq_slot_make(&made.u.slots[made.length], key, lows, count, budget);
        made.length += status == MQ_OK;
    }
    mq_free(lows);
    if (status != MQ_OK) {
        mq_bucket_clear(&made, budget);
        return status;
    }
    const uint64_t ids = b->count;
    mq_bucket_clear(b, budget);
    b->form = FORM_DIRECTORY;
    b->u.block = made.u.block;
    b->length = made.length;
    b->room = made.room;
    b->count = ids;
    return MQ_OK;
}

static uint32_t distinct_keys(const mq_bucket *b)
{
    uint32_t keys = 1;
    for (uint32_t i = 1; i < b->length; i++)
        keys += b->u.flat[i] >> 16 != b->u.flat[i - 1] >> 16;
    return keys;
}

static mq_status flat_set(mq_bucket *b, uint32_t local, mq_budget *budget, bool *seen)
{
    uint32_t *flat = b->u.flat;
    uint32_t at = b->length;
    if (at > 0 && flat[at - 1] >= local)
        at = lower_bound32(flat, b->length, local);
    *seen = at < b->length && flat[at] == local;
    if (*seen)
        return MQ_OK;
    if (b->length == b->room) {
        /* A slot takes 16 bytes, a flat id 4: fewer than 4 ids a slot are smaller as they are. */
        if (b->length >= FLAT_ALWAYS && b->length / 4 >= distinct_keys(b)) {
            const mq_status status = to_directory(b, budget);
            return status != MQ_OK ? status : directory_set(b, local, budget, seen);
        }
        const uint32_t room = mq_more_room(b->room, FLAT_START);
        const mq_status status =
            mq_budget_resize(budget, &b->u.block, b->room * sizeof(uint32_t), room * sizeof(uint32_t));
        if (status != MQ_OK)
            return status;
        b->room = room;
        flat = b->u.flat;
    }
    memmove(flat + at + 1, flat + at, (b->length - at) * sizeof(uint32_t));
    flat[at] = local;
    b->length++;
    return MQ_OK;
}

bool mq_bucket_next(mq_bucket_walk *walk, uint16_t *key, uint16_t *scratch, uint32_t *count)
{
    const mq_bucket *b = walk->bucket;
    if (walk->at >= b->length)
        return false;
    if (b->form == FORM_FLAT) {
        *key = (uint16_t)(b->u.flat[walk->at] >> 16);
        for (*count = 0; walk->at < b->length && b->u.flat[walk->at] >> 16 == *key; walk->at++)
            scratch[(*count)++] = (uint16_t)b->u.flat[walk->at];
        return true;
    }
    const uint32_t at = walk->at++;
    if (b->form == FORM_PACKED) {
        const mq_entry *e = &b->u.entries[at];
        *key = e->key;
        *count = mq_pack_read(e->meta, e->meta >> 14 == PACK_FEW ? e->u.few : b->payload + e->u.at, scratch);
        return true;
    }
    *key = b->u.slots[at].key;
    *count = mq_slot_list(&b->u.slots[at], scratch);
    return true;
}

void mq_bucket_clear(mq_bucket *b, mq_budget *budget)
{
    static const size_t unit[] = {sizeof(uint32_t), sizeof(mq_slot), sizeof(mq_entry)};
    if (b->form == FORM_DIRECTORY)
        for (uint32_t i = 0; i < b->length; i++)
            mq_slot_free(&b->u.slots[i], budget);
    mq_budget_resize(budget, &b->u.block, b->room * unit[b->form], 0);
    void *payload = b->payload;
    mq_budget_resize(budget, &payload, b->payload_length * sizeof(uint16_t), 0);
    b->payload = NULL;
    b->form = FORM_FLAT;
    b->payload_length = b->length = b->room = b->hint = 0;
    b->count = 0;
}

bool mq_bucket_contains(mq_bucket *b, uint32_t local)
{
    if (b->form == FORM_PACKED)
        return mq_packed_test(b, local);
    if (b->form == FORM_FLAT) {
        const uint32_t at = lower_bound32(b->u.flat, b->length, local);
        return at < b->length && b->u.flat[at] == local;
    }
    uint32_t at = b->hint;
    if (b->u.slots[at].key != local >> 16)
        at = directory_find(b, (uint16_t)(local >> 16));
    if (at == b->length || b->u.slots[at].key != local >> 16)
        return false;
    b->hint = at;
    return mq_slot_test(&b->u.slots[at], (uint16_t)local);
}

mq_status mq_bucket_set(mq_bucket *b, uint32_t local, mq_budget *budget, bool *seen)
{
    if (b->form == FORM_PACKED) {
        *seen = mq_packed_test(b, local);
        if (*seen)
            return MQ_OK;
        const mq_status status = to_directory(b, budget); /* a late id: open it again */
        if (status != MQ_OK)
            return status;
    }
    const mq_status status =
        b->form == FORM_FLAT ? flat_set(b, local, budget, seen) : directory_set(b, local, budget, seen);
    if (status == MQ_OK && !*seen) {
        b->count++;
        b->open = true;
    }
    return status;
}
