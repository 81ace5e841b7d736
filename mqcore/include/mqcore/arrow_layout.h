/* arrow_layout.h -- byte ranges (starts and lengths, as batch_iter makes them) in Arrow's buffer layouts.
 * Record framing lies between values, so Arrow's Binary (one buffer, rising positions) needs a copy: gather. Its
 * BinaryView keeps a position and a length per value and shares the segment: views.
 * Source: https://arrow.apache.org/docs/format/Columnar.html (variable-size binary, binary view).
 * The ranges are the caller's own (checked when they were decoded); length -1 is null and takes no bytes. */
#ifndef MQCORE_ARROW_LAYOUT_H
#define MQCORE_ARROW_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MQ_ARROW_VIEW = 16, MQ_ARROW_INLINE = 12 };

/* Bytes that all ranges take together. */
int64_t mq_arrow_size(const int32_t *lengths, size_t count);

/* Copy the ranges one after the other to data (mq_arrow_size bytes); positions: room for count + 1. */
void mq_arrow_gather(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count, uint8_t *data,
                     int64_t *positions);

/* count views of 16 bytes over the one buffer that starts at bytes + origin; starts - origin fits int32. */
void mq_arrow_views(const uint8_t *bytes, const int64_t *starts, const int32_t *lengths, size_t count, int64_t origin,
                    uint8_t *views);

/* The validity bitmap, one bit a value, 0 for null ((count + 7) / 8 bytes); returns the number of nulls. */
size_t mq_arrow_validity(const int32_t *lengths, size_t count, uint8_t *bits);

#endif
