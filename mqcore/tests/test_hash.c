/* Keys go where Kafka sends them, hash64 spreads, and a resize of the consistent hash moves only what it must. */
#include "mqcore/hash.h"

#include "test.h"

static void murmur2_is_kafkas(void)
{
    /* from apache/kafka clients UtilsTest.testMurmur2 */
    static const struct {
        const char *key;
        int32_t hash;
    } cases[] = {{"21", -973932308},
                 {"foobar", -790332482},
                 {"a-little-bit-long-string", -985981536},
                 {"a-little-bit-longer-string", -1486304829},
                 {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
                 {"abc", 479470107}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char *exact = exact_copy(cases[i].key, strlen(cases[i].key));
        CHECK((int32_t)mq_murmur2(exact, strlen(cases[i].key)) == cases[i].hash);
        free(exact);
    }
    CHECK(mq_murmur2("", 0) == 275646681u);
    CHECK(mq_kafka_partition("foobar", 6, 20) == (int32_t)((uint32_t)-790332482 & 0x7fffffffu) % 20);
}

static void hash64_spreads(void)
{
    enum { KEYS = 1 << 16, BUCKETS = 256 };
    unsigned counts[3][BUCKETS] = {{0}};
    for (uint32_t i = 0; i < KEYS; i++) {
        char key[64];
        const int size = snprintf(key, sizeof key, "%s%u", i & 1 ? "customer-with-a-long-name-" : "k", i);
        const uint64_t h = mq_hash64(key, (size_t)size, 1);
        counts[0][h & 255]++;
        counts[1][(h >> 28) & 255]++;
        counts[2][h >> 56]++;
    }
    for (int part = 0; part < 3; part++)
        for (int b = 0; b < BUCKETS; b++)
            CHECK(counts[part][b] > 160 && counts[part][b] < 360); /* 256 expected, deviation 16 */
}

static void hash64_sees_every_byte(void)
{
    unsigned char bytes[200];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7);
    for (size_t size = 0; size <= sizeof bytes; size++) {
        unsigned char *exact = exact_copy(bytes, size);
        const uint64_t h = mq_hash64(exact, size, 5);
        CHECK(mq_hash64(exact, size, 6) != h);
        for (size_t i = 0; i < size; i++) {
            exact[i] ^= 1;
            const uint64_t changed = mq_hash64(exact, size, 5) ^ h;
            CHECK(__builtin_popcountll(changed) > 8);
            exact[i] ^= 1;
        }
        if (size > 0)
            CHECK(mq_hash64(exact, size - 1, 5) != h);
        free(exact);
    }
}

static void jump_moves_least(void)
{
    enum { KEYS = 20000 };
    for (int32_t n = 1; n <= 40; n++) {
        int moved = 0;
        for (uint64_t k = 0; k < KEYS; k++) {
            const uint64_t h = mq_mix64(k);
            const int32_t before = mq_jump_hash(h, n), after = mq_jump_hash(h, n + 1);
            CHECK(before >= 0 && before < n && (after == before || after == n));
            moved += after != before;
        }
        CHECK(moved <= KEYS / (n + 1) + KEYS / 50);
    }
}

int main(void)
{
    RUN(murmur2_is_kafkas);
    RUN(hash64_spreads);
    RUN(hash64_sees_every_byte);
    RUN(jump_moves_least);
    FINISH();
}
