#include "mqcore/record.h"

mq_varint mq_varint_rest(const uint8_t *at, uint64_t first, unsigned limit)
{
    uint64_t u = first & 0x7f;
    for (unsigned i = 1; i < limit; i++) {
        const uint64_t byte = *at++;
        u |= (byte & 0x7f) << (7 * i);
        if (byte < 0x80)
            return (mq_varint){at, u};
    }
    return (mq_varint){NULL, 0};
}

/* A length field and its bytes: -1 is null, below that damage. */
static const uint8_t *field(mq_wire *w, int32_t *length)
{
    *length = mq_wire_varint(w);
    const uint8_t *bytes = w->at;
    if (*length > 0 && mq_wire_need(w, (size_t)*length))
        w->at += *length;
    else if (*length < -1)
        w->failed = true;
    return bytes;
}

bool mq_header_count(const uint8_t **at, const uint8_t *end, int32_t *count)
{
    mq_wire w = {*at, end, false};
    *count = mq_wire_varint(&w);
    *at = w.at;
    return !w.failed && *count >= 0 && *count <= MQ_HEADERS_MAX;
}

bool mq_header_next(const uint8_t **at, const uint8_t *end, mq_header *header)
{
    mq_wire w = {*at, end, false};
    header->key = field(&w, &header->key_length);
    header->value = field(&w, &header->value_length);
    *at = w.at;
    return !w.failed && header->key_length >= 0;
}

bool mq_record_headers(const uint8_t *at, const uint8_t *end, mq_record *record)
{
    if (!mq_header_count(&at, end, &record->header_count))
        return false;
    record->headers = at;
    for (int32_t i = 0; i < record->header_count; i++) {
        mq_header header;
        if (!mq_header_next(&at, end, &header))
            return false;
    }
    return at == end;
}

bool mq_record_parse_slow(const uint8_t *at, const uint8_t *end, mq_record *record)
{
    *record = (mq_record){.key_length = -1, .value_length = -1};
    mq_wire w = {at, end, false};
    const int32_t length = mq_wire_varint(&w);
    if (w.failed || length < 0 || !mq_wire_need(&w, (size_t)length))
        return false;
    w.end = w.at + length;
    record->end = w.end;
    mq_wire_u8(&w);
    record->timestamp_delta = mq_wire_varlong(&w);
    record->offset_delta = mq_wire_varint(&w);
    record->key = field(&w, &record->key_length);
    record->value = field(&w, &record->value_length);
    if (w.failed || record->offset_delta < 0)
        return false;
    return mq_record_headers(w.at, w.end, record);
}
