/* producer_table.h -- what the files of producer_*.c share; no other file includes it.
 * A table of pointers (open addressing, a power of two, at most three quarters full) finds a producer by its id; two lists
 * order them: `open` by the first offset of their transaction, `idle` by when they wrote last.
 * I1  each producer is in exactly one list: in `open` while it has a transaction.
 * I2  ended transactions rise by marker and by first offset: one that began later and ended earlier than another is hidden
 *     by that and was dropped, so the front is always the oldest. */
#ifndef MQCORE_PRODUCER_TABLE_H
#define MQCORE_PRODUCER_TABLE_H

#include "mqcore/producer_state.h"

typedef struct mq_producer_entry {
    mq_producer producer; /* first: an entry is found by it */
    struct mq_producer_entry *before, *after;
} mq_producer_entry;

typedef struct mq_producer_list {
    mq_producer_entry *first, *last;
} mq_producer_list;

typedef struct mq_ended_txn {
    int64_t first_offset;
    int64_t marker_offset;
} mq_ended_txn;

struct mq_producers {
    mq_producer_entry **slots; /* NULL: none yet */
    uint32_t slot_bits;
    uint32_t limit;
    uint32_t count, open_count;
    mq_producer_list open, idle;
    mq_producer_entry *spare; /* reserved by a check; linked by `after` */
    uint32_t spare_count;
    mq_ended_txn *ended; /* [ended_first, ended_last) */
    size_t ended_first, ended_last, ended_room;
    int64_t next_offset;
};

static inline bool mq_in_txn(const mq_producer_entry *e)
{
    return e->producer.txn_first_offset >= 0;
}

mq_producer_entry *mq_producers_entry(const mq_producers *s, int64_t producer_id);
/* Room for `more` producers that are not there yet. */
mq_status mq_producers_reserve(mq_producers *s, uint32_t more, mq_error *err);
/* The producer's entry, made if it is not there: with epoch -1. NULL: no memory. */
mq_producer_entry *mq_producers_obtain(mq_producers *s, int64_t producer_id);
/* Take the producer out, and free it. */
void mq_producers_remove(mq_producers *s, mq_producer_entry *e);
/* Mark as the last to write. Only without a transaction. */
void mq_producers_touch(mq_producers *s, mq_producer_entry *e);
/* Begin a transaction; first_offset is above that of all others. */
void mq_producers_begin_txn(mq_producers *s, mq_producer_entry *e, int64_t first_offset);
mq_status mq_producers_reserve_ended(mq_producers *s, size_t more, mq_error *err);
/* End it, with the marker at `offset`. */
mq_status mq_producers_end_txn(mq_producers *s, mq_producer_entry *e, int64_t offset, mq_error *err);

#endif
