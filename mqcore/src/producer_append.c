/* What producer_state.h does with batches: judge those that come, take in those that are in the log. */
#include <assert.h>
#include <fcntl.h>
#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/control_marker.h"
#include "mqcore/header_walk.h"
#include "producer_table.h"

/* Sequences go from INT32_MAX to 0 (Kafka's DefaultRecordBatch.incrementSequence). */
static int32_t sequence_after(int32_t sequence, int64_t count)
{
    return (int32_t)((sequence + count) & INT32_MAX);
}

static int32_t last_sequence_of(const mq_batch *b)
{
    return b->base_sequence < 0 ? -1 : sequence_after(b->base_sequence, b->last_offset_delta);
}

/* The next sequence of a producer in its epoch. */
static int32_t expected_of(const mq_producer *p)
{
    return p->batch_count == 0 ? 0 : sequence_after(p->batches[p->batch_count - 1].last_sequence, 1);
}

/* Whether `sequence` lies before `next`: as numbers on a circle, nearer behind than ahead. */
static bool is_before(int32_t sequence, int32_t next)
{
    return ((uint32_t)(next - 1 - sequence) & INT32_MAX) < (uint32_t)1 << 30;
}

/* ---- checking ---- */

/* A producer as it stands after the batches of the chunk that were looked at. */
typedef struct standing {
    int64_t producer_id;
    int16_t epoch; /* -1: nothing is known of it */
    bool any;      /* any sequence will do */
    bool in_txn;
    int32_t expected; /* its next sequence */
} standing;

typedef struct check {
    mq_producers *s;
    mq_sequence_answer *answer;
    standing ids[MQ_PRODUCERS_PER_CHUNK];
    uint32_t count, unknown, markers;
} check;

static standing *standing_of(check *c, int64_t producer_id)
{
    for (uint32_t i = c->count; i-- > 0;)
        if (c->ids[i].producer_id == producer_id)
            return &c->ids[i];
    if (c->count == MQ_PRODUCERS_PER_CHUNK)
        return NULL;
    const mq_producer *p = mq_producers_find(c->s, producer_id);
    standing *at = &c->ids[c->count++];
    *at = (standing){.producer_id = producer_id, .epoch = -1, .any = true};
    if (p == NULL)
        c->unknown++;
    else
        *at = (standing){producer_id, p->epoch, p->epoch < 0, p->txn_first_offset >= 0, expected_of(p)};
    return at;
}

/* The verdict on the next batch; NEW: `at` has moved on. */
static mq_sequence_verdict judge(standing *at, const mq_batch *b)
{
    if (b->producer_epoch < at->epoch)
        return MQ_SEQUENCE_STALE;
    const bool newer = b->producer_epoch > at->epoch;
    if (b->attributes & MQ_ATTR_CONTROL) {
        at->in_txn = false;
    } else {
        const int32_t expected = newer ? 0 : at->expected;
        if (b->base_sequence >= 0 && !at->any && b->base_sequence != expected)
            return !newer && is_before(last_sequence_of(b), expected) ? MQ_SEQUENCE_OLD : MQ_SEQUENCE_GAP;
        if (at->in_txn && (b->attributes & MQ_ATTR_TRANSACTIONAL) == 0)
            return MQ_SEQUENCE_IN_TXN;
        at->in_txn |= (b->attributes & MQ_ATTR_TRANSACTIONAL) != 0;
    }
    if (newer) {
        at->epoch = b->producer_epoch;
        at->expected = 0;
    }
    if (b->base_sequence >= 0 && (b->attributes & MQ_ATTR_CONTROL) == 0) {
        at->expected = sequence_after(last_sequence_of(b), 1);
        at->any = false;
    }
    return MQ_SEQUENCE_NEW;
}

static void answer_about(mq_sequence_answer *answer, mq_sequence_verdict verdict, const mq_batch *b, const standing *at)
{
    answer->verdict = verdict;
    answer->producer_id = b->producer_id;
    answer->epoch = b->producer_epoch;
    answer->sequence = b->base_sequence;
    answer->known_epoch = at != NULL ? at->epoch : -1;
    answer->expected = at == NULL || b->producer_epoch > at->epoch ? 0 : at->expected;
}

/* Whether the chunk, whose batches follow each other from `first` to `last`, is stored already. */
static bool is_repeated(const mq_producers *s, const mq_batch *first, const mq_batch *last, int64_t offsets,
                        mq_sequence_answer *answer)
{
    const mq_producer *p = mq_producers_find(s, last->producer_id);
    if (p == NULL || p->epoch != last->producer_epoch || last->base_sequence < 0)
        return false;
    for (unsigned i = p->batch_count; i-- > 0;) {
        const mq_producer_batch *b = &p->batches[i];
        if (b->last_sequence != last_sequence_of(last) || b->offset_delta != last->last_offset_delta)
            continue;
        if (b->last_offset - offsets + 1 < 0)
            return false;
        answer_about(answer, MQ_SEQUENCE_DUPLICATE, first, NULL);
        answer->next_offset = b->last_offset + 1;
        answer->base_offset = answer->next_offset - offsets;
        answer->timestamp = b->timestamp;
        return true;
    }
    return false;
}

/* Whether b goes on where `last` ended. */
static bool follows(const mq_batch *last, const mq_batch *b)
{
    return b->producer_id == last->producer_id && b->producer_epoch == last->producer_epoch &&
           b->base_sequence == sequence_after(last_sequence_of(last), 1);
}

mq_status mq_producers_check(mq_producers *s, const uint8_t *bytes, size_t size, mq_sequence_answer *answer,
                             mq_error *err)
{
    check c;
    mq_batch first, last, b;
    bool chained = true;
    int64_t offsets = 0;
    c.s = s;
    c.answer = answer;
    c.count = c.unknown = c.markers = 0;
    *answer = (mq_sequence_answer){.verdict = MQ_SEQUENCE_NONE, .producer_id = -1};
    for (size_t at = 0; at < size; at += b.size) {
        const mq_status status = mq_batch_parse(bytes + at, size - at, MQ_BATCH_BYTES_MAX, &b, err);
        if (status != MQ_OK)
            return status;
        chained &= (at == 0 || follows(&last, &b)) && (b.attributes & MQ_ATTR_CONTROL) == 0;
        if (at == 0)
            first = b;
        last = b;
        offsets += (int64_t)b.last_offset_delta + 1;
        if (b.producer_id < 0)
            continue;
        answer->transactional |= (b.attributes & MQ_ATTR_TRANSACTIONAL) != 0;
        c.markers += (b.attributes & MQ_ATTR_CONTROL) != 0;
        if (answer->verdict > MQ_SEQUENCE_NEW)
            continue; /* refused, unless all of it is a repetition */
        standing *known = standing_of(&c, b.producer_id);
        const mq_sequence_verdict verdict = known != NULL ? judge(known, &b) : MQ_SEQUENCE_TOO_MANY_IDS;
        answer_about(answer, verdict, &b, known);
    }
    if (answer->verdict <= MQ_SEQUENCE_NONE || (chained && is_repeated(s, &first, &last, offsets, answer)))
        return MQ_OK;
    if (answer->verdict != MQ_SEQUENCE_NEW || (c.unknown == 0 && c.markers == 0))
        return MQ_OK;
    if ((uint64_t)s->open_count + c.unknown > s->limit)
        return mq_fail(err, MQ_EFULL, NULL, 0, "every producer that may be remembered has an open transaction");
    const mq_status status = mq_producers_reserve(s, c.unknown, err);
    return status == MQ_OK && c.markers > 0 ? mq_producers_reserve_ended(s, c.markers, err) : status;
}

/* ---- adding ---- */

static void remember(mq_producer *p, const mq_batch *b)
{
    if (p->batch_count == MQ_PRODUCER_BATCHES)
        memmove(p->batches, p->batches + 1, sizeof p->batches - sizeof p->batches[0]);
    else
        p->batch_count++;
    p->batches[p->batch_count - 1] = (mq_producer_batch){
        .last_offset = mq_batch_last_offset(b),
        .timestamp = b->max_timestamp,
        .last_sequence = last_sequence_of(b),
        .offset_delta = b->last_offset_delta,
    };
}

static void heard_of(mq_producer *p, int16_t epoch, int64_t timestamp, int64_t now_ms)
{
    if (epoch > p->epoch) {
        p->epoch = epoch;
        p->batch_count = 0;
    }
    p->last_timestamp = timestamp;
    const int64_t at = timestamp > now_ms ? timestamp : now_ms;
    if (at > p->active_ms)
        p->active_ms = at;
}

static mq_status add_marker(mq_producers *s, mq_producer_entry *e, const mq_batch *b, const mq_marker_content *marker,
                            mq_txn_entry *aborted, mq_error *err)
{
    const int64_t offset = mq_batch_last_offset(b);
    mq_txn_entry ended = {b->producer_id, -1, offset, offset + 1};
    if (!mq_producers_end_of(s, b->producer_id, offset, &ended) && s->open.first != NULL)
        ended.last_stable_offset = s->open.first->producer.txn_first_offset;
    if (mq_in_txn(e)) {
        const mq_status status = mq_producers_end_txn(s, e, offset, err);
        if (status != MQ_OK)
            return status;
    } else {
        mq_producers_touch(s, e);
    }
    if (marker->coordinator_epoch > e->producer.coordinator_epoch)
        e->producer.coordinator_epoch = marker->coordinator_epoch;
    if (marker->type == MQ_MARKER_ABORT && aborted != NULL)
        *aborted = ended;
    return MQ_OK;
}

mq_status mq_producers_add_batch(mq_producers *s, const mq_batch *batch, const uint8_t *body, size_t body_size,
                                 int64_t now_ms, mq_txn_entry *aborted, mq_error *err)
{
    if (aborted != NULL)
        aborted->producer_id = -1;
    const int64_t next_offset = mq_batch_last_offset(batch) + 1;
    if (next_offset <= s->next_offset)
        return MQ_OK; /* I1 */
    const bool control = (batch->attributes & MQ_ATTR_CONTROL) != 0;
    const mq_marker_content marker =
        control ? mq_marker_read(batch, body, body_size) : (mq_marker_content){MQ_MARKER_OTHER, -1};
    if (batch->producer_id >= 0 && (!control || marker.type != MQ_MARKER_OTHER)) {
        mq_producer_entry *e = mq_producers_obtain(s, batch->producer_id);
        if (e == NULL)
            return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state");
        if (control) {
            const mq_status status = add_marker(s, e, batch, &marker, aborted, err);
            if (status != MQ_OK)
                return status;
        } else if (mq_in_txn(e)) {
            /* its place among the open ones stays */
        } else if (batch->attributes & MQ_ATTR_TRANSACTIONAL) {
            mq_producers_begin_txn(s, e, batch->base_offset);
        } else {
            mq_producers_touch(s, e);
        }
        const bool late = batch->producer_epoch < e->producer.epoch; /* not by us: an unclean election of Kafka's */
        heard_of(&e->producer, batch->producer_epoch, batch->max_timestamp, now_ms);
        if (!control && batch->base_sequence >= 0 && !late)
            remember(&e->producer, batch);
    }
    s->next_offset = next_offset;
    return MQ_OK;
}

mq_status mq_producers_add(mq_producers *s, const uint8_t *bytes, size_t size, int64_t now_ms, mq_error *err)
{
    mq_batch b;
    for (size_t at = 0; at < size; at += b.size) {
        mq_status status = mq_batch_parse(bytes + at, size - at, MQ_BATCH_BYTES_MAX, &b, err);
        if (status == MQ_OK)
            status = mq_producers_add_batch(s, &b, bytes + at + MQ_BATCH_HEADER, b.size - MQ_BATCH_HEADER, now_ms, NULL,
                                            err);
        if (status != MQ_OK)
            return status;
    }
    return MQ_OK;
}

mq_status mq_producers_fence(mq_producers *s, int64_t producer_id, int16_t epoch, int32_t coordinator_epoch,
                             int64_t now_ms, mq_error *err)
{
    mq_producer_entry *e = mq_producers_obtain(s, producer_id);
    if (e == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state");
    if (!mq_in_txn(e))
        mq_producers_touch(s, e);
    heard_of(&e->producer, epoch, e->producer.last_timestamp, now_ms);
    if (coordinator_epoch > e->producer.coordinator_epoch)
        e->producer.coordinator_epoch = coordinator_epoch;
    return MQ_OK;
}

/* ---- from a file ---- */

static mq_status walk(mq_producers *s, mq_walk *w, mq_error *err)
{
    mq_status status;
    while ((status = mq_walk_next(w, err)) == MQ_OK) {
        uint8_t body[MQ_MARKER_BODY_MAX];
        size_t size = 0;
        if (w->batch.attributes & MQ_ATTR_CONTROL) {
            size = w->batch.size - MQ_BATCH_HEADER;
            if (size > sizeof body)
                size = sizeof body;
            status = mq_io_read_all(w->io, w->fd, body, size, w->at + MQ_BATCH_HEADER, w->path, err);
        }
        if (status == MQ_OK)
            status = mq_producers_add_batch(s, &w->batch, body, size, -1, NULL, err);
        if (status != MQ_OK)
            return status;
    }
    return status == MQ_ENOTFOUND ? MQ_OK : status;
}

mq_status mq_producers_walk(mq_producers *s, mq_io *io, const char *path, uint64_t position, uint64_t end,
                            mq_error *err)
{
    int fd;
    mq_status status = mq_io_open(io, path, O_RDONLY, 0, &fd, err);
    if (status != MQ_OK)
        return status;
    mq_walk *w = mq_alloc(sizeof *w);
    if (w == NULL) {
        status = mq_fail(err, MQ_ENOMEM, path, position, "no memory to read batch headers");
    } else {
        mq_walk_start(w, io, fd, path, position, end);
        status = walk(s, w, err);
    }
    mq_free(w);
    mq_io_close(io, fd);
    return status;
}
