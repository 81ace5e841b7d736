/* segment_state.h -- what the files of segment_*.c share about an open segment; no other file includes it.
 * The invariants are segment.h's; each field says which lock guards it. */
#ifndef MQCORE_SEGMENT_STATE_H
#define MQCORE_SEGMENT_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "mqcore/header_walk.h"
#include "mqcore/segment.h"
#include "mqcore/segment_index.h"

enum { HINTS = 4 };

/* The batch that starts at position is the first with an offset >= offset: where a reader stopped and will go on. */
typedef struct mq_hint {
    int64_t offset;
    uint64_t position;
} mq_hint;

typedef struct mq_extent {
    uint64_t size;
    int64_t next_offset;
    unsigned truncations;
} mq_extent;

struct mq_segment {
    /* constant */
    mq_io *io;
    char *path;  /* of the .log file */
    size_t stem; /* length of path without ".log" */
    int64_t base_offset;
    mq_segment_limits limits;
    bool writable;

    pthread_mutex_t write_lock;
    pthread_mutex_t sync_lock; /* one fsync at a time: a second descriptor user must not miss the first one's error */
    pthread_mutex_t lock;

    atomic_uint_fast64_t written_bytes;
    atomic_uint_fast64_t flushed_bytes;
    atomic_uint_fast64_t viewed_bytes; /* greatest end that was mapped for a reader */
    atomic_int_fast64_t next_offset;
    atomic_int failed; /* 0, or the errno of the fsync that failed (I4) */
    atomic_bool sealed;
    atomic_bool closed;
    atomic_bool dirty;                 /* bytes were written since the last fdatasync began */
    atomic_uint_fast64_t loaded_bytes; /* size for which `index` is right; UINT64_MAX: never loaded */

    /* write_lock */
    uint64_t allocated_bytes; /* no fallocate before the data reaches this */
    bool no_fallocate;        /* the file system has none */
    bool untrimmed;           /* the file may have bytes or blocks past written_bytes */
    bool torn;                /* ... and they may be batches: a write failed, and then the cut */
    bool failed_write;        /* what one left was cut off, perhaps not durably */
    bool txn_dirty;
    uint64_t spill_bytes; /* spill when a tail is this long: rises after a failed spill */

    /* lock */
    int fd;         /* -1: not open */
    uint64_t inode; /* of the file that a reader opened first, 0: none yet */
    unsigned fd_users;
    bool fd_drop;           /* close when the last user is done */
    mq_segment_index index; /* tails and counts; pending entries are the writer's */
    mq_hint hints[HINTS];
    unsigned next_hint;
    unsigned truncations; /* a hint found before one is not believed after it */
};

static inline uint64_t mq_seg_written(const mq_segment *segment)
{
    return atomic_load_explicit(&((mq_segment *)segment)->written_bytes, memory_order_acquire);
}

static inline int64_t mq_seg_next(const mq_segment *segment)
{
    return (int64_t)atomic_load_explicit(&((mq_segment *)segment)->next_offset, memory_order_acquire);
}

/* The descriptor of the log, opened by need; each success is paired with mq_seg_put_fd. */
mq_status mq_seg_get_fd(mq_segment *segment, int *fd, mq_error *err);
void mq_seg_put_fd(mq_segment *segment);

/* Path of a file beside the log, `suffix` instead of ".log"; MQ_EINVAL: too long for MQ_PATH_MAX. */
mq_status mq_seg_sibling(const mq_segment *segment, const char *suffix, char path[], mq_error *err);

/* Read what the index files say, check it against headers, redo what they lack (write_lock held). */
mq_status mq_seg_load(mq_segment *segment, mq_error *err);
/* Forget the loaded index: the next load starts from the files (write_lock held). */
void mq_seg_unload(mq_segment *segment);

/* Start a walk at the newest batch whose last offset is <= offset and position <= max_position, as far as the index
 * knows one, else at 0; *stepped: the walk stands on that batch. */
void mq_seg_floor(mq_segment *segment, mq_walk *walk, int fd, int64_t offset, uint64_t max_position, uint64_t end,
                  bool *stepped);
void mq_seg_clear_hints(mq_segment *segment);
/* Size and next offset that belong together. */
mq_extent mq_seg_extent(mq_segment *segment);

/* Cut off what a failed write left (write_lock held). Nothing left: nothing. */
mq_status mq_seg_trim(mq_segment *segment, mq_error *err);
/* fdatasync of what is written, once (segment_flush without the closed check). */
mq_status mq_seg_sync(mq_segment *segment, mq_error *err);
/* Write both index tails to their files (write_lock held, index loaded); durable: fsync, and cut what is too long. */
mq_status mq_seg_spill(mq_segment *segment, bool durable, mq_error *err);
/* The last time entry, the spill, and the end of the spare space: what seal and close share (write_lock held). */
mq_status mq_seg_finish(mq_segment *segment, bool durable, mq_error *err);

/* The error of calls on a segment that cannot be written: closed, sealed, read-only (MQ_ESTATE) or failed (MQ_EIO). */
mq_status mq_seg_writable(mq_segment *segment, mq_error *err);
mq_status mq_seg_open_state(const mq_segment *segment, mq_error *err);

#endif
