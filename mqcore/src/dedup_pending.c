#include "dedup_pending.h"

#include <string.h>

#include "mqcore/hash.h"

enum { PENDING_EMPTY = -2, TABLE_BITS_START = 6 };

static size_t table_size(const mq_pending *p)
{
    return p->bits != 0 ? (size_t)1 << p->bits : 0;
}

static size_t home(const mq_pending *p, uint64_t high, uint64_t low)
{
    return (size_t)(mq_mix64(low ^ mq_mix64(high)) >> (64 - p->bits));
}

/* Place of id, or the free place where it would go; the table has a free place at all times. */
static size_t place(const mq_pending *p, uint64_t high, uint64_t low)
{
    const size_t mask = table_size(p) - 1;
    size_t at = home(p, high, low);
    while (p->table[at].offset != PENDING_EMPTY && (p->table[at].low != low || p->table[at].high != high))
        at = (at + 1) & mask;
    return at;
}

int64_t mq_pending_find(const mq_pending *p, uint64_t high, uint64_t low)
{
    return p->count == 0 ? PENDING_EMPTY : p->table[place(p, high, low)].offset;
}

static mq_status table_reserve(mq_pending *p, mq_budget *budget)
{
    if (p->bits != 0 && (p->count + 1) * 4 <= table_size(p) * 3)
        return MQ_OK;
    mq_pending grown = {.bits = p->bits != 0 ? p->bits + 1 : TABLE_BITS_START};
    void *block = NULL;
    const mq_status status = mq_budget_resize(budget, &block, 0, table_size(&grown) * sizeof(mq_pending_id));
    if (status != MQ_OK)
        return status;
    grown.table = block;
    for (size_t i = 0; i < table_size(&grown); i++)
        grown.table[i].offset = PENDING_EMPTY;
    for (size_t i = 0; i < table_size(p); i++)
        if (p->table[i].offset != PENDING_EMPTY)
            grown.table[place(&grown, p->table[i].high, p->table[i].low)] = p->table[i];
    block = p->table;
    mq_budget_resize(budget, &block, table_size(p) * sizeof(mq_pending_id), 0);
    p->table = grown.table;
    p->bits = grown.bits;
    return MQ_OK;
}

static void table_remove(mq_pending *p, uint64_t high, uint64_t low)
{
    const size_t mask = table_size(p) - 1;
    size_t hole = place(p, high, low), at = hole;
    for (;;) { /* pull back what would be cut off from its home by the hole */
        at = (at + 1) & mask;
        if (p->table[at].offset == PENDING_EMPTY)
            break;
        const size_t from = home(p, p->table[at].high, p->table[at].low);
        if (((at - from) & mask) >= ((at - hole) & mask)) {
            p->table[hole] = p->table[at];
            hole = at;
        }
    }
    p->table[hole].offset = PENDING_EMPTY;
    p->count--;
}

/* Index of the first tag >= tag. */
static uint32_t tag_at(const mq_pending *p, uint64_t tag)
{
    uint32_t low = 0, n = p->length;
    while (n > 0) {
        const uint32_t half = n / 2;
        if (p->tags[low + half].tag < tag) {
            low += half + 1;
            n -= half + 1;
        } else
            n = half;
    }
    return low;
}

const mq_pending_tag *mq_pending_get(const mq_pending *p, uint64_t tag)
{
    const uint32_t at = tag_at(p, tag);
    return at < p->length && p->tags[at].tag == tag ? &p->tags[at] : NULL;
}

mq_status mq_pending_add(mq_pending *p, uint64_t tag, uint64_t high, uint64_t low, int64_t offset, mq_budget *budget)
{
    mq_status status = table_reserve(p, budget);
    if (status != MQ_OK)
        return status;
    const uint32_t at = tag_at(p, tag);
    const bool known = at < p->length && p->tags[at].tag == tag;
    if (!known && p->length == p->room) {
        const uint32_t room = p->room + (p->room / 2 > 4 ? p->room / 2 : 4);
        void *block = p->tags;
        status = mq_budget_resize(budget, &block, p->room * sizeof(mq_pending_tag), room * sizeof(mq_pending_tag));
        p->tags = block;
        if (status != MQ_OK)
            return status;
        p->room = room;
    }
    mq_pending_tag fresh = {.tag = tag};
    mq_pending_tag *t = known ? &p->tags[at] : &fresh;
    if (t->length == t->room) {
        const uint32_t room = t->room + (t->room / 2 > 4 ? t->room / 2 : 4);
        void *block = t->ids;
        status = mq_budget_resize(budget, &block, t->room * sizeof(mq_pending_id), room * sizeof(mq_pending_id));
        t->ids = block;
        if (status != MQ_OK)
            return status;
        t->room = room;
    }
    t->ids[t->length++] = (mq_pending_id){high, low, offset};
    if (!known) {
        memmove(&p->tags[at + 1], &p->tags[at], (p->length - at) * sizeof(mq_pending_tag));
        p->tags[at] = fresh;
        p->length++;
    }
    p->table[place(p, high, low)] = (mq_pending_id){high, low, offset};
    p->count++;
    return MQ_OK;
}

uint32_t mq_pending_drop(mq_pending *p, uint64_t tag, mq_budget *budget)
{
    const uint32_t at = tag_at(p, tag);
    if (at == p->length || p->tags[at].tag != tag)
        return 0;
    mq_pending_tag *t = &p->tags[at];
    const uint32_t dropped = t->length;
    for (uint32_t i = 0; i < t->length; i++)
        table_remove(p, t->ids[i].high, t->ids[i].low);
    void *block = t->ids;
    mq_budget_resize(budget, &block, t->room * sizeof(mq_pending_id), 0);
    memmove(t, t + 1, (p->length - at - 1) * sizeof(mq_pending_tag));
    p->length--;
    return dropped;
}

void mq_pending_clear(mq_pending *p, mq_budget *budget)
{
    void *block;
    for (uint32_t i = 0; i < p->length; i++) {
        block = p->tags[i].ids;
        mq_budget_resize(budget, &block, p->tags[i].room * sizeof(mq_pending_id), 0);
    }
    block = p->tags;
    mq_budget_resize(budget, &block, p->room * sizeof(mq_pending_tag), 0);
    block = p->table;
    mq_budget_resize(budget, &block, table_size(p) * sizeof(mq_pending_id), 0);
    memset(p, 0, sizeof *p);
}
