/* Gathered values and views read back as the values they were made of, nulls and inline ones included. */
#include "mqcore/arrow_layout.h"
#include "test.h"

static const char TEXT[] = "....short..a value of more than twelve bytes...exactly12byt";
static const int64_t STARTS[] = {4, 11, 9, 0, 47};
static const int32_t LENGTHS[] = {5, 33, 0, -1, 12};

static void gather(void)
{
    int64_t positions[6];
    CHECK(mq_arrow_size(LENGTHS, 5) == 50);
    unsigned char *data = exact_copy(TEXT, 50);
    mq_arrow_gather((const uint8_t *)TEXT, STARTS, LENGTHS, 5, data, positions);
    for (size_t i = 0; i < 5; i++) {
        const int64_t length = LENGTHS[i] > 0 ? LENGTHS[i] : 0;
        CHECK(positions[i + 1] - positions[i] == length);
        CHECK(memcmp(data + positions[i], TEXT + STARTS[i], (size_t)length) == 0);
    }
    free(data);
}

static void views(void)
{
    uint8_t made[5 * MQ_ARROW_VIEW];
    const int64_t origin = 3;
    mq_arrow_views((const uint8_t *)TEXT, STARTS, LENGTHS, 5, origin, made);
    for (size_t i = 0; i < 5; i++) {
        const uint8_t *view = made + i * MQ_ARROW_VIEW;
        int32_t length, buffer, position;
        memcpy(&length, view, 4);
        memcpy(&buffer, view + 8, 4);
        memcpy(&position, view + 12, 4);
        CHECK(length == (LENGTHS[i] > 0 ? LENGTHS[i] : 0));
        if (length <= MQ_ARROW_INLINE) {
            CHECK(memcmp(view + 4, TEXT + STARTS[i], (size_t)length) == 0);
        } else {
            CHECK(buffer == 0 && position + origin == STARTS[i] && memcmp(view + 4, TEXT + STARTS[i], 4) == 0);
        }
    }
}

static void validity(void)
{
    uint8_t bits[1];
    CHECK(mq_arrow_validity(LENGTHS, 5, bits) == 1 && bits[0] == 0x17);
    CHECK(mq_arrow_validity(LENGTHS, 3, bits) == 0 && bits[0] == 0x07);
}

int main(void)
{
    RUN(gather);
    RUN(views);
    RUN(validity);
    FINISH();
}
