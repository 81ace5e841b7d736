#include "mqcore/batch.h"

#include "mqcore/crc32c.h"
#include "mqcore/record.h"

mq_status mq_batch_parse(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err)
{
    if (size < MQ_BATCH_LOG_OVERHEAD)
        return mq_fail(err, MQ_ETRUNCATED, NULL, 0, "the bytes end inside a batch header");
    const int32_t length = (int32_t)mq_load_be32(bytes + 8);
    if (length < MQ_BATCH_HEADER - MQ_BATCH_LOG_OVERHEAD)
        return mq_fail(err, MQ_ECORRUPT, NULL, 0, "batch_length is smaller than a batch header");
    const uint64_t whole = (uint64_t)length + MQ_BATCH_LOG_OVERHEAD;
    if (size > 16 && bytes[16] != 2)
        return bytes[16] < 2 ? mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "message format 0 or 1 (magic); only v2 is read")
                             : mq_fail(err, MQ_ECORRUPT, NULL, 0, "magic is not 2");
    if (whole > max_bytes)
        return mq_fail(err, MQ_ETOOBIG, NULL, 0, "batch_length is over the limit");
    if (whole > size)
        return mq_fail(err, MQ_ETRUNCATED, NULL, 0, "the bytes end inside a batch");
    batch->base_offset = (int64_t)mq_load_be64(bytes);
    batch->size = (uint32_t)whole;
    batch->leader_epoch = (int32_t)mq_load_be32(bytes + 12);
    batch->crc = mq_load_be32(bytes + 17);
    batch->attributes = mq_load_be16(bytes + 21);
    batch->last_offset_delta = (int32_t)mq_load_be32(bytes + 23);
    batch->base_timestamp = (int64_t)mq_load_be64(bytes + 27);
    batch->max_timestamp = (int64_t)mq_load_be64(bytes + 35);
    batch->producer_id = (int64_t)mq_load_be64(bytes + 43);
    batch->producer_epoch = (int16_t)mq_load_be16(bytes + 51);
    batch->base_sequence = (int32_t)mq_load_be32(bytes + 53);
    batch->record_count = (int32_t)mq_load_be32(bytes + 57);
    if (batch->base_offset < 0 || batch->last_offset_delta < 0 ||
        batch->base_offset >= INT64_MAX - batch->last_offset_delta)
        return mq_fail(err, MQ_ECORRUPT, NULL, 0, "base_offset or last_offset_delta is out of range");
    if (batch->record_count < 0 || (int64_t)batch->record_count > (int64_t)batch->last_offset_delta + 1)
        return mq_fail(err, MQ_ECORRUPT, NULL, 0, "record_count does not fit last_offset_delta");
    return MQ_OK;
}

mq_status mq_batch_check(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batch *batch, mq_error *err)
{
    const mq_status status = mq_batch_parse(bytes, size, max_bytes, batch, err);
    if (status != MQ_OK)
        return status;
    if (mq_crc32c(0, bytes + MQ_BATCH_CRC_START, batch->size - MQ_BATCH_CRC_START) != batch->crc)
        return mq_fail(err, MQ_ECRC, NULL, 0, "batch checksum (CRC32C) does not match");
    return MQ_OK;
}

bool mq_batches_survey(const uint8_t *bytes, size_t size, uint32_t max_bytes, mq_batches_facts *facts)
{
    *facts = (mq_batches_facts){0, INT64_MAX, -1};
    for (size_t at = 0; at < size;) {
        mq_batch batch;
        if (size - at < MQ_BATCH_HEADER || mq_batch_parse(bytes + at, size - at, max_bytes, &batch, NULL) != MQ_OK)
            return false;
        facts->offsets += (int64_t)batch.last_offset_delta + 1;
        if (batch.base_timestamp < facts->base_timestamp)
            facts->base_timestamp = batch.base_timestamp;
        if (batch.max_timestamp > facts->max_timestamp)
            facts->max_timestamp = batch.max_timestamp;
        at += batch.size;
    }
    return size > 0;
}

mq_status mq_batch_walk(const uint8_t *bytes, const mq_batch *batch, mq_error *err)
{
    if (batch->attributes & MQ_ATTR_CODEC)
        return mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "records are compressed: inflate before walking");
    const uint8_t *at = bytes + MQ_BATCH_HEADER;
    const uint8_t *const end = bytes + batch->size;
    const int32_t last_offset_delta = batch->last_offset_delta;
    int32_t last_delta = -1;
    mq_record_guess guess = {0};
    for (int32_t left = batch->record_count; left > 0; left--) {
        mq_record record;
        if (MQ_UNLIKELY(!mq_record_parse_next(at, end, &record, &guess)))
            return mq_fail(err, MQ_ECORRUPT, NULL, (uint64_t)(at - bytes),
                           "a record's fields do not fill its length, or it passes the end of its batch");
        if (MQ_UNLIKELY(record.offset_delta <= last_delta || record.offset_delta > last_offset_delta))
            return mq_fail(err, MQ_ECORRUPT, NULL, (uint64_t)(at - bytes),
                           "record offsets do not rise inside their batch");
        last_delta = record.offset_delta;
        at = record.end;
    }
    if (at != end)
        return mq_fail(err, MQ_ECORRUPT, NULL, (uint64_t)(at - bytes), "bytes follow a batch's last record");
    return MQ_OK;
}

void mq_batch_assign(uint8_t *bytes, int64_t base_offset, int32_t leader_epoch)
{
    mq_store_be64(bytes, (uint64_t)base_offset);
    mq_store_be32(bytes + 12, (uint32_t)leader_epoch);
}

void mq_batch_seal(uint8_t *bytes, size_t size)
{
    mq_store_be32(bytes + 17, mq_crc32c(0, bytes + MQ_BATCH_CRC_START, size - MQ_BATCH_CRC_START));
}

void mq_batch_set_append_time(uint8_t *bytes, size_t size, int64_t timestamp_ms)
{
    const uint16_t attributes = (uint16_t)(mq_load_be16(bytes + 21) | MQ_ATTR_LOG_APPEND_TIME);
    mq_store_be16(bytes + 21, attributes);
    mq_store_be64(bytes + 35, (uint64_t)timestamp_ms);
    mq_batch_seal(bytes, size);
}
