/* dedup_pending.h -- ids of open transactions: by tag, and by id (internal to dedup).
 * Invariants:
 *   P1  an id stands under one tag at most; tags rise strictly
 *   P2  the table holds exactly the ids of the lists: count == sum of their lengths */
#ifndef MQCORE_DEDUP_PENDING_H
#define MQCORE_DEDUP_PENDING_H

#include <stdbool.h>

#include "budget.h"

typedef struct mq_pending_id {
    uint64_t high, low; /* a 64-bit id has high 0 */
    int64_t offset;
} mq_pending_id;

typedef struct mq_pending_tag {
    uint64_t tag;
    mq_pending_id *ids;
    uint32_t length, room;
} mq_pending_tag;

typedef struct mq_pending {
    mq_pending_tag *tags;
    uint32_t length, room;
    mq_pending_id *table; /* open addressing, linear probes, backward-shift deletion; offset PENDING_EMPTY: free */
    uint64_t count;
    uint32_t bits; /* 2^bits places, 0: none yet */
} mq_pending;

/* The offset of a pending id, or -2 if it is not pending. */
int64_t mq_pending_find(const mq_pending *p, uint64_t high, uint64_t low);
/* The id is not pending yet. MQ_EFULL, MQ_ENOMEM: nothing changed. */
mq_status mq_pending_add(mq_pending *p, uint64_t tag, uint64_t high, uint64_t low, int64_t offset, mq_budget *budget);
/* The ids of a tag; NULL if there are none. */
const mq_pending_tag *mq_pending_get(const mq_pending *p, uint64_t tag);
/* Forget a tag and its ids; returns how many. */
uint32_t mq_pending_drop(mq_pending *p, uint64_t tag, mq_budget *budget);
void mq_pending_clear(mq_pending *p, mq_budget *budget);

#endif
