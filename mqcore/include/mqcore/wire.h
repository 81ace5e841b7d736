/* wire.h -- bounded big-endian and zig-zag varint cursor: a pointer and an end.
 * Invariants:
 *   I1  at <= end at all times; every read passes through mq_wire_need.
 *   I2  a failed read sets `failed` and yields 0; the caller checks `failed` once, after a group of reads.
 * Varints are Kafka's: zig-zag, 7 bits a byte, least group first (at most 5 bytes for 32, 10 for 64 bits). */
#ifndef MQCORE_WIRE_H
#define MQCORE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct mq_wire {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
} mq_wire;

static inline mq_wire mq_wire_of(const uint8_t *bytes, size_t size)
{
    mq_wire w = {bytes, bytes + size, false};
    return w;
}

static inline size_t mq_wire_left(const mq_wire *w)
{
    return (size_t)(w->end - w->at);
}

static inline bool mq_wire_need(mq_wire *w, size_t size)
{
    if (size <= mq_wire_left(w))
        return true;
    w->failed = true;
    return false;
}

static inline uint16_t mq_load_be16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap16(v);
}

static inline uint32_t mq_load_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

static inline uint64_t mq_load_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}

static inline void mq_store_be16(uint8_t *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof v);
}

static inline void mq_store_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof v);
}

static inline void mq_store_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof v);
}

static inline uint8_t mq_wire_u8(mq_wire *w)
{
    return mq_wire_need(w, 1) ? *w->at++ : 0;
}

static inline int32_t mq_wire_i32(mq_wire *w)
{
    if (!mq_wire_need(w, 4))
        return 0;
    const int32_t v = (int32_t)mq_load_be32(w->at);
    w->at += 4;
    return v;
}

static inline int64_t mq_wire_i64(mq_wire *w)
{
    if (!mq_wire_need(w, 8))
        return 0;
    const int64_t v = (int64_t)mq_load_be64(w->at);
    w->at += 8;
    return v;
}

static inline uint64_t mq_zigzag(int64_t v)
{
    return ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);
}

static inline int64_t mq_unzigzag(uint64_t v)
{
    return (int64_t)((v >> 1) ^ (~(v & 1) + 1));
}

/* Bytes that mq_put_varint writes for v. */
static inline size_t mq_varint_size(int64_t v)
{
    const uint64_t u = mq_zigzag(v);
    if (u < 0x80) /* nearly every field of a record: a predicted branch is cheaper than the division */
        return 1;
    if (u < 0x4000)
        return 2;
    return (size_t)((63 - __builtin_clzll(u)) / 7 + 1);
}

/* Write v at p (the caller made room for mq_varint_size(v) bytes); return the first byte after it. */
static inline uint8_t *mq_put_varint(uint8_t *p, int64_t v)
{
    uint64_t u = mq_zigzag(v);
    while (u >= 0x80) {
        *p++ = (uint8_t)(u | 0x80);
        u >>= 7;
    }
    *p++ = (uint8_t)u;
    return p;
}

/* Read a zig-zag varint of at most `bits` (32 or 64) bits; a longer one fails. */
static inline int64_t mq_wire_varint_bits(mq_wire *w, unsigned bits)
{
    uint64_t u = 0;
    for (unsigned shift = 0; shift < bits; shift += 7) {
        if (w->at == w->end)
            break;
        const uint8_t byte = *w->at++;
        u |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            if (bits == 32 && u > UINT32_MAX)
                break;
            return mq_unzigzag(u);
        }
    }
    w->failed = true;
    return 0;
}

/* A 32-bit varint; the one-byte case, which nearly all fields are, without the loop. */
static inline int32_t mq_wire_varint(mq_wire *w)
{
    if (w->at < w->end && *w->at < 0x80)
        return (int32_t)mq_unzigzag(*w->at++);
    return (int32_t)mq_wire_varint_bits(w, 32);
}

static inline int64_t mq_wire_varlong(mq_wire *w)
{
    if (w->at < w->end && *w->at < 0x80)
        return mq_unzigzag(*w->at++);
    return mq_wire_varint_bits(w, 64);
}

#endif
