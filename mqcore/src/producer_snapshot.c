#include "mqcore/producer_snapshot.h"

#include <string.h>

#include "mqcore/alloc.h"
#include "mqcore/crc32c.h"
#include "mqcore/wire.h"
#include "producer_table.h"

enum { VERSION = 1, CRC_FROM = 6, HEADER = 10, ENTRY = 46, BATCH = 24, TAIL = 12 };

static const char MAGIC[8] = {'m', 'q', 'p', 'r', 'o', 'd', '0', '1'};

/* ---- encode ---- */

static uint8_t *put16(uint8_t *p, int16_t v)
{
    mq_store_be16(p, (uint16_t)v);
    return p + 2;
}

static uint8_t *put32(uint8_t *p, int32_t v)
{
    mq_store_be32(p, (uint32_t)v);
    return p + 4;
}

static uint8_t *put64(uint8_t *p, int64_t v)
{
    mq_store_be64(p, (uint64_t)v);
    return p + 8;
}

static uint8_t *put_entry(uint8_t *p, const mq_producer *producer)
{
    static const mq_producer_batch none = {-1, -1, -1, 0};
    const mq_producer_batch *last = producer->batch_count > 0 ? &producer->batches[producer->batch_count - 1] : &none;
    p = put64(p, producer->producer_id);
    p = put16(p, producer->epoch);
    p = put32(p, last->last_sequence);
    p = put64(p, last->last_offset);
    p = put32(p, last->offset_delta);
    p = put64(p, producer->last_timestamp);
    p = put32(p, producer->coordinator_epoch);
    return put64(p, producer->txn_first_offset);
}

static uint8_t *put_batches(uint8_t *p, const mq_producer *producer)
{
    *p++ = producer->batch_count;
    for (unsigned i = 0; i < producer->batch_count; i++) {
        const mq_producer_batch *b = &producer->batches[i];
        p = put32(p, b->last_sequence);
        p = put64(p, b->last_offset);
        p = put32(p, b->offset_delta);
        p = put64(p, b->timestamp);
    }
    return p;
}

mq_status mq_producers_encode(const mq_producers *s, int32_t leader_epoch, uint8_t **bytes, size_t *size, mq_error *err)
{
    size_t whole = HEADER + TAIL;
    const mq_producer *each = NULL;
    while ((each = mq_producers_each(s, each)) != NULL)
        whole += ENTRY + 1 + (size_t)each->batch_count * BATCH;
    uint8_t *p = mq_alloc(whole);
    if (p == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for a producer snapshot");
    *bytes = p;
    *size = whole;
    p = put16(p, VERSION);
    p = put32(p, 0);
    p = put32(p, (int32_t)s->count);
    while ((each = mq_producers_each(s, each)) != NULL)
        p = put_entry(p, each);
    memcpy(p, MAGIC, sizeof MAGIC);
    p = put32(p + sizeof MAGIC, leader_epoch);
    while ((each = mq_producers_each(s, each)) != NULL)
        p = put_batches(p, each);
    mq_store_be32(*bytes + 2, mq_crc32c(0, *bytes + CRC_FROM, whole - CRC_FROM));
    return MQ_OK;
}

/* ---- decode ---- */

static mq_status corrupt(mq_error *err, uint64_t position, const char *what)
{
    return mq_fail(err, MQ_ECORRUPT, NULL, position, what);
}

static bool batch_fits(const mq_producer_batch *b, int64_t offset)
{
    return b->last_sequence >= 0 && b->offset_delta >= 0 && b->last_offset >= b->offset_delta &&
           b->last_offset < offset;
}

static mq_producer_batch get_batch(const uint8_t *p)
{
    return (mq_producer_batch){
        .last_sequence = (int32_t)mq_load_be32(p),
        .last_offset = (int64_t)mq_load_be64(p + 4),
        .offset_delta = (int32_t)mq_load_be32(p + 12),
        .timestamp = (int64_t)mq_load_be64(p + 16),
    };
}

static mq_status read_entry(mq_producers *s, const uint8_t *p, int64_t offset, mq_producer_entry **entry, mq_error *err)
{
    const int64_t producer_id = (int64_t)mq_load_be64(p);
    if (producer_id < 0 || mq_producers_find(s, producer_id) != NULL)
        return corrupt(err, 0, "a producer id is negative, or twice in the snapshot");
    mq_producer_entry *e = mq_producers_obtain(s, producer_id);
    if (e == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state");
    mq_producer *producer = &e->producer;
    const mq_producer_batch last = get_batch(p + 10);
    producer->epoch = (int16_t)mq_load_be16(p + 8);
    producer->last_timestamp = producer->active_ms = last.timestamp;
    producer->coordinator_epoch = (int32_t)mq_load_be32(p + 34);
    producer->txn_first_offset = (int64_t)mq_load_be64(p + 38);
    /* Kafka's own rule: a batch without a last offset is none. Sequence -1: of a coordinator, which has none. */
    if (last.last_offset >= 0 && last.last_sequence >= 0) {
        if (!batch_fits(&last, offset))
            return corrupt(err, 0, "a producer's last batch does not fit the snapshot");
        producer->batches[0] = last;
        producer->batch_count = 1;
    }
    if (producer->txn_first_offset >= offset || producer->txn_first_offset < -1)
        return corrupt(err, 0, "a transaction begins past the snapshot");
    *entry = e;
    return MQ_OK;
}

/* The batches of one producer; the last one is the entry's. */
static mq_status read_batches(mq_wire *w, mq_producer *producer, int64_t offset, mq_error *err)
{
    const uint8_t count = mq_wire_u8(w);
    if (w->failed || count > MQ_PRODUCER_BATCHES || !mq_wire_need(w, (size_t)count * BATCH))
        return corrupt(err, 0, "the snapshot ends inside a producer's batches");
    if ((count > 0) != (producer->batch_count > 0))
        return corrupt(err, 0, "a producer's batches are not those of its entry");
    int64_t before = -1;
    for (unsigned i = 0; i < count; i++, w->at += BATCH) {
        const mq_producer_batch b = get_batch(w->at);
        if (!batch_fits(&b, offset) || b.last_offset - b.offset_delta <= before)
            return corrupt(err, 0, "a producer's batches do not follow each other");
        before = b.last_offset;
        if (i + 1u == count && (b.last_offset != producer->batches[0].last_offset ||
                                b.last_sequence != producer->batches[0].last_sequence))
            return corrupt(err, 0, "a producer's batches are not those of its entry");
        /* The entry's own batch at [0] is compared last, so it is overwritten last. */
        if (i > 0)
            producer->batches[i] = b;
    }
    if (count > 0)
        producer->batches[0] = get_batch(w->at - (size_t)count * BATCH);
    producer->batch_count = count;
    return MQ_OK;
}

static int by_first_offset(const void *a, const void *b)
{
    const int64_t x = (*(mq_producer_entry *const *)a)->producer.txn_first_offset;
    const int64_t y = (*(mq_producer_entry *const *)b)->producer.txn_first_offset;
    return (x > y) - (x < y);
}

/* Open the transactions, in the order of their first offsets. entries: as they were read; reordered. */
static mq_status open_transactions(mq_producers *s, mq_producer_entry **entries, size_t count, mq_error *err)
{
    size_t open = 0;
    for (size_t i = 0; i < count; i++)
        if (mq_in_txn(entries[i]))
            entries[open++] = entries[i];
    qsort(entries, open, sizeof *entries, by_first_offset);
    for (size_t i = 1; i < open; i++)
        if (by_first_offset(&entries[i - 1], &entries[i]) == 0)
            return corrupt(err, 0, "two transactions begin at one offset");
    for (size_t i = 0; i < open; i++)
        mq_producers_begin_txn(s, entries[i], entries[i]->producer.txn_first_offset);
    return MQ_OK;
}

static mq_status decode(mq_producers *s, const uint8_t *bytes, size_t size, size_t count, mq_producer_entry **entries,
                        int64_t offset, int32_t *leader_epoch, mq_error *err)
{
    mq_status status = MQ_OK;
    for (size_t i = 0; i < count && status == MQ_OK; i++)
        status = read_entry(s, bytes + HEADER + i * ENTRY, offset, &entries[i], err);
    if (status != MQ_OK)
        return status;
    mq_wire w = mq_wire_of(bytes + HEADER + count * ENTRY, size - HEADER - count * ENTRY);
    *leader_epoch = MQ_SNAPSHOT_NO_EPOCH;
    if (mq_wire_left(&w) > 0) {
        if (!mq_wire_need(&w, TAIL) || memcmp(w.at, MAGIC, sizeof MAGIC) != 0)
            return corrupt(err, 0, "unknown bytes follow the producers");
        w.at += sizeof MAGIC;
        *leader_epoch = mq_wire_i32(&w);
        for (size_t i = 0; i < count && status == MQ_OK; i++)
            status = read_batches(&w, &entries[i]->producer, offset, err);
        if (status == MQ_OK && (mq_wire_left(&w) > 0 || *leader_epoch < 0))
            status = corrupt(err, 0, "bytes follow the snapshot, or its epoch is negative");
    }
    return status == MQ_OK ? open_transactions(s, entries, count, err) : status;
}

mq_status mq_producers_decode(const uint8_t *bytes, size_t size, int64_t offset, uint32_t limit, mq_producers **s,
                              int32_t *leader_epoch, mq_error *err)
{
    if (size < HEADER)
        return mq_fail(err, MQ_ETRUNCATED, NULL, size, "a producer snapshot of less than 10 bytes");
    if (mq_load_be16(bytes) != VERSION)
        return mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "a producer snapshot of an unknown version");
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (mq_load_be32(bytes + 2) != mq_crc32c(0, bytes + CRC_FROM, size - CRC_FROM))
        return mq_fail(err, MQ_ECRC, NULL, 2, "the snapshot's checksum does not match");
#endif
    const uint32_t count = mq_load_be32(bytes + CRC_FROM);
    if (count > (size - HEADER) / ENTRY)
        return mq_fail(err, MQ_ETRUNCATED, NULL, size, "the snapshot ends before its producers");
    /* All are kept while they are read, whatever the limit: the next new one makes room. */
    mq_producers *made = mq_producers_new(count > limit ? count : limit);
    mq_producer_entry **entries = mq_alloc(count * sizeof *entries);
    mq_status status = made == NULL || entries == NULL
                           ? mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for producer state")
                           : decode(made, bytes, size, count, entries, offset, leader_epoch, err);
    mq_free(entries);
    if (status != MQ_OK) {
        mq_producers_free(made);
        return status;
    }
    mq_producers_set_limit(made, limit);
    made->next_offset = offset;
    *s = made;
    return MQ_OK;
}
