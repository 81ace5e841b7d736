#include "mqcore/hash.h"

#include <string.h>

uint32_t mq_murmur2(const void *bytes, size_t size)
{
    const uint32_t m = 0x5bd1e995u;
    const uint8_t *p = bytes;
    uint32_t h = 0x9747b28cu ^ (uint32_t)size;
    for (; size >= 4; size -= 4, p += 4) {
        uint32_t k = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        k *= m;
        k ^= k >> 24;
        h = (h * m) ^ (k * m);
    }
    if (size > 0) {
        uint32_t rest = p[0];
        if (size > 1)
            rest |= (uint32_t)p[1] << 8;
        if (size > 2)
            rest |= (uint32_t)p[2] << 16;
        h = (h ^ rest) * m;
    }
    h ^= h >> 13;
    h *= m;
    return h ^ (h >> 15);
}

/* Odd constants with about half of their bits set: fractional digits of the square roots of 2, 3, 5 and 7. */
#define K0 0x6A09E667F3BCC909u
#define K1 0xBB67AE8584CAA73Bu
#define K2 0x3C6EF372FE94F82Bu
#define K3 0xA54FF53A5F1D36F1u

__extension__ typedef unsigned __int128 u128;

/* The whole 128-bit product, folded: every bit of the result depends on every bit of both factors. */
static inline uint64_t fold(uint64_t a, uint64_t b)
{
    const u128 product = (u128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint64_t mq_hash64(const void *bytes, size_t size, uint64_t seed)
{
    const uint8_t *p = bytes;
    uint64_t h = seed ^ K0, a, b;
    if (size <= 16) {
        if (size >= 8) { /* two words that overlap in the middle cover 8 to 16 bytes */
            a = load64(p);
            b = load64(p + size - 8);
        } else if (size >= 4) {
            a = load32(p);
            b = load32(p + size - 4);
        } else if (size > 0) {
            a = (uint64_t)p[0] << 16 | (uint64_t)p[size >> 1] << 8 | p[size - 1];
            b = 0;
        } else {
            a = b = 0;
        }
    } else {
        size_t left = size;
        uint64_t h2 = h;
        for (; left > 32; left -= 32, p += 32) { /* two chains: the multiplications of one hide behind the other's */
            h = fold(load64(p) ^ K1, load64(p + 8) ^ h);
            h2 = fold(load64(p + 16) ^ K2, load64(p + 24) ^ h2);
        }
        h ^= h2 + K3;
        if (left > 16)
            h = fold(load64(p) ^ K1, load64(p + 8) ^ h);
        p = (const uint8_t *)bytes + size;
        a = load64(p - 16);
        b = load64(p - 8);
    }
    return fold(fold(a ^ K1, b ^ h) ^ (uint64_t)size, K2 ^ h);
}

int32_t mq_jump_hash(uint64_t hash, int32_t buckets)
{
    int64_t bucket = -1, next = 0;
    while (next < buckets) {
        bucket = next;
        hash = hash * 2862933555777941757u + 1;
        next = (int64_t)((double)(bucket + 1) * ((double)(1ll << 31) / (double)((hash >> 33) + 1)));
    }
    return (int32_t)bucket;
}
