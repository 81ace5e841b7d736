/* segment_read.h -- where in a segment is an offset, a time, the end of so many bytes; and its read mapping.
 * Invariants:
 *   I1  every position returned is the start of a batch or the end of the data.
 *   I2  headers are read with pread, so a bad sector or a cut file is MQ_EIO or MQ_ETRUNCATED, never a signal.
 *   I3  an index entry is used only after the header at its position named the same last offset; else the search
 *       starts at the beginning of the file: slow, and right.
 * All may run in any thread beside the writer. */
#ifndef MQCORE_SEGMENT_READ_H
#define MQCORE_SEGMENT_READ_H

#include "mqcore/segment.h"

/* Position of the batch that holds offset, or of the first one after it; the size if there is none. */
mq_status mq_segment_lookup(mq_segment *segment, int64_t offset, uint64_t *position, mq_error *err);

/* End of the whole batches from `start` (a batch's first byte): at most max_bytes but at least one batch, all with a
 * last offset < limit_offset. `start` itself if the first batch is not below limit_offset, or at the end. */
mq_status mq_segment_lookup_ends(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset,
                                 uint64_t *end, mq_error *err);

/* The same from where a reader was at the end of the segment, looking at the length of the file first: beside a writer of
 * another process it has grown. `start` itself if nothing follows in this file. */
mq_status mq_segment_tail(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset, uint64_t *end,
                          mq_error *err);

/* Base offset of the first batch whose max_timestamp >= timestamp, -1: none. */
mq_status mq_segment_lookup_time(mq_segment *segment, int64_t timestamp, int64_t *offset, mq_error *err);

/* Map the log read-only, at least [0, end) and some space for its growth: bytes past the file's end may be mapped and
 * must not be touched. address, length: out, for mq_unmap. */
mq_status mq_segment_map(mq_segment *segment, uint64_t end, void **address, size_t *length, mq_error *err);
void mq_unmap(void *address, size_t length);

/* Bring [start, end) of a mapping into memory. MQ_EIO (EFAULT: the file was cut; EIO, EHWPOISON: a bad sector) here,
 * instead of a SIGBUS at the read; about 1 us a MiB that is mapped and in memory. Where the kernel lacks
 * MADV_POPULATE_READ (before Linux 5.14) the file is read once with pread through `io`. */
mq_status mq_map_populate(mq_io *io, void *address, size_t length, uint64_t start, uint64_t end, const char *path,
                          mq_error *err);

#endif
