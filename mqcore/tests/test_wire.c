/* Varints read back as written for every length of them, and the cursor never passes its end. */
#include "mqcore/wire.h"
#include "test.h"

static const int64_t VALUES[] = {0,          -1,        1,         63,        -64,       64,
                                 -65,        8191,      -8192,     8192,      1048575,   134217727,
                                 -134217728, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN, 1LL << 62};
enum { VALUE_COUNT = sizeof VALUES / sizeof VALUES[0] };

static void varints_round_trip(void)
{
    for (size_t i = 0; i < VALUE_COUNT; i++) {
        uint8_t bytes[10];
        const size_t size = (size_t)(mq_put_varint(bytes, VALUES[i]) - bytes);
        CHECK(size == mq_varint_size(VALUES[i]));
        unsigned char *exact = exact_copy(bytes, size);
        mq_wire w = mq_wire_of(exact, size);
        CHECK(mq_wire_varlong(&w) == VALUES[i] && !w.failed && w.at == w.end);
        if (VALUES[i] >= INT32_MIN && VALUES[i] <= INT32_MAX) {
            w = mq_wire_of(exact, size);
            CHECK(mq_wire_varint(&w) == VALUES[i] && !w.failed && w.at == w.end);
        }
        free(exact);
    }
}

static void cut_varints_fail(void)
{
    for (size_t i = 0; i < VALUE_COUNT; i++) {
        uint8_t bytes[10];
        const size_t size = (size_t)(mq_put_varint(bytes, VALUES[i]) - bytes);
        for (size_t cut = 0; cut < size; cut++) {
            unsigned char *exact = exact_copy(bytes, cut);
            mq_wire w = mq_wire_of(exact, cut);
            CHECK(mq_wire_varlong(&w) == 0 && w.failed && w.at <= w.end);
            free(exact);
        }
    }
}

static void overlong_varints_fail(void)
{
    const uint8_t bytes[11] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    mq_wire w = mq_wire_of(bytes, sizeof bytes);
    mq_wire_varint(&w);
    CHECK(w.failed);
    w = mq_wire_of(bytes, sizeof bytes);
    mq_wire_varlong(&w);
    CHECK(w.failed);
    const uint8_t above[5] = {0xff, 0xff, 0xff, 0xff, 0x1f}; /* 33 bits */
    w = mq_wire_of(above, sizeof above);
    mq_wire_varint(&w);
    CHECK(w.failed);
}

static void fixed_reads_are_bounded(void)
{
    uint8_t bytes[8];
    mq_store_be64(bytes, 0x0102030405060708u);
    CHECK(mq_load_be16(bytes) == 0x0102 && mq_load_be32(bytes) == 0x01020304u);
    for (size_t size = 0; size <= 8; size++) {
        unsigned char *exact = exact_copy(bytes, size);
        mq_wire w = mq_wire_of(exact, size);
        CHECK(mq_wire_i64(&w) == (size == 8 ? 0x0102030405060708 : 0) && w.failed == (size < 8));
        w = mq_wire_of(exact, size);
        CHECK(mq_wire_i32(&w) == (size >= 4 ? 0x01020304 : 0) && w.failed == (size < 4));
        w = mq_wire_of(exact, size);
        CHECK(mq_wire_u8(&w) == (size >= 1 ? 1 : 0) && w.failed == (size < 1));
        free(exact);
    }
    mq_store_be32(bytes, 0xfffefdfcu);
    mq_store_be16(bytes, 0x0a0b);
    CHECK(bytes[0] == 0x0a && bytes[1] == 0x0b && bytes[2] == 0xfd && bytes[3] == 0xfc);
}

int main(void)
{
    RUN(varints_round_trip);
    RUN(cut_varints_fail);
    RUN(overlong_varints_fail);
    RUN(fixed_reads_are_bounded);
    FINISH();
}
