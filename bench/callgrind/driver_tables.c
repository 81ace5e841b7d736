/* driver_tables.c -- the tables of message ids and of keys: see driver.c. */
#include <stdio.h>
#include <stdlib.h>

#include "driver.h"
#include "mqcore/compact.h"
#include "mqcore/dedup.h"

enum { IDS = 1000, KEYS = 4096, KEY_BYTES = 16 };

static void must(mq_status status)
{
    if (status != MQ_OK) {
        fprintf(stderr, "driver: %s\n", mq_status_name(status));
        exit(3);
    }
}

/* 1,000 new Snowflake ids of sixteen milliseconds: test and set, as a batch of a producer. */
static void dedup_batch(long n)
{
    static uint64_t ids[IDS];
    static uint8_t seen[IDS];
    const mq_dedup_config config = {1577836800000, 256, 64u << 20};
    mq_error err;
    mq_dedup *dedup = mq_dedup_new(&config, &err);
    size_t done, duplicates;
    if (dedup == NULL)
        exit(3);
    for (long i = 0; i < n; i++) {
        for (uint64_t k = 0; k < IDS; k++)
            ids[k] = (((uint64_t)i * 16 + k / 63) << MQ_ID_TIME_SHIFT) | k % 63;
        must(mq_dedup_test_and_set_many(dedup, ids, IDS, i * IDS, seen, &done, &duplicates, &err));
        keep(duplicates);
    }
    mq_dedup_free(dedup);
}

/* The last offset of one of 4,096 keys, noted: the first pass of compaction. */
static void keymap_put(long n)
{
    uint8_t *keys = noise(KEYS * KEY_BYTES);
    mq_error err;
    mq_keymap *map = mq_keymap_new(1u << 20, 7, &err);
    if (map == NULL)
        exit(3);
    for (long k = 0; k < KEYS; k++)
        must(mq_keymap_put(map, keys + k * KEY_BYTES, KEY_BYTES, k, &err));
    for (long i = 0; i < n; i++)
        must(mq_keymap_put(map, keys + i * 2654435761 % KEYS * KEY_BYTES, KEY_BYTES, KEYS + i, &err));
    keep(mq_keymap_count(map));
    mq_keymap_free(map);
    free(keys);
}

const bench_case table_cases[] = {
    {"dedup_batch", dedup_batch},
    {"keymap_put", keymap_put},
    {NULL, NULL},
};
