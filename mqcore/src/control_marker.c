#include "mqcore/control_marker.h"

#include "mqcore/wire.h"

mq_marker_content mq_marker_read(const mq_batch *batch, const uint8_t *body, size_t size)
{
    mq_marker_content marker = {MQ_MARKER_OTHER, -1};
    if (batch->record_count <= 0)
        return marker;
    mq_wire w = mq_wire_of(body, size);
    mq_wire_varint(&w); /* length */
    mq_wire_u8(&w);     /* attributes */
    mq_wire_varlong(&w);
    mq_wire_varint(&w); /* offset delta */
    const int32_t key = mq_wire_varint(&w);
    if (w.failed || key < 4 || !mq_wire_need(&w, (size_t)key))
        return marker;
    const uint16_t type = mq_load_be16(w.at + 2);
    w.at += key;
    if (type != MQ_MARKER_ABORT && type != MQ_MARKER_COMMIT)
        return marker;
    marker.type = (int)type;
    if (mq_wire_varint(&w) >= 6 && mq_wire_need(&w, 6))
        marker.coordinator_epoch = (int32_t)mq_load_be32(w.at + 2);
    return marker;
}

void mq_marker_build(uint8_t *bytes, int64_t producer_id, int16_t producer_epoch, bool commit,
                     int32_t coordinator_epoch, int64_t timestamp_ms)
{
    memset(bytes, 0, MQ_MARKER_BYTES);
    mq_store_be32(bytes + 8, MQ_MARKER_BYTES - MQ_BATCH_LOG_OVERHEAD);
    mq_store_be32(bytes + 12, UINT32_MAX);
    bytes[16] = 2;
    mq_store_be16(bytes + 21, MQ_ATTR_TRANSACTIONAL | MQ_ATTR_CONTROL);
    mq_store_be64(bytes + 27, (uint64_t)timestamp_ms);
    mq_store_be64(bytes + 35, (uint64_t)timestamp_ms);
    mq_store_be64(bytes + 43, (uint64_t)producer_id);
    mq_store_be16(bytes + 51, (uint16_t)producer_epoch);
    mq_store_be32(bytes + 53, UINT32_MAX); /* no sequence */
    mq_store_be32(bytes + 57, 1);
    uint8_t *p = mq_put_varint(bytes + MQ_BATCH_HEADER, 16); /* length; attributes, time and offset deltas are 0 */
    p = mq_put_varint(p + 3, 4);
    mq_store_be16(p + 2, commit ? MQ_MARKER_COMMIT : MQ_MARKER_ABORT);
    p = mq_put_varint(p + 4, 6);
    mq_store_be32(p + 2, (uint32_t)coordinator_epoch); /* no headers after it: 0 */
    mq_batch_seal(bytes, MQ_MARKER_BYTES);
}
