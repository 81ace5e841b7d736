#include "mqcore/batch.h"

#include "mqcore/crc32c.h"
#include "mqcore/wire.h"

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
        batch->base_offset > INT64_MAX - batch->last_offset_delta)
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

/* One header: key length >= 0 and bytes, value length >= -1 and bytes. */
static void walk_headers(mq_wire *w, int32_t count)
{
    for (int32_t i = 0; i < count && !w->failed; i++) {
        const int32_t key = mq_wire_varint(w);
        if (key < 0 || !mq_wire_need(w, (size_t)key)) {
            w->failed = true;
            return;
        }
        w->at += key;
        const int32_t value = mq_wire_varint(w);
        if (value > 0 && mq_wire_need(w, (size_t)value))
            w->at += value;
        else if (value < -1)
            w->failed = true;
    }
}

mq_status mq_batch_walk(const uint8_t *bytes, const mq_batch *batch, mq_error *err)
{
    if (batch->attributes & MQ_ATTR_CODEC)
        return mq_fail(err, MQ_EUNSUPPORTED, NULL, 0, "records are compressed: inflate before walking");
    mq_wire w = mq_wire_of(bytes + MQ_BATCH_HEADER, batch->size - MQ_BATCH_HEADER);
    int32_t last_delta = -1;
    for (int32_t i = 0; i < batch->record_count; i++) {
        const uint64_t at = (uint64_t)(w.at - bytes);
        const int32_t length = mq_wire_varint(&w);
        if (length < 0 || !mq_wire_need(&w, (size_t)length))
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "a record's length passes the end of its batch");
        mq_wire r = mq_wire_of(w.at, (size_t)length);
        mq_wire_u8(&r);
        mq_wire_varlong(&r);
        const int32_t delta = mq_wire_varint(&r);
        for (int part = 0; part < 2; part++) { /* key, then value: -1 is null */
            const int32_t size = mq_wire_varint(&r);
            if (size > 0 && mq_wire_need(&r, (size_t)size))
                r.at += size;
            else if (size < -1)
                r.failed = true;
        }
        const int32_t headers = mq_wire_varint(&r);
        if (headers < 0 || headers > MQ_HEADERS_MAX)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "a record's header count is out of range");
        walk_headers(&r, headers);
        if (r.failed || r.at != r.end)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "a record's fields do not fill its length");
        if (delta <= last_delta || delta > batch->last_offset_delta)
            return mq_fail(err, MQ_ECORRUPT, NULL, at, "record offsets do not rise inside their batch");
        last_delta = delta;
        w.at += length;
    }
    if (w.at != w.end)
        return mq_fail(err, MQ_ECORRUPT, NULL, (uint64_t)(w.at - bytes), "bytes follow a batch's last record");
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
