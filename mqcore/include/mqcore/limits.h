/* limits.h -- every bound that the core puts on bytes from outside, in one place, with its reason.
 * A length is compared with its limit before it is used in arithmetic, an index or an allocation. */
#ifndef MQCORE_LIMITS_H
#define MQCORE_LIMITS_H

#include <stdint.h>

/* A batch's batch_length field is int32; 128 MiB above one 100 MB record leaves room and still maps. */
#define MQ_BATCH_BYTES_MAX (256u << 20)
/* Keys, values and header values are int32 varints on the wire; a record must fit in a batch. */
#define MQ_RECORD_BYTES_MAX (255u << 20)
/* Headers are walked for each record: a bound on what one record can cost. */
#define MQ_HEADERS_MAX 65536
/* Positions in the offset index are int32 (Kafka's format), so no segment passes 2 GiB - 1. */
#define MQ_SEGMENT_BYTES_MAX ((uint64_t)INT32_MAX)
/* Relative offsets in indexes and last_offset_delta are int32. */
#define MQ_OFFSET_DELTA_MAX INT32_MAX
/* One journal record: a round of batches under one checksum. */
#define MQ_JOURNAL_RECORD_BYTES_MAX (8u << 20)
/* A path, with room for the suffixes that the core appends. */
#define MQ_PATH_MAX 1024

#endif
