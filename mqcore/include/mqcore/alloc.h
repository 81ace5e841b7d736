/* alloc.h -- the core's only way to the heap, so that a test can refuse the n-th allocation.
 * Invariants:
 *   I1  in a build without MQCORE_ALLOC_FAULT these are malloc, realloc and free, with no state at all.
 *   I2  with it, `mq_alloc_countdown` is thread-local: the n-th allocation *of this thread* fails, others never do.
 *       Each extension links its own core, so each has its own countdown.
 *   I3  a size of 0 gives a pointer that mq_free takes (never NULL for "no bytes": NULL always means ENOMEM). */
#ifndef MQCORE_ALLOC_H
#define MQCORE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef MQCORE_ALLOC_FAULT
/* 0: nothing fails; n > 0: the n-th allocation from now fails, and the countdown is 0 again. */
extern _Thread_local int64_t mq_alloc_countdown;

static inline bool mq_alloc_refused(void)
{
    return mq_alloc_countdown > 0 && --mq_alloc_countdown == 0;
}
#else
static inline bool mq_alloc_refused(void)
{
    return false;
}
#endif

static inline void *mq_alloc(size_t size)
{
    return mq_alloc_refused() ? NULL : malloc(size > 0 ? size : 1);
}

static inline void *mq_alloc_zeroed(size_t size)
{
    return mq_alloc_refused() ? NULL : calloc(size > 0 ? size : 1, 1);
}

/* As realloc: on NULL the old block is untouched and still the caller's. */
static inline void *mq_realloc(void *block, size_t size)
{
    return mq_alloc_refused() ? NULL : realloc(block, size > 0 ? size : 1);
}

static inline void mq_free(void *block)
{
    free(block);
}

#endif
