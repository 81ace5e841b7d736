#include "mqcore/index_file.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>

#include "mqcore/alloc.h"

/* Binary search probes single entries until what is left fits here, then reads that in one go. */
#define BLOCK_BYTES 4096

void mq_index_init(mq_index *index, uint32_t entry_size)
{
    assert(entry_size > 0 && entry_size <= MQ_INDEX_ENTRY_MAX);
    *index = (mq_index){.entry_size = entry_size};
}

void mq_index_free(mq_index *index)
{
    mq_free(index->tail);
    index->tail = NULL;
    index->tail_count = index->pending = index->capacity = 0;
}

mq_status mq_index_reserve(mq_index *index, uint32_t extra, mq_error *err)
{
    const uint64_t need = (uint64_t)index->tail_count + extra;
    if (need <= index->capacity)
        return MQ_OK;
    uint64_t capacity = index->capacity > 0 ? index->capacity : 32;
    while (capacity < need)
        capacity *= 2;
    if (capacity > UINT32_MAX / index->entry_size)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "an index is too large for memory");
    uint8_t *tail = mq_realloc(index->tail, (size_t)capacity * index->entry_size);
    if (tail == NULL)
        return mq_fail(err, MQ_ENOMEM, NULL, 0, "no memory for index entries");
    index->tail = tail;
    index->capacity = (uint32_t)capacity;
    return MQ_OK;
}

uint8_t *mq_index_push(mq_index *index)
{
    assert(index->tail_count + index->pending < index->capacity);
    return index->tail + (size_t)(index->tail_count + index->pending++) * index->entry_size;
}

void mq_index_commit(mq_index *index)
{
    index->tail_count += index->pending;
    index->pending = 0;
}

void mq_index_forget(mq_index *index)
{
    index->pending = 0;
}

/* How many of `count` entries, the first of which has number `first`, are not after target. */
static uint32_t search(const uint8_t *entries, uint32_t count, uint32_t entry_size, uint32_t first,
                       mq_index_after after, const void *target)
{
    uint32_t low = 0;
    uint32_t high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (after(entries + (size_t)middle * entry_size, first + middle, target))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

bool mq_index_floor_tail(const mq_index *index, mq_index_after after, const void *target, uint8_t *entry)
{
    const uint32_t found = search(index->tail, index->tail_count, index->entry_size, index->spilled, after, target);
    if (found == 0)
        return false;
    memcpy(entry, index->tail + (size_t)(found - 1) * index->entry_size, index->entry_size);
    return true;
}

static bool floor_open_file(mq_io *io, int fd, const char *path, uint32_t entry_size, uint32_t count,
                            mq_index_after after, const void *target, uint8_t *entry, uint32_t *slots)
{
    uint8_t block[BLOCK_BYTES];
    uint32_t low = 0; /* entries before `low` are not after target, those from `high` on are */
    uint32_t high = count;
    while (high - low > BLOCK_BYTES / entry_size - 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (mq_io_read_all(io, fd, block, entry_size, (uint64_t)middle * entry_size, path, NULL) != MQ_OK)
            return false;
        if (after(block, middle, target))
            high = middle;
        else
            low = middle + 1;
    }
    const uint32_t first = low > 0 ? low - 1 : 0; /* one more: the answer may be the entry before `low` */
    if (high == first)
        return false;
    if (mq_io_read_all(io, fd, block, (size_t)(high - first) * entry_size, (uint64_t)first * entry_size, path, NULL) !=
        MQ_OK)
        return false;
    const uint32_t found = search(block, high - first, entry_size, first, after, target);
    *slots = first + found;
    if (found == 0)
        return false;
    memcpy(entry, block + (size_t)(found - 1) * entry_size, entry_size);
    return true;
}

bool mq_index_floor_file(mq_io *io, const char *path, uint32_t entry_size, uint32_t limit, mq_index_after after,
                         const void *target, uint8_t *entry, uint32_t *slots)
{
    int fd;
    uint64_t size = 0;
    uint32_t ignored;
    slots = slots != NULL ? slots : &ignored;
    *slots = 0;
    if (limit == 0 || mq_io_open(io, path, O_RDONLY, 0, &fd, NULL) != MQ_OK)
        return false;
    bool found = false;
    if (mq_io_size(fd, &size, path, NULL) == MQ_OK) {
        const uint64_t count = size / entry_size;
        found = floor_open_file(io, fd, path, entry_size, count < limit ? (uint32_t)count : limit, after, target, entry,
                                slots);
    }
    mq_io_close(io, fd);
    return found;
}

mq_status mq_index_write_tail(mq_index *index, mq_io *io, const char *path, bool durable, mq_error *err)
{
    if (index->tail_count == 0 && !index->overlong && !durable)
        return MQ_OK;
    int fd;
    mq_status status = mq_io_open(io, path, O_WRONLY | O_CREAT, 0600, &fd, err);
    if (status != MQ_OK)
        return status;
    const uint64_t end = (uint64_t)index->spilled * index->entry_size;
    if (index->overlong) {
        status = mq_io_resize(io, fd, end, path, err);
        if (status == MQ_OK)
            index->overlong = false;
    }
    if (status == MQ_OK)
        status = mq_io_write_all(io, fd, index->tail, (size_t)index->tail_count * index->entry_size, end, path, err);
    if (status != MQ_OK)
        index->overlong = true; /* a torn write may have left a part of an entry */
    if (status == MQ_OK && durable && io->fsync(io, fd) != 0)
        status = mq_fail(err, MQ_EIO, path, 0, "fsync of an index");
    mq_io_close(io, fd);
    return status;
}

void mq_index_spilled(mq_index *index)
{
    assert(index->pending == 0);
    index->spilled += index->tail_count;
    index->tail_count = 0;
    if (index->capacity * index->entry_size > 4 * MQ_INDEX_SPILL_BYTES) { /* grew while spills failed: give it back */
        mq_free(index->tail);
        index->tail = NULL;
        index->capacity = 0;
    }
}

void mq_index_cut(mq_index *index, uint32_t count)
{
    index->tail_count = index->pending = 0;
    index->spilled = count;
    index->overlong = true;
}
