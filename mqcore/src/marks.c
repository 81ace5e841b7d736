#include "mqcore/marks.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

_Static_assert(sizeof(mq_marks_slot) == MQ_MARKS_SLOT, "a slot is one cache line");
_Static_assert(sizeof(mq_marks_header) <= MQ_MARKS_HEADER, "the header fits its page");

enum { SPINS = 10000 }; /* a writer is inside a slot for some 10 ns; with a yield each, this is long past any of them */

mq_status mq_marks_attach(mq_marks *marks, void *page, size_t size, bool is_private, mq_error *err)
{
    if (size < MQ_MARKS_HEADER || (uintptr_t)page % MQ_MARKS_SLOT != 0)
        return mq_fail(err, MQ_EINVAL, NULL, 0, "the marks page is too small");
    const size_t slots = (size - MQ_MARKS_HEADER) / MQ_MARKS_SLOT;
    marks->header = page;
    marks->slots = (mq_marks_slot *)(void *)((uint8_t *)page + MQ_MARKS_HEADER);
    marks->slot_limit = slots < MQ_MARKS_SLOTS ? (uint32_t)slots : MQ_MARKS_SLOTS;
    marks->is_private = is_private;
    return MQ_OK;
}

void mq_marks_format(mq_marks *marks, const uint8_t store_id[16], uint64_t nonce, int64_t pid)
{
    mq_marks_header *h = marks->header;
    memcpy(h->store_id, store_id, 16);
    h->nonce = nonce;
    h->pid = pid;
    atomic_thread_fence(memory_order_release);
    h->magic = MQ_MARKS_MAGIC;
}

bool mq_marks_matches(const mq_marks *marks, const uint8_t store_id[16])
{
    const mq_marks_header *h = marks->header;
    return h->magic == MQ_MARKS_MAGIC && memcmp(h->store_id, store_id, 16) == 0;
}

static uint32_t used_slots(const mq_marks *marks)
{
    const uint32_t used = atomic_load_explicit(&marks->header->used, memory_order_acquire);
    return used < marks->slot_limit ? used : marks->slot_limit; /* what a page says is checked before it is used */
}

int64_t mq_marks_find(const mq_marks *marks, const uint8_t topic_id[16], int32_t partition)
{
    const uint32_t used = used_slots(marks);
    for (uint32_t i = 0; i < used; i++)
        if (marks->slots[i].partition == partition && memcmp(marks->slots[i].topic_id, topic_id, 16) == 0)
            return i;
    return -1;
}

int64_t mq_marks_add(mq_marks *marks, const uint8_t topic_id[16], int32_t partition)
{
    const int64_t found = mq_marks_find(marks, topic_id, partition);
    const uint32_t used = used_slots(marks);
    if (found >= 0 || used == marks->slot_limit)
        return found;
    memcpy(marks->slots[used].topic_id, topic_id, 16);
    marks->slots[used].partition = partition;
    atomic_store_explicit(&marks->header->used, used + 1, memory_order_release); /* I3 */
    return used;
}

static _Atomic uint32_t *word_of(const mq_marks *marks, int64_t slot)
{
    return slot >= 0 && slot < marks->slot_limit ? &marks->slots[slot].word : &marks->header->word;
}

uint32_t mq_marks_word(const mq_marks *marks, int64_t slot)
{
    return atomic_load_explicit(word_of(marks, slot), memory_order_acquire);
}

static void wake(const mq_marks *marks, _Atomic uint32_t *word)
{
#ifdef __linux__
    syscall(SYS_futex, word, marks->is_private ? FUTEX_WAKE_PRIVATE : FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
#else
    (void)marks;
    (void)word;
#endif
}

void mq_marks_publish(mq_marks *marks, uint32_t slot, const int64_t values[4])
{
    assert(slot < marks->slot_limit);
    mq_marks_slot *s = &marks->slots[slot];
    const uint32_t sequence = atomic_load_explicit(&s->sequence, memory_order_relaxed);
    atomic_store_explicit(&s->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* no value is seen before the odd sequence */
    for (int i = 0; i < 4; i++)
        atomic_store_explicit(&s->values[i], values[i], memory_order_relaxed);
    atomic_store_explicit(&s->sequence, sequence + 2, memory_order_release);
    atomic_fetch_add_explicit(&s->word, 1, memory_order_release);
    atomic_fetch_add_explicit(&marks->header->word, 1, memory_order_release);
    wake(marks, &s->word);
    wake(marks, &marks->header->word);
}

mq_status mq_marks_read(const mq_marks *marks, uint32_t slot, int64_t values[4], mq_error *err)
{
    if (slot >= used_slots(marks))
        return mq_fail(err, MQ_EINVAL, NULL, slot, "no such slot of the marks page");
    mq_marks_slot *s = &marks->slots[slot];
    for (int spins = 0; spins < SPINS; spins++) {
        const uint32_t before = atomic_load_explicit(&s->sequence, memory_order_acquire);
        if (before % 2 == 0) {
            for (int i = 0; i < 4; i++)
                values[i] = atomic_load_explicit(&s->values[i], memory_order_relaxed);
            atomic_thread_fence(memory_order_acquire); /* the values, then the sequence again */
            if (atomic_load_explicit(&s->sequence, memory_order_relaxed) == before)
                return MQ_OK;
        }
        if (spins % 64 == 63)
            sched_yield(); /* the writer may have lost its processor */
    }
    return mq_fail(err, MQ_ESTATE, NULL, slot, "the writer of the marks page died inside a slot");
}

void mq_marks_end(mq_marks *marks, mq_marks_state state)
{
    atomic_store_explicit(&marks->header->state, (uint32_t)state, memory_order_release);
    const uint32_t used = used_slots(marks);
    for (int64_t slot = -1; slot < used; slot++) {
        atomic_fetch_add_explicit(word_of(marks, slot), 1, memory_order_release);
        wake(marks, word_of(marks, slot));
    }
}

void mq_marks_wake_all(const mq_marks *marks)
{
    const uint32_t used = used_slots(marks);
    for (int64_t slot = -1; slot < used; slot++)
        wake(marks, word_of(marks, slot));
}

int mq_marks_sleep(const mq_marks *marks, int64_t slot, uint32_t seen, int64_t deadline_ns)
{
    _Atomic uint32_t *word = word_of(marks, slot);
#ifdef __linux__
    const struct timespec deadline = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    const int operation = FUTEX_WAIT_BITSET | (marks->is_private ? FUTEX_PRIVATE_FLAG : 0);
    if (syscall(SYS_futex, word, operation, seen, deadline_ns < 0 ? NULL : &deadline, NULL, FUTEX_BITSET_MATCH_ANY) ==
            0 ||
        errno == EAGAIN)
        return 0;
    return errno;
#else
    struct timespec now;
    if (atomic_load_explicit(word, memory_order_acquire) != seen)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (deadline_ns >= 0 && (int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= deadline_ns)
        return ETIMEDOUT;
    const struct timespec nap = {0, 1000000};
    return nanosleep(&nap, NULL) == 0 ? 0 : EINTR;
#endif
}
