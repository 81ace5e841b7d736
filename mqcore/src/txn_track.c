#include "mqcore/txn_track.h"

#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/wire.h"

void mq_txn_track_free(mq_txn_track *track)
{
    mq_free(track->open);
    mq_free(track->aborted);
    *track = (mq_txn_track){0};
}

/* Number of open transactions with a lower producer id. */
static size_t place_of(const mq_txn_track *track, int64_t producer_id)
{
    size_t low = 0;
    size_t high = track->open_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (track->open[middle].producer_id < producer_id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Room for one more element; NULL: no memory. */
static void *grown(void *list, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return list;
    const size_t wanted = *capacity > 0 ? *capacity * 2 : 16;
    void *larger = mq_realloc(list, wanted * size);
    if (larger != NULL)
        *capacity = wanted;
    return larger;
}

mq_status mq_txn_track_open(mq_txn_track *track, int64_t producer_id, int64_t first_offset, mq_error *err)
{
    const size_t place = place_of(track, producer_id);
    if (place < track->open_count && track->open[place].producer_id == producer_id)
        return MQ_OK; /* I1 */
    mq_open_txn *open = grown(track->open, track->open_count, &track->open_capacity, sizeof *open);
    if (open == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for open transactions");
    track->open = open;
    memmove(open + place + 1, open + place, (track->open_count - place) * sizeof *open);
    open[place] = (mq_open_txn){producer_id, first_offset};
    track->open_count++;
    return MQ_OK;
}

int mq_marker_kind(const uint8_t *body, size_t size)
{
    mq_wire w = mq_wire_of(body, size);
    mq_wire_varint(&w); /* length */
    mq_wire_u8(&w);     /* attributes */
    mq_wire_varlong(&w);
    mq_wire_varint(&w); /* offset delta */
    const int32_t key = mq_wire_varint(&w);
    if (w.failed || key < 4 || !mq_wire_need(&w, 4))
        return MQ_MARKER_OTHER;
    const uint16_t type = mq_load_be16(w.at + 2);
    return type == MQ_MARKER_ABORT || type == MQ_MARKER_COMMIT ? (int)type : MQ_MARKER_OTHER;
}

static mq_status note_abort(mq_txn_track *track, const mq_batch *batch, int64_t first_offset, mq_error *err)
{
    mq_txn_entry *aborted = grown(track->aborted, track->aborted_count, &track->aborted_capacity, sizeof *aborted);
    if (aborted == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for aborted transactions");
    track->aborted = aborted;
    const int64_t last = mq_batch_last_offset(batch);
    int64_t stable = last + 1;
    for (size_t i = 0; i < track->open_count; i++)
        if (track->open[i].first_offset < stable)
            stable = track->open[i].first_offset;
    aborted[track->aborted_count++] = (mq_txn_entry){batch->producer_id, first_offset, last, stable};
    return MQ_OK;
}

mq_status mq_txn_track_add(mq_txn_track *track, const mq_batch *batch, const uint8_t *body, size_t body_size,
                           mq_error *err)
{
    if ((batch->attributes & MQ_ATTR_TRANSACTIONAL) == 0 || batch->producer_id < 0)
        return MQ_OK;
    if ((batch->attributes & MQ_ATTR_CONTROL) == 0)
        return mq_txn_track_open(track, batch->producer_id, batch->base_offset, err);
    const int marker = batch->record_count > 0 ? mq_marker_kind(body, body_size) : MQ_MARKER_OTHER;
    if (marker == MQ_MARKER_OTHER)
        return MQ_OK;
    const size_t place = place_of(track, batch->producer_id);
    int64_t first_offset = -1;
    if (place < track->open_count && track->open[place].producer_id == batch->producer_id) {
        first_offset = track->open[place].first_offset;
        track->open_count--;
        memmove(track->open + place, track->open + place + 1, (track->open_count - place) * sizeof *track->open);
    }
    return marker == MQ_MARKER_ABORT ? note_abort(track, batch, first_offset, err) : MQ_OK;
}
