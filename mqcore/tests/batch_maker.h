/* batch_maker.h -- makes v2 batches field by field for the tests: plain, slow, independent of batch_build. */
#ifndef MQCORE_TESTS_BATCH_MAKER_H
#define MQCORE_TESTS_BATCH_MAKER_H

#include "mqcore/batch.h"
#include "mqcore/wire.h"
#include "test.h"

typedef struct maker {
    uint8_t bytes[1 << 16];
    size_t size;  /* of all batches so far */
    size_t batch; /* where the open batch starts */
    int32_t count, last_delta;
} maker;

static inline void maker_open(maker *m, int64_t base_offset, uint16_t attributes)
{
    uint8_t *b = m->bytes + m->size;
    m->batch = m->size;
    m->count = 0;
    m->last_delta = -1;
    memset(b, 0, MQ_BATCH_HEADER);
    mq_store_be64(b, (uint64_t)base_offset);
    b[16] = 2;
    mq_store_be16(b + 21, attributes);
    mq_store_be64(b + 27, 1000);
    mq_store_be64(b + 35, 2000);
    mq_store_be64(b + 43, UINT64_MAX);
    m->size += MQ_BATCH_HEADER;
}

static inline void maker_blob(maker *m, const void *bytes, int64_t length)
{
    m->size = (size_t)(mq_put_varint(m->bytes + m->size, length) - m->bytes);
    if (length > 0)
        memcpy(m->bytes + m->size, bytes, (size_t)length);
    m->size += length > 0 ? (size_t)length : 0;
}

/* A record; key, value NULL for null; headers: count of ("h", null) pairs. */
static inline void maker_record(maker *m, int32_t delta, int64_t timestamp, const char *key, const char *value,
                                int headers)
{
    static maker body;
    body.size = 0;
    body.bytes[body.size++] = 0;
    body.size = (size_t)(mq_put_varint(body.bytes + body.size, timestamp) - body.bytes);
    body.size = (size_t)(mq_put_varint(body.bytes + body.size, delta) - body.bytes);
    maker_blob(&body, key, key != NULL ? (int64_t)strlen(key) : -1);
    maker_blob(&body, value, value != NULL ? (int64_t)strlen(value) : -1);
    body.size = (size_t)(mq_put_varint(body.bytes + body.size, headers) - body.bytes);
    for (int i = 0; i < headers; i++) {
        maker_blob(&body, "h", 1);
        maker_blob(&body, NULL, -1);
    }
    maker_blob(m, body.bytes, (int64_t)body.size);
    m->count++;
    m->last_delta = delta;
}

static inline void maker_close(maker *m)
{
    uint8_t *b = m->bytes + m->batch;
    const size_t size = m->size - m->batch;
    mq_store_be32(b + 8, (uint32_t)(size - MQ_BATCH_LOG_OVERHEAD));
    mq_store_be32(b + 23, (uint32_t)(m->last_delta >= 0 ? m->last_delta : 0));
    mq_store_be32(b + 57, (uint32_t)m->count);
    mq_batch_seal(b, size);
}

/* One batch of `count` records "v<delta>" without keys. */
static inline void maker_batch(maker *m, int64_t base_offset, int32_t count, uint16_t attributes)
{
    char value[16];
    maker_open(m, base_offset, attributes);
    for (int32_t i = 0; i < count; i++) {
        snprintf(value, sizeof value, "v%d", (int)i);
        maker_record(m, i, i, NULL, value, 0);
    }
    maker_close(m);
}

#endif
