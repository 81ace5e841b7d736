/* marks.h -- the page in which one writer tells readers, in and across processes, how far each partition is.
 *
 * Layout (native byte order: the page lives in memory of one machine and is never believed after a reopen):
 *   header of 4096 bytes (mq_marks_header), then slots of 64 bytes (mq_marks_slot), one a partition.
 * Invariants:
 *   I1  a slot is a seqlock: `sequence` is odd while its writer is inside, and a reader takes only values between
 *       which `sequence` did not change, so it never sees a torn slot.
 *   I2  the words (global, and one a slot) are bumped after the slot is whole, then their sleepers are woken. Who reads
 *       a word, checks a condition, and sleeps on the value read, misses nothing.
 *   I3  slots are given out in order, `used` rises after a slot has its identity, and none is given out twice.
 *   I4  readers map the page for reading only; the writer alone writes, one thread at a time.
 * Sleeping is a futex, private in an anonymous page. Where there is none (not Linux), it is a sleep of a millisecond.
 */
#ifndef MQCORE_MARKS_H
#define MQCORE_MARKS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "mqcore/status.h"

#define MQ_MARKS_MAGIC 0x314b52414d514d00u /* "\0MQMARK1" */
enum {
    MQ_MARKS_HEADER = 4096,
    MQ_MARKS_SLOT = 64,
    MQ_MARKS_SLOTS = 131072 /* more than max.partitions; untouched slots take no memory */
};

typedef enum mq_marks_state { MQ_MARKS_OPEN = 0, MQ_MARKS_CLOSED = 1, MQ_MARKS_SUPERSEDED = 2 } mq_marks_state;

typedef struct mq_marks_header {
    uint64_t magic;
    uint8_t store_id[16];
    uint64_t nonce; /* of this writer */
    int64_t pid;    /* of the writer, to say who it is */
    _Atomic uint32_t state;
    _Atomic uint32_t used; /* slots given out */
    _Atomic uint32_t word; /* bumped by every publish */
} mq_marks_header;

typedef struct mq_marks_slot {
    _Atomic uint32_t sequence;
    _Atomic uint32_t word;
    uint8_t topic_id[16];
    int32_t partition;
    uint32_t reserved;
    _Atomic int64_t values[4]; /* log start, high watermark, last stable, log end: offsets */
} mq_marks_slot;

typedef struct mq_marks {
    mq_marks_header *header;
    mq_marks_slot *slots;
    uint32_t slot_limit; /* how many fit in the mapping */
    bool is_private;     /* anonymous: no other process sleeps on it */
} mq_marks;

static inline size_t mq_marks_bytes(uint32_t slots)
{
    return MQ_MARKS_HEADER + (size_t)slots * MQ_MARKS_SLOT;
}

/* View `size` bytes at `page` (aligned to 64). MQ_EINVAL: too small for a header. */
mq_status mq_marks_attach(mq_marks *marks, void *page, size_t size, bool is_private, mq_error *err);
/* Fill the header of a zeroed page: the magic last, so that a half-made page is none. */
void mq_marks_format(mq_marks *marks, const uint8_t store_id[16], uint64_t nonce, int64_t pid);
/* Whether the page is one of this store. */
bool mq_marks_matches(const mq_marks *marks, const uint8_t store_id[16]);

/* Writer: a slot for a partition, values 0. The one it has, if any. -1: all given out. */
int64_t mq_marks_add(mq_marks *marks, const uint8_t topic_id[16], int32_t partition);
/* The slot of a partition, or -1. Reads every slot once: for opening, not for polling. */
int64_t mq_marks_find(const mq_marks *marks, const uint8_t topic_id[16], int32_t partition);

/* Writer: set the values, bump the words, wake the sleepers. */
void mq_marks_publish(mq_marks *marks, uint32_t slot, const int64_t values[4]);
/* Read a slot untorn. MQ_ESTATE: its writer died inside. */
mq_status mq_marks_read(const mq_marks *marks, uint32_t slot, int64_t values[4], mq_error *err);

/* Set the state, bump all words, wake everyone. */
void mq_marks_end(mq_marks *marks, mq_marks_state state);

/* Wake everyone, all words as they are: for a reader that ends (its page is read-only). */
void mq_marks_wake_all(const mq_marks *marks);

/* The word of a slot, or the global one for slot -1 (or one that is out of range). */
uint32_t mq_marks_word(const mq_marks *marks, int64_t slot);
/* Sleep while the word is `seen`: at most until `deadline_ns` of CLOCK_MONOTONIC (< 0: no limit). 0: it changed or
 * may have; ETIMEDOUT; EINTR: a signal came. */
int mq_marks_sleep(const mq_marks *marks, int64_t slot, uint32_t seen, int64_t deadline_ns);

#endif
