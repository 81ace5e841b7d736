/* driver.c -- one hot function of the core, n times: `driver CASE N`; `driver` alone lists the cases.
 * compare.py runs it under callgrind with two counts; the difference, divided, is the instructions of one call.
 * Setting up must not depend on n, or it would not cancel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

enum { BATCH_RECORDS = 500 };

static uint64_t sink; /* keeps results alive */

uint8_t *noise(size_t size)
{
    uint8_t *bytes = malloc(size);
    uint64_t x = 0x9E3779B97F4A7C15u;
    if (bytes == NULL)
        abort();
    for (size_t i = 0; i < size; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (uint8_t)x;
    }
    return bytes;
}

void keep(uint64_t value)
{
    sink += value;
}

static void crc32c_of(size_t size, long n)
{
    uint8_t *bytes = noise(size);
    for (long i = 0; i < n; i++)
        keep(mq_crc32c(0, bytes, size));
    free(bytes);
}

static void crc32c_100(long n)
{
    crc32c_of(100, n);
}

static void crc32c_64k(long n)
{
    crc32c_of(65536, n);
}

static void murmur2_16(long n)
{
    uint8_t *bytes = noise(16);
    for (long i = 0; i < n; i++)
        keep(mq_murmur2(bytes, 16));
    free(bytes);
}

static void hash64_16(long n)
{
    uint8_t *bytes = noise(16);
    for (long i = 0; i < n; i++)
        keep(mq_hash64(bytes, 16, (uint64_t)i));
    free(bytes);
}

static void consistent_partition(long n)
{
    uint8_t *bytes = noise(16);
    for (long i = 0; i < n; i++)
        keep((uint64_t)mq_consistent_partition(bytes, 16, 20));
    free(bytes);
}

static void varint_round_trip(long n)
{
    uint8_t bytes[10];
    for (long i = 0; i < n; i++) {
        const int64_t value = (int64_t)(i & 1) ? 90 : 40000;
        mq_wire wire = mq_wire_of(bytes, (size_t)(mq_put_varint(bytes, value) - bytes));
        keep((uint64_t)mq_wire_varint(&wire));
    }
}

uint8_t *plain_batch(int records, size_t *size)
{
    enum { VALUE = 100 };
    uint8_t *bytes = noise(MQ_BATCH_HEADER + (size_t)records * (VALUE + 16)), *at = bytes + MQ_BATCH_HEADER;
    for (int i = 0; i < records; i++) {
        const int64_t length = 1 + 1 + (int64_t)mq_varint_size(i) + 1 + (int64_t)mq_varint_size(VALUE) + VALUE + 1;
        at = mq_put_varint(at, length);
        *at++ = 0;                     /* attributes */
        *at++ = 0;                     /* timestamp delta */
        at = mq_put_varint(at, i);     /* offset delta */
        at = mq_put_varint(at, -1);    /* no key */
        at = mq_put_varint(at, VALUE); /* the value is the noise that is there already */
        at += VALUE;
        at = mq_put_varint(at, 0); /* no headers */
    }
    *size = (size_t)(at - bytes);
    memset(bytes, 0, MQ_BATCH_HEADER);
    mq_store_be32(bytes + 8, (uint32_t)(*size - MQ_BATCH_LOG_OVERHEAD));
    bytes[16] = 2;
    mq_store_be32(bytes + 23, (uint32_t)records - 1);
    mq_store_be64(bytes + 43, UINT64_MAX);
    mq_store_be16(bytes + 51, UINT16_MAX);
    mq_store_be32(bytes + 53, UINT32_MAX);
    mq_store_be32(bytes + 57, (uint32_t)records);
    mq_batch_seal(bytes, *size);
    return bytes;
}

static void batch_check(long n)
{
    size_t size;
    uint8_t *bytes = plain_batch(BATCH_RECORDS, &size);
    mq_batch batch;
    mq_error err;
    for (long i = 0; i < n; i++)
        keep(mq_batch_check(bytes, size, 1u << 20, &batch, &err) == MQ_OK);
    free(bytes);
}

static void batch_walk(long n)
{
    size_t size;
    uint8_t *bytes = plain_batch(BATCH_RECORDS, &size);
    mq_batch batch;
    mq_error err;
    keep(mq_batch_parse(bytes, size, 1u << 20, &batch, &err) == MQ_OK);
    for (long i = 0; i < n; i++)
        keep(mq_batch_walk(bytes, &batch, &err) == MQ_OK);
    free(bytes);
}

static void batch_assign(long n)
{
    size_t size;
    uint8_t *bytes = plain_batch(BATCH_RECORDS, &size);
    for (long i = 0; i < n; i++)
        mq_batch_assign(bytes, i, 3);
    keep(bytes[0]);
    free(bytes);
}

static const bench_case basics[] = {
    {"crc32c_100", crc32c_100},
    {"crc32c_64k", crc32c_64k},
    {"murmur2_16", murmur2_16},
    {"hash64_16", hash64_16},
    {"consistent_partition", consistent_partition},
    {"varint_round_trip", varint_round_trip},
    {"batch_check", batch_check},
    {"batch_walk", batch_walk},
    {"batch_assign", batch_assign},
    {NULL, NULL},
};

static const bench_case *const tables[] = {basics, storage_cases, table_cases, NULL};

int main(int argc, char **argv)
{
    for (const bench_case *const *table = tables; *table != NULL; table++)
        for (const bench_case *one = *table; one->name != NULL; one++) {
            if (argc < 3)
                puts(one->name);
            else if (strcmp(one->name, argv[1]) == 0) {
                one->run(strtol(argv[2], NULL, 10));
                return sink == 1; /* never: the results must look used */
            }
        }
    return argc < 3 ? 0 : 2;
}
