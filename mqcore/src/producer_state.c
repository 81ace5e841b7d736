/* The table and the lists of producer_state.h: find, make, forget; transactions; the last stable offset. */
#include <string.h>

#include "budget.h"
#include "producer_table.h"

enum { SLOT_BITS_FIRST = 3 };

_Static_assert(sizeof(mq_producer_entry) + 16 + 3 * sizeof(void *) <= MQ_PRODUCER_BYTES_MAX, "I4 of producer_state.h");

mq_producers *mq_producers_new(uint32_t limit)
{
    mq_producers *s = mq_alloc_zeroed(sizeof *s);
    if (s != NULL)
        mq_producers_set_limit(s, limit);
    return s;
}

void mq_producers_set_limit(mq_producers *s, uint32_t limit)
{
    s->limit = limit > 0 ? limit : 1;
}

static void free_list(mq_producer_entry *e)
{
    while (e != NULL) {
        mq_producer_entry *after = e->after;
        mq_free(e);
        e = after;
    }
}

void mq_producers_free(mq_producers *s)
{
    if (s == NULL)
        return;
    free_list(s->open.first);
    free_list(s->idle.first);
    free_list(s->spare);
    mq_free(s->slots);
    mq_free(s->ended);
    mq_free(s);
}

/* ---- table ---- */

/* Ids are consecutive numbers, or any: Fibonacci hashing spreads both. */
static size_t slot_of(const mq_producers *s, int64_t producer_id)
{
    return (size_t)(((uint64_t)producer_id * UINT64_C(0x9E3779B97F4A7C15)) >> (64 - s->slot_bits));
}

static size_t slot_mask(const mq_producers *s)
{
    return ((size_t)1 << s->slot_bits) - 1;
}

/* Where the producer is, or the free slot where it would go. */
static size_t find_slot(const mq_producers *s, int64_t producer_id)
{
    size_t at = slot_of(s, producer_id);
    while (s->slots[at] != NULL && s->slots[at]->producer.producer_id != producer_id)
        at = (at + 1) & slot_mask(s);
    return at;
}

mq_producer_entry *mq_producers_entry(const mq_producers *s, int64_t producer_id)
{
    return s->slots == NULL ? NULL : s->slots[find_slot(s, producer_id)];
}

const mq_producer *mq_producers_find(const mq_producers *s, int64_t producer_id)
{
    const mq_producer_entry *e = mq_producers_entry(s, producer_id);
    return e == NULL ? NULL : &e->producer;
}

static mq_status resize_table(mq_producers *s, uint32_t bits, mq_error *err)
{
    mq_producer_entry **old = s->slots;
    const size_t old_slots = old == NULL ? 0 : (size_t)1 << s->slot_bits;
    mq_producer_entry **slots = mq_alloc_zeroed(sizeof *slots << bits);
    if (slots == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state");
    s->slots = slots;
    s->slot_bits = bits;
    for (size_t i = 0; i < old_slots; i++)
        if (old[i] != NULL)
            s->slots[find_slot(s, old[i]->producer.producer_id)] = old[i];
    mq_free(old);
    return MQ_OK;
}

mq_status mq_producers_reserve(mq_producers *s, uint32_t more, mq_error *err)
{
    const uint64_t wanted = (uint64_t)s->count + more;
    uint32_t bits = s->slots == NULL ? SLOT_BITS_FIRST : s->slot_bits;
    while (wanted * 4 > ((uint64_t)3 << bits))
        bits++;
    if (s->slots == NULL || bits > s->slot_bits) {
        const mq_status status = resize_table(s, bits, err);
        if (status != MQ_OK)
            return status;
    }
    while (s->spare_count < more) {
        mq_producer_entry *e = mq_alloc(sizeof *e);
        if (e == NULL)
            return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state");
        e->after = s->spare;
        s->spare = e;
        s->spare_count++;
    }
    return MQ_OK;
}

/* ---- lists ---- */

static void unlink_from(mq_producer_list *list, mq_producer_entry *e)
{
    *(e->before != NULL ? &e->before->after : &list->first) = e->after;
    *(e->after != NULL ? &e->after->before : &list->last) = e->before;
}

static void link_last(mq_producer_list *list, mq_producer_entry *e)
{
    e->before = list->last;
    e->after = NULL;
    *(list->last != NULL ? &list->last->after : &list->first) = e;
    list->last = e;
}

void mq_producers_touch(mq_producers *s, mq_producer_entry *e)
{
    unlink_from(&s->idle, e);
    link_last(&s->idle, e);
}

/* ---- producers ---- */

void mq_producers_remove(mq_producers *s, mq_producer_entry *e)
{
    size_t hole = find_slot(s, e->producer.producer_id);
    const size_t mask = slot_mask(s);
    /* Close the gap: who stands behind it and belongs before it moves up. */
    for (size_t at = (hole + 1) & mask; s->slots[at] != NULL; at = (at + 1) & mask) {
        const size_t home = slot_of(s, s->slots[at]->producer.producer_id);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            s->slots[hole] = s->slots[at];
            hole = at;
        }
    }
    s->slots[hole] = NULL;
    s->count--;
    s->open_count -= mq_in_txn(e);
    unlink_from(mq_in_txn(e) ? &s->open : &s->idle, e);
    mq_free(e);
}

mq_producer_entry *mq_producers_obtain(mq_producers *s, int64_t producer_id)
{
    mq_producer_entry *e = mq_producers_entry(s, producer_id);
    if (e != NULL)
        return e;
    if (mq_producers_reserve(s, 1, NULL) != MQ_OK)
        return NULL;
    while (s->count >= s->limit && s->idle.first != NULL)
        mq_producers_remove(s, s->idle.first);
    e = s->spare;
    s->spare = e->after;
    s->spare_count--;
    memset(e, 0, sizeof *e);
    e->producer = (mq_producer){
        .producer_id = producer_id,
        .last_timestamp = -1,
        .active_ms = -1,
        .txn_first_offset = -1,
        .coordinator_epoch = -1,
        .epoch = -1,
    };
    s->slots[find_slot(s, producer_id)] = e;
    s->count++;
    link_last(&s->idle, e);
    return e;
}

size_t mq_producers_expire(mq_producers *s, int64_t before_ms)
{
    size_t gone = 0;
    for (mq_producer_entry *e = s->idle.first, *after; e != NULL; e = after) {
        after = e->after;
        if (e->producer.active_ms < before_ms) {
            mq_producers_remove(s, e);
            gone++;
        }
    }
    uint32_t bits = s->slot_bits;
    while (bits > SLOT_BITS_FIRST && (uint64_t)s->count * 8 < ((uint64_t)3 << bits))
        bits--;
    if (gone > 0 && bits < s->slot_bits)
        (void)resize_table(s, bits, NULL); /* without memory it stays as large as it is */
    return gone;
}

/* ---- transactions ---- */

void mq_producers_begin_txn(mq_producers *s, mq_producer_entry *e, int64_t first_offset)
{
    unlink_from(&s->idle, e);
    link_last(&s->open, e);
    e->producer.txn_first_offset = first_offset;
    s->open_count++;
}

mq_status mq_producers_reserve_ended(mq_producers *s, size_t more, mq_error *err)
{
    if (more <= s->ended_room - s->ended_last)
        return MQ_OK;
    const size_t kept = s->ended_last - s->ended_first;
    if (kept > 0)
        memmove(s->ended, s->ended + s->ended_first, kept * sizeof *s->ended);
    s->ended_first = 0;
    s->ended_last = kept;
    if (more <= s->ended_room / 2 && kept <= s->ended_room / 2)
        return MQ_OK;
    const size_t room = (s->ended_room > kept + more ? s->ended_room : kept + more) * 2;
    mq_ended_txn *ended = mq_realloc(s->ended, room * sizeof *ended);
    if (ended == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for ended transactions");
    s->ended = ended;
    s->ended_room = room;
    return MQ_OK;
}

mq_status mq_producers_end_txn(mq_producers *s, mq_producer_entry *e, int64_t offset, mq_error *err)
{
    const mq_status status = mq_producers_reserve_ended(s, 1, err);
    if (status != MQ_OK)
        return status;
    const int64_t first_offset = e->producer.txn_first_offset;
    while (s->ended_last > s->ended_first && s->ended[s->ended_last - 1].first_offset > first_offset)
        s->ended_last--;
    s->ended[s->ended_last++] = (mq_ended_txn){first_offset, offset};
    unlink_from(&s->open, e);
    link_last(&s->idle, e);
    e->producer.txn_first_offset = -1;
    s->open_count--;
    return MQ_OK;
}

bool mq_producers_end_of(const mq_producers *s, int64_t producer_id, int64_t offset, mq_txn_entry *ended)
{
    const mq_producer_entry *e = mq_producers_entry(s, producer_id);
    if (e == NULL || !mq_in_txn(e))
        return false;
    const mq_producer_entry *oldest = s->open.first == e ? e->after : s->open.first;
    *ended = (mq_txn_entry){
        .producer_id = producer_id,
        .first_offset = e->producer.txn_first_offset,
        .last_offset = offset,
        .last_stable_offset = oldest != NULL ? oldest->producer.txn_first_offset : offset + 1,
    };
    return true;
}

bool mq_producers_unstable(const mq_producers *s)
{
    return s->open.first != NULL || s->ended_last > s->ended_first;
}

int64_t mq_producers_stable_end(mq_producers *s, int64_t mark)
{
    while (s->ended_first < s->ended_last && s->ended[s->ended_first].marker_offset < mark)
        s->ended_first++;
    int64_t end = mark;
    if (s->ended_first < s->ended_last && s->ended[s->ended_first].first_offset < end)
        end = s->ended[s->ended_first].first_offset;
    if (s->open.first != NULL && s->open.first->producer.txn_first_offset < end)
        end = s->open.first->producer.txn_first_offset;
    return end;
}

/* ---- numbers ---- */

int64_t mq_producers_next_offset(const mq_producers *s)
{
    return s->next_offset;
}

void mq_producers_moved(mq_producers *s, int64_t next_offset)
{
    s->next_offset = next_offset;
}

uint32_t mq_producers_count(const mq_producers *s)
{
    return s->count;
}

uint32_t mq_producers_open_count(const mq_producers *s)
{
    return s->open_count;
}

size_t mq_producers_bytes(const mq_producers *s)
{
    const size_t slots = s->slots == NULL ? 0 : sizeof(mq_producer_entry *) << s->slot_bits;
    return mq_block_bytes(sizeof *s) + mq_block_bytes(slots) +
           ((size_t)s->count + s->spare_count) * mq_block_bytes(sizeof(mq_producer_entry)) +
           mq_block_bytes(s->ended_room * sizeof *s->ended);
}

const mq_producer *mq_producers_each(const mq_producers *s, const mq_producer *last)
{
    const mq_producer_entry *e = (const mq_producer_entry *)last;
    if (e == NULL)
        e = s->open.first != NULL ? s->open.first : s->idle.first;
    else
        e = e->after != NULL ? e->after : mq_in_txn(e) ? s->idle.first : NULL;
    return e == NULL ? NULL : &e->producer;
}
