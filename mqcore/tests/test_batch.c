/* A batch passes exactly if its header, checksum and records are sound: each broken rule has its status, no read leaves
 * the bytes given, and what is stamped in place changes nothing else. */
#include "mqcore/batch.h"

#include "batch_maker.h"

static maker m;
static mq_error err;

static mq_status parse(const uint8_t *bytes, size_t size, mq_batch *b)
{
    unsigned char *exact = exact_copy(bytes, size);
    const mq_status status = mq_batch_parse(exact, size, MQ_BATCH_BYTES_MAX, b, &err);
    free(exact);
    return status;
}

static mq_status check_and_walk(const uint8_t *bytes, size_t size)
{
    mq_batch b;
    unsigned char *exact = exact_copy(bytes, size);
    mq_status status = mq_batch_check(exact, size, MQ_BATCH_BYTES_MAX, &b, &err);
    if (status == MQ_OK)
        status = mq_batch_walk(exact, &b, &err);
    free(exact);
    return status;
}

static void make(void)
{
    m.size = 0;
    maker_open(&m, 7, 0);
    maker_record(&m, 0, 0, NULL, "a value of some length, past the fast path's margin", 0);
    maker_record(&m, 1, 70000, "key", "v", 0);
    maker_record(&m, 2, -5, "", "", 2);
    maker_record(&m, 4, 5, NULL, NULL, 0);
    maker_close(&m);
}

static void fields_are_read(void)
{
    mq_batch b;
    make();
    mq_batch_assign(m.bytes, 1LL << 40, 9);
    CHECK(parse(m.bytes, m.size, &b) == MQ_OK);
    CHECK(b.base_offset == 1LL << 40 && b.leader_epoch == 9 && b.size == m.size && b.record_count == 4);
    CHECK(b.last_offset_delta == 4 && mq_batch_last_offset(&b) == (1LL << 40) + 4);
    CHECK(b.base_timestamp == 1000 && b.max_timestamp == 2000 && b.producer_id == -1);
    CHECK(check_and_walk(m.bytes, m.size) == MQ_OK); /* assign is outside the CRC */
}

static void every_cut_is_truncated(void)
{
    mq_batch b;
    make();
    for (size_t size = 0; size < m.size; size++)
        CHECK(parse(m.bytes, size, &b) == MQ_ETRUNCATED);
}

static void every_flip_is_found(void)
{
    make();
    for (size_t bit = 0; bit < m.size * 8; bit++) {
        const size_t at = bit / 8;
        m.bytes[at] ^= (uint8_t)(1u << (bit % 8));
        const mq_status status = check_and_walk(m.bytes, m.size);
        /* Base offset and leader epoch lie outside the CRC: the reader's continuity check is what finds those. */
        CHECK(at < 8 || (at >= 12 && at < 16) ? status == MQ_OK || status == MQ_ECORRUPT : status != MQ_OK);
        m.bytes[at] ^= (uint8_t)(1u << (bit % 8));
    }
}

static void header_rules(void)
{
    mq_batch b;
    make();
    CHECK(mq_batch_parse(m.bytes, m.size, (uint32_t)m.size - 1, &b, &err) == MQ_ETOOBIG);
    m.bytes[16] = 1;
    CHECK(parse(m.bytes, m.size, &b) == MQ_EUNSUPPORTED);
    m.bytes[16] = 3;
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT);
    make();
    mq_store_be32(m.bytes + 8, 48);
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT); /* shorter than a header */
    mq_store_be32(m.bytes + 8, 0x80000000u);
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT);
    make();
    mq_store_be64(m.bytes, INT64_MAX - 4);
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT); /* the offset after the last one would not fit */
    mq_store_be64(m.bytes, INT64_MAX - 5);
    CHECK(parse(m.bytes, m.size, &b) == MQ_OK);
    make();
    mq_store_be32(m.bytes + 57, 6); /* more records than offsets */
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT);
    mq_store_be32(m.bytes + 57, 0xffffffffu);
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT);
    make();
    mq_store_be32(m.bytes + 23, 0xffffffffu);
    CHECK(parse(m.bytes, m.size, &b) == MQ_ECORRUPT);
}

/* Set one byte, seal, and see what the walk says. */
static mq_status walk_with(size_t at, uint8_t byte)
{
    make();
    m.bytes[at] = byte;
    mq_batch_seal(m.bytes, m.size);
    return check_and_walk(m.bytes, m.size);
}

static void records_are_walked(void)
{
    mq_batch b;
    for (size_t at = MQ_BATCH_HEADER; at < MQ_BATCH_HEADER + 6; at++)
        CHECK(walk_with(at, 0xff) == MQ_ECORRUPT || at == MQ_BATCH_HEADER + 1); /* +1: attributes, free to vary */
    make();
    mq_store_be32(m.bytes + 57, 3);
    mq_batch_seal(m.bytes, m.size);
    CHECK(check_and_walk(m.bytes, m.size) == MQ_ECORRUPT); /* bytes after the last record */
    m.size = 0;
    maker_open(&m, 0, 0);
    maker_record(&m, 1, 0, NULL, "x", 0);
    maker_record(&m, 1, 0, NULL, "y", 0);
    maker_close(&m);
    CHECK(check_and_walk(m.bytes, m.size) == MQ_ECORRUPT); /* offsets do not rise */
    m.size = 0;
    maker_batch(&m, 0, 1, 4);
    CHECK(check_and_walk(m.bytes, m.size) == MQ_EUNSUPPORTED); /* compressed */
    CHECK(parse(m.bytes, m.size, &b) == MQ_OK);
}

static void append_time_is_stamped(void)
{
    mq_batch b;
    make();
    mq_batch_set_append_time(m.bytes, m.size, 123456789012345);
    CHECK(check_and_walk(m.bytes, m.size) == MQ_OK);
    CHECK(parse(m.bytes, m.size, &b) == MQ_OK);
    CHECK(b.max_timestamp == 123456789012345 && (b.attributes & MQ_ATTR_LOG_APPEND_TIME) && b.base_timestamp == 1000);
}

static void a_survey_takes_whole_batches_only(void)
{
    mq_batches_facts facts;
    m.size = 0;
    CHECK(!mq_batches_survey(m.bytes, 0, 1 << 20, &facts));
    maker_batch(&m, 7, 3, 0);
    const size_t first = m.size;
    maker_batch(&m, 7, 5, 0);
    mq_store_be64(m.bytes + first + 27, 900);  /* base timestamp */
    mq_store_be64(m.bytes + first + 35, 5000); /* maximal timestamp */
    mq_store_be64(m.bytes + 27, 1000);
    mq_store_be64(m.bytes + 35, 2000);
    CHECK(mq_batches_survey(m.bytes, m.size, 1 << 20, &facts) && facts.offsets == 8);
    CHECK(facts.base_timestamp == 900 && facts.max_timestamp == 5000);
    CHECK(mq_batches_survey(m.bytes, first, 1 << 20, &facts) && facts.offsets == 3 && facts.max_timestamp == 2000);
    for (size_t size = 1; size < m.size; size++) {
        uint8_t *copy = exact_copy(m.bytes, size); /* nothing is read outside */
        CHECK(mq_batches_survey(copy, size, 1 << 20, &facts) == (size == first));
        free(copy);
    }
    CHECK(!mq_batches_survey(m.bytes, m.size, (uint32_t)(m.size - first) - 1, &facts)); /* the second is too large */
    m.bytes[first + 16] = 1;                                                            /* magic */
    CHECK(!mq_batches_survey(m.bytes, m.size, 1 << 20, &facts));
}

int main(void)
{
    RUN(fields_are_read);
    RUN(every_cut_is_truncated);
    RUN(every_flip_is_found);
    RUN(header_rules);
    RUN(records_are_walked);
    RUN(append_time_is_stamped);
    RUN(a_survey_takes_whole_batches_only);
    FINISH();
}
