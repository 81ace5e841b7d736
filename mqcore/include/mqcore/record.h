/* record.h -- one record of a v2 batch, parsed without a copy: the innermost loop of every reader.
 *
 *   length varint | attributes int8 | timestamp_delta varlong | offset_delta varint
 *   key_length varint, key | value_length varint, value | header count varint, headers     (-1 is a null key or value)
 *   header: key_length varint, key | value_length varint, value                            (its key is never null)
 *
 * Invariants of a record that mq_record_parse accepts:
 *   I1  all of it lies in [at, end), and its fields fill its length exactly, headers included
 *   I2  key_length, value_length >= -1; 0 <= header_count <= MQ_HEADERS_MAX
 * What the caller checks: offset deltas rise inside their batch, the count of records.
 * The fast path is inline and reads without a check per byte: it runs only where MQ_RECORD_HEAD bytes are left, more
 * than the fields before the key can take, and again before the value; all else goes to mq_record_parse_slow. */
#ifndef MQCORE_RECORD_H
#define MQCORE_RECORD_H

#include "mqcore/limits.h"
#include "mqcore/wire.h"

enum {
    MQ_RECORD_HEAD = 32, /* length 5, attributes 1, timestamp delta 10, offset delta 5, key length 5: 26 at most */
    MQ_RECORD_MIN = 7    /* a record with nothing in it: every field one byte */
};

typedef struct mq_record {
    const uint8_t *key;
    const uint8_t *value;
    const uint8_t *headers; /* the first header, after the count */
    const uint8_t *end;     /* the next record */
    int64_t timestamp_delta;
    int32_t offset_delta;
    int32_t key_length;   /* -1: null */
    int32_t value_length; /* -1: null */
    int32_t header_count;
} mq_record;

/* One header of a record. */
typedef struct mq_header {
    const uint8_t *key;
    const uint8_t *value;
    int32_t key_length;
    int32_t value_length; /* -1: null */
} mq_header;

#define MQ_LIKELY(condition) __builtin_expect(!!(condition), 1)
#define MQ_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

/* The whole parse, every byte checked: records near the end of their batch, and all that the fast path declines. */
bool mq_record_parse_slow(const uint8_t *at, const uint8_t *end, mq_record *record);

/* The header count at `at` and the headers after it, which must end exactly at `end`. */
bool mq_record_headers(const uint8_t *at, const uint8_t *end, mq_record *record);

/* The header count at *at, which moves past it; false: no number from 0 to MQ_HEADERS_MAX. */
bool mq_header_count(const uint8_t **at, const uint8_t *end, int32_t *count);

/* The next header at *at, which moves past it; false: it does not fit before `end`. */
bool mq_header_next(const uint8_t **at, const uint8_t *end, mq_header *header);

/* Results of the rare cases come by value: an address that leaves the loop would keep its variables in memory, and each
 * record would wait for a store of the one before. */
typedef struct mq_varint {
    const uint8_t *end; /* the first byte after it; NULL: it does not end in time */
    uint64_t raw;       /* zig-zag not undone */
} mq_varint;

/* Rest of a varint of at most `limit` bytes whose first byte, `first`, stood before `at` and had its top bit set.
 * The caller knows that the bytes may be read. */
mq_varint mq_varint_rest(const uint8_t *at, uint64_t first, unsigned limit);

enum { MQ_VARINT_BYTES = 5, MQ_VARLONG_BYTES = 10 };

/* One varint, zig-zag not undone, without bounds (the caller made sure of `limit` bytes): one and two bytes inline.
 * False: it is longer. */
static inline __attribute__((always_inline)) bool mq_varint_fast(const uint8_t **at, unsigned limit, uint64_t *raw)
{
    const uint8_t *p = *at;
    const uint64_t first = p[0];
    if (MQ_LIKELY(first < 0x80)) {
        *raw = first;
        *at = p + 1;
        return true;
    }
    const uint64_t second = p[1];
    if (MQ_LIKELY(second < 0x80)) {
        *raw = (first & 0x7f) | (second << 7);
        *at = p + 2;
        return true;
    }
    const mq_varint rest = mq_varint_rest(p + 1, first, limit);
    *raw = rest.raw;
    *at = rest.end;
    return rest.end != NULL;
}

/* What the length field of the record before was. Where records are of one size, the next one's place is then known by
 * a predicted branch and not by a load: records overlap in the processor instead of waiting for one another. */
typedef struct mq_record_guess {
    uint64_t length; /* zig-zag not undone */
    uint32_t bytes;  /* of the length field; 0: no guess yet */
    uint16_t head;   /* the first two bytes of the record */
} mq_record_guess;

/* The length field at *at, which moves past it (the caller made sure of MQ_VARINT_BYTES). False: it is too long. */
static inline __attribute__((always_inline)) bool mq_record_length(const uint8_t **at, uint64_t *length,
                                                                   mq_record_guess *guess)
{
    uint16_t head;
    memcpy(&head, *at, sizeof head);
    if (MQ_LIKELY(head == guess->head && guess->bytes != 0)) {
        *length = guess->length;
        *at += guess->bytes;
        return true;
    }
    const uint8_t *p = *at;
    if (MQ_UNLIKELY(!mq_varint_fast(&p, MQ_VARINT_BYTES, length)))
        return false;
    /* A longer field is not told by two bytes. */
    *guess = (mq_record_guess){*length, p - *at <= 2 ? (uint32_t)(p - *at) : 0, head};
    *at = p;
    return true;
}

/* mq_record_parse_slow and mq_record_headers, without the address of the caller's record (see mq_varint). */
static inline __attribute__((always_inline)) bool mq_record_take_slow(const uint8_t *at, const uint8_t *end,
                                                                      mq_record *record)
{
    mq_record slow;
    const bool good = mq_record_parse_slow(at, end, &slow);
    *record = slow;
    return good;
}

static inline __attribute__((always_inline)) bool mq_record_take_headers(const uint8_t *at, const uint8_t *end,
                                                                         mq_record *record)
{
    mq_record slow = {.header_count = 0};
    const bool good = mq_record_headers(at, end, &slow);
    record->header_count = slow.header_count;
    record->headers = slow.headers;
    return good;
}

/* As mq_record_parse, for a loop over records. guess: zero before the first record, then left alone. */
static inline __attribute__((always_inline)) bool mq_record_parse_next(const uint8_t *at, const uint8_t *end,
                                                                       mq_record *record, mq_record_guess *guess)
{
    uint64_t length, timestamp, offset, key, value;
    const uint8_t *p = at;
    if (MQ_UNLIKELY(end - at < MQ_RECORD_HEAD))
        return mq_record_take_slow(at, end, record);
    if (MQ_UNLIKELY(!mq_record_length(&p, &length, guess)))
        return false;
    /* Zig-zag: an odd number is negative. What is left of a batch is below 2^31, so this bounds what follows too. */
    if (MQ_UNLIKELY((length & 1) != 0 || (length >> 1) > (uint64_t)(end - p)))
        return false;
    const uint8_t *const stop = p + (length >> 1);
    p++; /* attributes: none are defined for records (KIP-98) */
    if (MQ_UNLIKELY(!mq_varint_fast(&p, MQ_VARLONG_BYTES, &timestamp) ||
                    !mq_varint_fast(&p, MQ_VARINT_BYTES, &offset) || !mq_varint_fast(&p, MQ_VARINT_BYTES, &key)))
        return false;
    record->end = stop;
    record->timestamp_delta = mq_unzigzag(timestamp);
    if (MQ_UNLIKELY(offset > UINT32_MAX || (offset & 1) != 0))
        return false;
    record->offset_delta = (int32_t)(offset >> 1);
    record->key = p;
    if (key == 1) { /* zig-zag of -1 */
        record->key_length = -1;
    } else {
        if (MQ_UNLIKELY((key & 1) != 0 || p > stop || (key >> 1) > (uint64_t)(stop - p)))
            return false;
        record->key_length = (int32_t)(key >> 1);
        p += key >> 1;
    }
    if (MQ_UNLIKELY(end - p < 10))
        return mq_record_take_slow(at, end, record);
    if (MQ_UNLIKELY(!mq_varint_fast(&p, MQ_VARINT_BYTES, &value)))
        return false;
    record->value = p;
    if (MQ_UNLIKELY(value == 1)) {
        record->value_length = -1;
    } else {
        if (MQ_UNLIKELY((value & 1) != 0 || p > stop || (value >> 1) > (uint64_t)(stop - p)))
            return false;
        record->value_length = (int32_t)(value >> 1);
        p += value >> 1;
    }
    if (MQ_UNLIKELY(p >= stop)) /* no room for the header count */
        return false;
    if (MQ_LIKELY(p[0] == 0)) {
        record->header_count = 0;
        record->headers = p + 1;
        return p + 1 == stop;
    }
    return mq_record_take_headers(p, stop, record);
}

/* Parse the record at `at`; false: it breaks I1 or I2 (and what is in *record means nothing). */
static inline bool mq_record_parse(const uint8_t *at, const uint8_t *end, mq_record *record)
{
    mq_record_guess guess = {0};
    return mq_record_parse_next(at, end, record, &guess);
}

#endif
