/* budget.h -- allocations that count against a cap (internal). A block counts as malloc takes it: its size, eight bytes
 * of header, rounded up to 16. */
#ifndef MQCORE_BUDGET_H
#define MQCORE_BUDGET_H

#include "mqcore/alloc.h"

#include "mqcore/status.h"

typedef struct mq_budget {
    size_t used;
    size_t max;
} mq_budget;

static inline size_t mq_block_bytes(size_t size)
{
    if (size == 0)
        return 0;
    const size_t whole = (size + 8 + 15) & ~(size_t)15;
    return whole < 32 ? 32 : whole;
}

/* realloc *block from old_size to new_size (0 frees). MQ_EFULL, MQ_ENOMEM: the block is as before. A block that
 * shrinks never fails for the cap. */
static inline mq_status mq_budget_resize(mq_budget *budget, void **block, size_t old_size, size_t new_size)
{
    const size_t before = mq_block_bytes(old_size), after = mq_block_bytes(new_size);
    if (new_size == 0) {
        mq_free(*block);
        *block = NULL;
        budget->used -= before;
        return MQ_OK;
    }
    if (after > before && after - before > budget->max - budget->used)
        return MQ_EFULL;
    void *moved = mq_realloc(*block, new_size);
    if (moved == NULL)
        return MQ_ENOMEM;
    *block = moved;
    budget->used = budget->used - before + after;
    return MQ_OK;
}

#endif
