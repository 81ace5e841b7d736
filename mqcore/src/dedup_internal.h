/* dedup_internal.h -- the dedup set as dedup.c and dedup_snapshot.c share it. */
#ifndef MQCORE_DEDUP_INTERNAL_H
#define MQCORE_DEDUP_INTERNAL_H

#include "dedup_bucket.h"
#include "dedup_pending.h"
#include "mqcore/dedup.h"

enum { OPEN_BUCKETS = 4, REOPENED_GRACE = 64 };

struct mq_dedup {
    mq_dedup_config config;
    uint32_t shift; /* id >> shift is the bucket's number */
    mq_budget budget;
    mq_bucket **table; /* by number: open addressing, never more than 3/4 full */
    uint32_t bits, count;
    uint64_t ids;
    mq_bucket *last; /* the bucket of the last id; never NULL once there is one */
    uint32_t clock;  /* counts new buckets */
    mq_bucket *open; /* list of the open ones */
    uint32_t open_count;
    mq_pending pending;
    uint16_t *scratch; /* 2^16 uint16s for packing */
};

/* The bucket with that number, or NULL. */
mq_bucket *mq_dedup_bucket(const mq_dedup *d, int64_t number);
/* A new, empty bucket; the number has none. NULL: *status says why. */
mq_bucket *mq_dedup_add_bucket(mq_dedup *d, int64_t number, mq_status *status);

#endif
