/* Every implementation of CRC-32C gives the value of the bit-by-bit definition, for every length, alignment and cut. */
#include "mqcore/crc32c.h"

#include "test.h"

static unsigned char *noise(size_t size)
{
    unsigned char *bytes = malloc(size);
    if (bytes == NULL)
        abort();
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < size; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (unsigned char)(state >> 24);
    }
    return bytes;
}

static uint32_t one_byte(uint32_t crc, unsigned char byte)
{
    crc = ~crc ^ byte;
    for (int bit = 0; bit < 8; bit++)
        crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u)));
    return ~crc;
}

static void vectors(void)
{
    unsigned char zeros[32] = {0}, ones[32];
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; mq_crc32c_name(i) != NULL; i++) {
        if (!mq_crc32c_usable(i))
            continue;
        CHECK(mq_crc32c_with(i, 0, "", 0) == 0);
        CHECK(mq_crc32c_with(i, 0, "123456789", 9) == 0xE3069283u);
        CHECK(mq_crc32c_with(i, 0, zeros, 32) == 0x8A9136AAu); /* RFC 3720, B.4 */
        CHECK(mq_crc32c_with(i, 0, ones, 32) == 0x62A8AB43u);
    }
}

static void every_length(void)
{
    enum { LENGTHS = 3001 };
    unsigned char *bytes = noise(LENGTHS);
    uint32_t expected[LENGTHS], seeded[LENGTHS];
    expected[0] = 0;
    seeded[0] = 0xDEADBEEFu;
    for (int n = 1; n < LENGTHS; n++) {
        expected[n] = one_byte(expected[n - 1], bytes[n - 1]);
        seeded[n] = one_byte(seeded[n - 1], bytes[n - 1]);
    }
    for (int i = 0; mq_crc32c_name(i) != NULL; i++) {
        if (!mq_crc32c_usable(i))
            continue;
        int wrong = 0;
        for (int n = 0; n < LENGTHS; n++) {
            unsigned char *exact = exact_copy(bytes, (size_t)n);
            wrong += mq_crc32c_with(i, 0, exact, (size_t)n) != expected[n];
            wrong += mq_crc32c_with(i, 0xDEADBEEFu, exact, (size_t)n) != seeded[n];
            free(exact);
        }
        if (wrong != 0)
            fprintf(stderr, "%s: %d wrong\n", mq_crc32c_name(i), wrong);
        CHECK(wrong == 0);
    }
    free(bytes);
}

static void every_alignment_and_large(void)
{
    enum { SIZE = 70000 };
    unsigned char *bytes = noise(SIZE + 64);
    for (size_t shift = 0; shift < 64; shift++) {
        const size_t size = SIZE - 7 * shift;
        const uint32_t expected = mq_crc32c_with(0, 7, bytes + shift, size);
        for (int i = 1; mq_crc32c_name(i) != NULL; i++)
            if (mq_crc32c_usable(i))
                CHECK(mq_crc32c_with(i, 7, bytes + shift, size) == expected);
    }
    free(bytes);
}

static void chained(void)
{
    enum { SIZE = 20000 };
    unsigned char *bytes = noise(SIZE);
    const uint32_t expected = mq_crc32c_with(0, 0, bytes, SIZE);
    int paths = 0;
    while (mq_crc32c_name(paths) != NULL)
        paths++;
    uint32_t crc = 0;
    size_t at = 0;
    for (int turn = 0; at < SIZE; turn++) { /* a cut of another size, through another path, each turn */
        size_t size = (size_t)turn * 37 % 1500;
        if (size > SIZE - at)
            size = SIZE - at;
        const int path = turn % paths;
        crc = mq_crc32c_with(mq_crc32c_usable(path) ? path : 0, crc, bytes + at, size);
        at += size;
    }
    CHECK(crc == expected);
    CHECK(mq_crc32c(0, bytes, SIZE) == expected);
    CHECK(mq_crc32c(mq_crc32c(0, bytes, 777), bytes + 777, SIZE - 777) == expected);
    free(bytes);
}

static void environment_chooses(void)
{
    for (int i = 0; mq_crc32c_name(i) != NULL; i++) {
        setenv("MQCORE_CRC32C", mq_crc32c_name(i), 1);
        CHECK(mq_crc32c_active() == i || !mq_crc32c_usable(i));
    }
    setenv("MQCORE_CRC32C", "no such path", 1);
    CHECK(mq_crc32c_usable(mq_crc32c_active()));
    unsetenv("MQCORE_CRC32C");
    CHECK(mq_crc32c_name(-1) == NULL && !mq_crc32c_usable(-1) && !mq_crc32c_usable(99));
}

int main(void)
{
    RUN(vectors);
    RUN(every_length);
    RUN(every_alignment_and_large);
    RUN(chained);
    RUN(environment_chooses);
    FINISH();
}
