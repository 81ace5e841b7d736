#include "dedup_bucket.h"

#include <string.h>

enum { ARRAY_START = 8 };

/* ---- leaves ---- */

static size_t leaves_bytes(uint32_t words)
{
    return sizeof(mq_leaves) + words * sizeof(uint64_t);
}

static uint8_t words_for(uint32_t sequence)
{
    uint32_t words = 1;
    while (words * 64 <= sequence)
        words *= 2;
    return (uint8_t)words;
}

/* Words of each leaf that sorted lows need; returns their sum. */
static uint32_t leaves_plan(const uint16_t *lows, uint32_t count, uint8_t words[16])
{
    uint32_t total = 0;
    memset(words, 0, 16);
    for (uint32_t i = 0; i < count; i++) /* the last of each leaf is its highest */
        if (i + 1 == count || lows[i + 1] >> 12 != lows[i] >> 12)
            words[lows[i] >> 12] = words_for(lows[i] & 4095u);
    for (int leaf = 0; leaf < 16; leaf++)
        total += words[leaf];
    return total;
}

static void leaves_layout(mq_leaves *leaves, const uint8_t words[16])
{
    uint16_t at = 0;
    for (int leaf = 0; leaf < 16; leaf++)
        leaves->end[leaf] = at = (uint16_t)(at + words[leaf]);
}

static uint32_t leaves_total(const mq_leaves *leaves)
{
    return leaves->end[15];
}

static uint32_t leaves_count(const mq_leaves *leaves)
{
    uint32_t count = 0;
    for (uint32_t word = 0; word < leaves_total(leaves); word++)
        count += (uint32_t)__builtin_popcountll(leaves->bits[word]);
    return count;
}

static bool leaves_test(const mq_leaves *leaves, uint32_t low)
{
    const uint32_t word = mq_leaf_word(leaves, low);
    return word != UINT32_MAX && (leaves->bits[word] >> (low & 63) & 1);
}

/* The leaf reaches low. */
static void leaves_put(mq_leaves *leaves, uint32_t low)
{
    leaves->bits[mq_leaf_word(leaves, low)] |= 1ull << (low & 63);
}

static uint32_t leaves_list(const mq_leaves *leaves, uint16_t *lows)
{
    uint32_t n = 0;
    for (uint32_t leaf = 0; leaf < 16; leaf++) {
        const uint32_t start = mq_leaf_start(leaves, leaf);
        for (uint32_t word = start; word < leaves->end[leaf]; word++)
            for (uint64_t bits = leaves->bits[word]; bits != 0; bits &= bits - 1)
                lows[n++] = (uint16_t)(leaf << 12 | (word - start) << 6 | (uint32_t)__builtin_ctzll(bits));
    }
    return n;
}

/* Leaves from sorted lows, as a new block. */
static mq_status leaves_make(const uint16_t *lows, uint32_t count, mq_budget *budget, mq_leaves **made)
{
    uint8_t words[16];
    const uint32_t total = leaves_plan(lows, count, words);
    void *block = NULL;
    const mq_status status = mq_budget_resize(budget, &block, 0, leaves_bytes(total));
    if (status != MQ_OK)
        return status;
    mq_leaves *leaves = block;
    memset(leaves, 0, leaves_bytes(total));
    leaves_layout(leaves, words);
    for (uint32_t i = 0; i < count; i++)
        leaves_put(leaves, lows[i]);
    *made = leaves;
    return MQ_OK;
}

/* ---- one slot of a directory ---- */

static size_t slot_block_size(const mq_slot *slot)
{
    switch (slot->kind) {
    case SLOT_ARRAY: return slot->room * sizeof(uint16_t);
    case SLOT_LEAVES: return leaves_bytes(leaves_total(slot->u.leaves));
    default: return 0;
    }
}

void mq_slot_free(mq_slot *slot, mq_budget *budget)
{
    void *block = slot->kind == SLOT_ARRAY ? (void *)slot->u.array : (void *)slot->u.leaves;
    if (slot->kind != SLOT_FEW)
        mq_budget_resize(budget, &block, slot_block_size(slot), 0);
}

bool mq_slot_test(const mq_slot *slot, uint16_t low)
{
    if (slot->kind == SLOT_LEAVES)
        return leaves_test(slot->u.leaves, low);
    const uint16_t *lows = slot->kind == SLOT_FEW ? slot->u.few : slot->u.array;
    const uint32_t at = mq_lower_bound16(lows, slot->count, low);
    return at < slot->count && lows[at] == low;
}

static mq_status slot_to_array(mq_slot *slot, const uint16_t *lows, uint32_t count, mq_budget *budget)
{
    void *block = NULL;
    uint32_t room = mq_more_room(count, ARRAY_START);
    if (room > ARRAY_MAX)
        room = ARRAY_MAX;
    const mq_status status = mq_budget_resize(budget, &block, 0, room * sizeof(uint16_t));
    if (status != MQ_OK)
        return status;
    memcpy(block, lows, count * sizeof(uint16_t));
    mq_slot_free(slot, budget);
    slot->kind = SLOT_ARRAY;
    slot->count = (uint16_t)count;
    slot->room = (uint16_t)room;
    slot->u.array = block;
    return MQ_OK;
}

/* The array is full: leaves if they are no larger (or it is as long as an array may be), else a longer array. */
static mq_status slot_grow_array(mq_slot *slot, mq_budget *budget)
{
    uint8_t words[16];
    const uint32_t total = leaves_plan(slot->u.array, slot->count, words);
    if (leaves_bytes(total) <= slot->count * sizeof(uint16_t) || slot->count >= ARRAY_MAX) {
        mq_leaves *leaves;
        const mq_status status = leaves_make(slot->u.array, slot->count, budget, &leaves);
        if (status != MQ_OK)
            return status;
        mq_slot_free(slot, budget);
        slot->kind = SLOT_LEAVES;
        slot->u.leaves = leaves;
        return MQ_OK;
    }
    uint32_t room = mq_more_room(slot->room, ARRAY_START);
    if (room > ARRAY_MAX)
        room = ARRAY_MAX;
    void *block = slot->u.array;
    const mq_status status = mq_budget_resize(budget, &block, slot->room * sizeof(uint16_t), room * sizeof(uint16_t));
    slot->u.array = block;
    if (status == MQ_OK)
        slot->room = (uint16_t)room;
    return status;
}

/* A leaf must reach further. Where the bitmaps would grow far past an array's size (scattered sequences), go back
 * to an array; the next full array decides again, so the two forms cannot alternate with every id. */
static mq_status slot_grow_leaf(mq_slot *slot, uint16_t low, mq_budget *budget)
{
    const mq_leaves *old = slot->u.leaves;
    const uint32_t count = leaves_count(old);
    uint8_t words[16];
    for (uint32_t leaf = 0; leaf < 16; leaf++)
        words[leaf] = (uint8_t)(old->end[leaf] - mq_leaf_start(old, leaf));
    const uint32_t total = leaves_total(old) - words[low >> 12] + words_for(low & 4095u);
    words[low >> 12] = words_for(low & 4095u);
    if (count < ARRAY_MAX && leaves_bytes(total) > 2 * (size_t)count + 256) {
        uint16_t lows[ARRAY_MAX];
        return slot_to_array(slot, lows, leaves_list(old, lows), budget);
    }
    void *block = NULL;
    const mq_status status = mq_budget_resize(budget, &block, 0, leaves_bytes(total));
    if (status != MQ_OK)
        return status;
    mq_leaves *leaves = block;
    memset(leaves, 0, leaves_bytes(total));
    leaves_layout(leaves, words);
    for (uint32_t leaf = 0; leaf < 16; leaf++) {
        const uint32_t start = mq_leaf_start(old, leaf);
        memcpy(&leaves->bits[mq_leaf_start(leaves, leaf)], &old->bits[start],
               (old->end[leaf] - start) * sizeof(uint64_t));
    }
    mq_slot_free(slot, budget);
    slot->u.leaves = leaves;
    return MQ_OK;
}

/* Insert into FEW or ARRAY; the caller knows that low is not in it. *stored is false if only room was made. */
static mq_status slot_insert(mq_slot *slot, uint16_t low, mq_budget *budget, bool *stored)
{
    *stored = false;
    if (slot->kind == SLOT_FEW && slot->count == SLOT_FEW_MAX) {
        uint16_t lows[SLOT_FEW_MAX];
        memcpy(lows, slot->u.few, sizeof lows);
        return slot_to_array(slot, lows, SLOT_FEW_MAX, budget);
    }
    if (slot->kind == SLOT_ARRAY && slot->count == slot->room)
        return slot_grow_array(slot, budget);
    uint16_t *lows = slot->kind == SLOT_FEW ? slot->u.few : slot->u.array;
    const uint32_t at = mq_lower_bound16(lows, slot->count, low);
    memmove(lows + at + 1, lows + at, (slot->count - at) * sizeof(uint16_t));
    lows[at] = low;
    slot->count++;
    *stored = true;
    return MQ_OK;
}

mq_status mq_slot_set(mq_slot *slot, uint16_t low, mq_budget *budget, bool *seen)
{
    *seen = mq_slot_test(slot, low);
    if (*seen)
        return MQ_OK;
    for (bool stored = false; !stored;) { /* each turn stores the id or changes the slot to a form with room */
        mq_status status;
        if (slot->kind != SLOT_LEAVES) {
            status = slot_insert(slot, low, budget, &stored);
        } else if (mq_leaf_word(slot->u.leaves, low) != UINT32_MAX) {
            leaves_put(slot->u.leaves, low);
            stored = true;
            status = MQ_OK;
        } else {
            status = slot_grow_leaf(slot, low, budget);
        }
        if (status != MQ_OK)
            return status;
    }
    return MQ_OK;
}

mq_status mq_slot_make(mq_slot *slot, uint16_t key, const uint16_t *lows, uint32_t count, mq_budget *budget)
{
    uint8_t words[16];
    *slot = (mq_slot){.key = key, .kind = SLOT_FEW};
    if (count <= SLOT_FEW_MAX) {
        memcpy(slot->u.few, lows, count * sizeof(uint16_t));
        slot->count = (uint16_t)count;
        return MQ_OK;
    }
    if (count < ARRAY_MAX && leaves_bytes(leaves_plan(lows, count, words)) > count * sizeof(uint16_t))
        return slot_to_array(slot, lows, count, budget);
    mq_leaves *leaves;
    const mq_status status = leaves_make(lows, count, budget, &leaves);
    if (status == MQ_OK) {
        slot->kind = SLOT_LEAVES;
        slot->u.leaves = leaves;
    }
    return status;
}

mq_status mq_slot_make_like(mq_slot *slot, uint16_t key, uint16_t low, const mq_slot *other, mq_budget *budget)
{
    if (other->kind != SLOT_LEAVES)
        return MQ_EFULL;
    const mq_leaves *like = other->u.leaves;
    const size_t bytes = leaves_bytes(leaves_total(like));
    if (mq_leaf_word(like, low) == UINT32_MAX || bytes > leaves_count(like) * sizeof(uint16_t))
        return MQ_EFULL;
    void *block = NULL;
    const mq_status status = mq_budget_resize(budget, &block, 0, bytes);
    if (status != MQ_OK)
        return status;
    mq_leaves *leaves = block;
    memcpy(leaves, like, sizeof *leaves);
    memset(leaves->bits, 0, leaves_total(like) * sizeof(uint64_t));
    leaves_put(leaves, low);
    *slot = (mq_slot){.key = key, .kind = SLOT_LEAVES, .u = {.leaves = leaves}};
    return MQ_OK;
}

uint32_t mq_slot_list(const mq_slot *slot, uint16_t *lows)
{
    if (slot->kind == SLOT_LEAVES)
        return leaves_list(slot->u.leaves, lows);
    memcpy(lows, slot->kind == SLOT_FEW ? slot->u.few : slot->u.array, slot->count * sizeof(uint16_t));
    return slot->count;
}
