/* dedup_bucket.h -- the ids of one time bucket, as 32-bit numbers below the bucket's own bits (internal to dedup).
 *
 * Forms:
 *   FLAT       sorted uint32 ids: few ids, or ids so scattered that nothing is smaller
 *   DIRECTORY  sorted slots, one for each 2^16 ids in use (16 workers of one millisecond): up to 4 ids in the slot, a
 *              sorted uint16 array, or LEAVES: for each of the 16 workers a bitmap from sequence 0 to the highest
 *              power of two in use. Sequences start at 0 each millisecond, so a leaf is dense and short.
 *   PACKED     sorted entries of 8 bytes over one payload: up to 2 ids inline, array, runs or all 2^16 bits, the
 *              smallest of these. Read-only: a set opens it again.
 * Invariants:
 *   B1  count == number of ids == sum over the slots or entries
 *   B2  keys, ids and runs rise strictly; runs neither touch nor overlap
 *   B3  a directory slot's array has at most ARRAY_MAX ids */
#ifndef MQCORE_DEDUP_BUCKET_H
#define MQCORE_DEDUP_BUCKET_H

#include <stdbool.h>

#include "budget.h"
#include "mqcore/status.h"

enum { FORM_FLAT = 0, FORM_DIRECTORY = 1, FORM_PACKED = 2 };
enum { SLOT_FEW = 0, SLOT_ARRAY = 1, SLOT_LEAVES = 2 };
enum { PACK_FEW = 0, PACK_ARRAY = 1, PACK_RUNS = 2, PACK_BITS = 3 };
enum { SLOT_FEW_MAX = 4, ARRAY_MAX = 4096, LEAF_WORDS_MAX = 64, BITS_WORDS = 4096 /* uint16 words of 2^16 bits */ };

/* 32 bytes for each millisecond in use, so nothing is kept that can be counted. */
typedef struct mq_leaves {
    uint16_t end[16]; /* first word after each leaf; a leaf has 0 words or a power of two up to LEAF_WORDS_MAX */
    uint64_t bits[];
} mq_leaves;

static inline uint32_t mq_leaf_start(const mq_leaves *leaves, uint32_t leaf)
{
    return leaf == 0 ? 0 : leaves->end[leaf - 1];
}

/* Index of the word of a low half; UINT32_MAX: its leaf does not reach so far. */
static inline uint32_t mq_leaf_word(const mq_leaves *leaves, uint32_t low)
{
    const uint32_t leaf = low >> 12, at = mq_leaf_start(leaves, leaf) + ((low & 4095) >> 6);
    return at < leaves->end[leaf] ? at : UINT32_MAX;
}

typedef struct mq_slot {
    uint16_t key; /* local id >> 16 */
    uint8_t kind;
    uint16_t count; /* FEW, ARRAY */
    uint16_t room;  /* ARRAY */
    union {
        uint16_t few[SLOT_FEW_MAX]; /* sorted */
        uint16_t *array;
        mq_leaves *leaves;
    } u;
} mq_slot;

typedef struct mq_entry {
    uint16_t key;
    uint16_t meta; /* kind << 14 | number of ids (FEW, ARRAY) or runs (RUNS: start, length - 1) */
    union {
        uint16_t few[2];
        uint32_t at; /* uint16 position in the payload */
    } u;
} mq_entry;

typedef struct mq_bucket {
    int64_t number; /* id >> bucket shift */
    int64_t min_offset, max_offset;
    uint64_t count;
    uint32_t length, room;   /* ids, slots or entries: in use, allocated */
    uint32_t payload_length; /* PACKED: uint16s */
    uint32_t hint;           /* DIRECTORY: slot of the last look-up */
    uint32_t touched;        /* the owner's clock at the last switch to this bucket */
    uint8_t form;
    bool open;   /* not packed since it was last written */
    bool listed; /* in its owner's list of open buckets */
    union {
        uint32_t *flat;
        mq_slot *slots;
        mq_entry *entries;
        void *block;
    } u;
    uint16_t *payload;
    struct mq_bucket *previous, *next; /* listed */
} mq_bucket;

/* One slot (dedup_slot.c). */
bool mq_slot_test(const mq_slot *slot, uint16_t low);
mq_status mq_slot_set(mq_slot *slot, uint16_t low, mq_budget *budget, bool *seen);
/* A slot of `count` sorted low halves, in the form that is smallest while open. */
mq_status mq_slot_make(mq_slot *slot, uint16_t key, const uint16_t *lows, uint32_t count, mq_budget *budget);
/* A slot of one id with leaves as long as those of a well-filled other slot; MQ_EFULL: that one has none or is not. */
mq_status mq_slot_make_like(mq_slot *slot, uint16_t key, uint16_t low, const mq_slot *other, mq_budget *budget);
uint32_t mq_slot_list(const mq_slot *slot, uint16_t *lows);
void mq_slot_free(mq_slot *slot, mq_budget *budget);

/* A packed bucket (dedup_pack.c). */
bool mq_packed_test(const mq_bucket *b, uint32_t local);

/* The bucket (dedup_bucket.c, dedup_pack.c). */
bool mq_bucket_contains(mq_bucket *b, uint32_t local);
/* Set; *seen: it was set before. MQ_EFULL, MQ_ENOMEM: no answer has changed. */
mq_status mq_bucket_set(mq_bucket *b, uint32_t local, mq_budget *budget, bool *seen);
/* Into the smallest form. scratch: 2^16 uint16s. MQ_EFULL, MQ_ENOMEM: as before. */
mq_status mq_bucket_pack(mq_bucket *b, mq_budget *budget, uint16_t *scratch);
void mq_bucket_clear(mq_bucket *b, mq_budget *budget);

/* Walk the ids, 2^16 of them at a time: key and its sorted low halves in scratch. */
typedef struct mq_bucket_walk {
    const mq_bucket *bucket;
    uint32_t at;
} mq_bucket_walk;
bool mq_bucket_next(mq_bucket_walk *walk, uint16_t *key, uint16_t *scratch, uint32_t *count);

/* The packed form of sorted low halves: kind << 14 | n, and the uint16s it takes in the payload. */
uint16_t mq_pack_choose(const uint16_t *lows, uint32_t count, uint32_t *payload);
void mq_pack_write(uint16_t meta, const uint16_t *lows, uint32_t count, uint16_t *to);
/* Low halves of a packed set; 0 if it breaks B2 (bytes from outside). */
uint32_t mq_pack_read(uint16_t meta, const uint16_t *from, uint16_t *lows);

/* Room for one more, growing by an eighth: a bucket is meant to be small, not quick to grow. */
static inline uint32_t mq_more_room(uint32_t room, uint32_t least)
{
    return room + (room / 8 > least ? room / 8 : least);
}

/* First index of sorted a[0 .. n) whose value is at least v; n if there is none. */
static inline uint32_t mq_lower_bound16(const uint16_t *a, uint32_t n, uint16_t v)
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

/* The common case in a few instructions: the slot of the last look-up, a leaf that reaches the id.
 * 0 new and set, 1 seen, -1 not answered (use mq_bucket_set). */
static inline int mq_bucket_set_fast(mq_bucket *b, uint32_t local)
{
    if (b->form != FORM_DIRECTORY)
        return -1;
    const mq_slot *slot = &b->u.slots[b->hint];
    if (slot->key != local >> 16 || slot->kind != SLOT_LEAVES)
        return -1;
    const uint32_t word = mq_leaf_word(slot->u.leaves, (uint16_t)local);
    if (word == UINT32_MAX)
        return -1;
    uint64_t *bits = &slot->u.leaves->bits[word];
    const uint64_t bit = 1ull << (local & 63);
    const int seen = (*bits & bit) != 0;
    *bits |= bit;
    b->count += 1u - (uint32_t)seen;
    return seen;
}

#endif
