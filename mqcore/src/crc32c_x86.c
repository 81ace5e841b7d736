/* CRC-32C on x86-64: crc32 instruction in three streams, PCLMULQDQ folding, VPCLMULQDQ folding over 512-bit registers.
 *
 * Folding keeps a remainder of 128 bits per lane. A lane moves D bits ahead by two carry-less multiplications, its low
 * half (the earlier bytes, higher powers) by k1 and its high half by k2, where in the bit-reversed domain
 *     k1 = reverse32(x^(D+32) mod P) << 1      k2 = reverse32(x^(D-32) mod P) << 1
 * and the last 128 bits end in two crc32 instructions. Intel, "Fast CRC Computation for Generic Polynomials Using
 * PCLMULQDQ", 2009. All functions carry their own target attribute: the file builds for any x86-64. */
#include "crc32c_paths.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

/* clang made the crc32 instruction a feature of its own; for gcc it is a part of sse4.2. */
#ifdef __clang__
#define TARGET_CRC32 ",crc32"
#else
#define TARGET_CRC32 ""
#endif
#define TARGET_SSE42 __attribute__((target("sse4.2" TARGET_CRC32)))
#define TARGET_PCLMUL __attribute__((target("sse4.2,pclmul" TARGET_CRC32)))
#define TARGET_VPCLMUL                                                                                                 \
    __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,avx512bw,avx512dq,vpclmulqdq" TARGET_CRC32)))

#define K1_2048 0x0DCB17AA4
#define K2_2048 0x0B9E02B86
#define K1_512 0x0740EEF02
#define K2_512 0x09E4ADDF8
#define K1_384 0x01C291D04
#define K2_384 0x1D82C63DA
#define K1_256 0x1384AA63A
#define K2_256 0x0BA4FC28E
#define K1_128 0x0F20C0DFE
#define K2_128 0x14CD00BD6

int mq_crc32c_sse42_usable(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") != 0;
}

int mq_crc32c_pclmul_usable(void)
{
    return mq_crc32c_sse42_usable() && __builtin_cpu_supports("pclmul") != 0;
}

int mq_crc32c_vpclmul512_usable(void)
{
    return mq_crc32c_pclmul_usable() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("vpclmulqdq");
}

static inline uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The rest of a message, one stream; crc is the raw register (inverted). */
TARGET_SSE42 static inline uint32_t finish(uint32_t crc, const uint8_t *p, size_t size)
{
    uint64_t c = crc;
    for (; size >= 8; size -= 8, p += 8)
        c = _mm_crc32_u64(c, load_u64(p));
    crc = (uint32_t)c;
    if (size & 4) {
        uint32_t v;
        memcpy(&v, p, sizeof v);
        crc = _mm_crc32_u32(crc, v);
        p += 4;
    }
    if (size & 2) {
        uint16_t v;
        memcpy(&v, p, sizeof v);
        crc = _mm_crc32_u16(crc, v);
        p += 2;
    }
    return size & 1 ? _mm_crc32_u8(crc, *p) : crc;
}

/* The instruction takes three cycles and starts one a cycle: three independent streams fill it. */
TARGET_SSE42 uint32_t mq_crc32c_sse42(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    uint64_t c0 = ~crc;
    while (size >= 3 * MQ_CRC32C_STREAM_BYTES) {
        uint64_t c1 = 0, c2 = 0;
        for (size_t i = 0; i < MQ_CRC32C_STREAM_BYTES; i += 8) {
            c0 = _mm_crc32_u64(c0, load_u64(p + i));
            c1 = _mm_crc32_u64(c1, load_u64(p + MQ_CRC32C_STREAM_BYTES + i));
            c2 = _mm_crc32_u64(c2, load_u64(p + 2 * MQ_CRC32C_STREAM_BYTES + i));
        }
        c0 = mq_crc32c_multiply((uint32_t)c0, MQ_CRC32C_PAST_2_STREAMS) ^
             mq_crc32c_multiply((uint32_t)c1, MQ_CRC32C_PAST_1_STREAM) ^ (uint32_t)c2;
        p += 3 * MQ_CRC32C_STREAM_BYTES;
        size -= 3 * MQ_CRC32C_STREAM_BYTES;
    }
    return ~finish((uint32_t)c0, p, size);
}

TARGET_PCLMUL static inline __m128i fold128(__m128i lane, __m128i k, __m128i next)
{
    const __m128i low = _mm_clmulepi64_si128(lane, k, 0x00);
    const __m128i high = _mm_clmulepi64_si128(lane, k, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

TARGET_PCLMUL static inline __m128i load128(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* Fold whole 16-byte pieces into the lane, then its 16 bytes and the tail through the crc32 instruction. */
TARGET_PCLMUL static inline uint32_t finish128(__m128i lane, const uint8_t *p, size_t size)
{
    const __m128i k = _mm_set_epi64x(K2_128, K1_128);
    for (; size >= 16; size -= 16, p += 16)
        lane = fold128(lane, k, load128(p));
    uint64_t c = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(lane));
    c = _mm_crc32_u64(c, (uint64_t)_mm_extract_epi64(lane, 1));
    return finish((uint32_t)c, p, size);
}

TARGET_PCLMUL uint32_t mq_crc32c_pclmul(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    if (size < 64)
        return ~finish(~crc, p, size);
    __m128i a = _mm_xor_si128(load128(p), _mm_cvtsi32_si128((int)~crc));
    __m128i b = load128(p + 16), c = load128(p + 32), d = load128(p + 48);
    const __m128i k512 = _mm_set_epi64x(K2_512, K1_512);
    for (p += 64, size -= 64; size >= 64; p += 64, size -= 64) {
        a = fold128(a, k512, load128(p));
        b = fold128(b, k512, load128(p + 16));
        c = fold128(c, k512, load128(p + 32));
        d = fold128(d, k512, load128(p + 48));
    }
    const __m128i k128 = _mm_set_epi64x(K2_128, K1_128);
    a = fold128(a, k128, b);
    a = fold128(a, k128, c);
    a = fold128(a, k128, d);
    return ~finish128(a, p, size);
}

TARGET_VPCLMUL static inline __m512i fold512(__m512i lanes, __m512i k, __m512i next)
{
    const __m512i low = _mm512_clmulepi64_epi128(lanes, k, 0x00);
    const __m512i high = _mm512_clmulepi64_epi128(lanes, k, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96); /* 0x96: three-way xor */
}

TARGET_VPCLMUL static inline __m512i pair512(int64_t k1, int64_t k2)
{
    return _mm512_broadcast_i32x4(_mm_set_epi64x(k2, k1));
}

TARGET_VPCLMUL uint32_t mq_crc32c_vpclmul512(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    if (size < 128)
        return mq_crc32c_pclmul(crc, bytes, size);
    __m512i a = _mm512_loadu_si512(p);
    a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~crc)));
    const __m512i k512 = pair512(K1_512, K2_512);
    if (size >= 256) {
        __m512i b = _mm512_loadu_si512(p + 64), c = _mm512_loadu_si512(p + 128), d = _mm512_loadu_si512(p + 192);
        const __m512i k2048 = pair512(K1_2048, K2_2048);
        for (p += 256, size -= 256; size >= 256; p += 256, size -= 256) {
            a = fold512(a, k2048, _mm512_loadu_si512(p));
            b = fold512(b, k2048, _mm512_loadu_si512(p + 64));
            c = fold512(c, k2048, _mm512_loadu_si512(p + 128));
            d = fold512(d, k2048, _mm512_loadu_si512(p + 192));
        }
        a = fold512(a, k512, b);
        a = fold512(a, k512, c);
        a = fold512(a, k512, d);
    } else {
        p += 64;
        size -= 64;
    }
    for (; size >= 64; p += 64, size -= 64)
        a = fold512(a, k512, _mm512_loadu_si512(p));
    /* Lanes 0..2 move to lane 3 in one step, each by its own distance. */
    const __m512i k_lanes = _mm512_set_epi64(0, 0, K2_128, K1_128, K2_256, K1_256, K2_384, K1_384);
    const __m512i moved =
        _mm512_xor_si512(_mm512_clmulepi64_epi128(a, k_lanes, 0x00), _mm512_clmulepi64_epi128(a, k_lanes, 0x11));
    __m128i lane = _mm_xor_si128(_mm512_extracti32x4_epi32(moved, 0), _mm512_extracti32x4_epi32(moved, 1));
    lane = _mm_xor_si128(lane, _mm512_extracti32x4_epi32(moved, 2));
    lane = _mm_xor_si128(lane, _mm512_extracti32x4_epi32(a, 3));
    return ~finish128(lane, p, size);
}

#else
typedef int mq_crc32c_x86_is_empty; /* ISO C wants a declaration in every file */
#endif
