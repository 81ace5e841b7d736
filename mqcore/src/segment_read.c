#include "mqcore/segment_read.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mqcore/limits.h"
#include "segment_state.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

/* A mapping reaches past the end by up to this much, so that a growing file needs few of them. */
#define MAP_STEP ((uint64_t)64 << 20)
/* Pages looked at by one mincore. */
enum { RESIDENT_PAGES = 1024 };
/* Below this many bytes a few headers cost less than a search in the index. */
#define SKIP_BYTES ((uint64_t)64 << 10)

mq_extent mq_seg_extent(mq_segment *segment)
{
    pthread_mutex_lock(&segment->lock);
    const mq_extent extent = {mq_seg_written(segment), mq_seg_next(segment), segment->truncations};
    pthread_mutex_unlock(&segment->lock);
    return extent;
}

/* Remember where a reader will go on, unless the log was cut since it looked. */
static void add_hint(mq_segment *segment, const mq_extent *seen, int64_t offset, uint64_t position)
{
    pthread_mutex_lock(&segment->lock);
    if (segment->truncations == seen->truncations)
        segment->hints[segment->next_hint++ % HINTS] = (mq_hint){offset, position};
    pthread_mutex_unlock(&segment->lock);
}

void mq_seg_clear_hints(mq_segment *segment)
{
    pthread_mutex_lock(&segment->lock);
    for (int i = 0; i < HINTS; i++)
        segment->hints[i].offset = -1;
    pthread_mutex_unlock(&segment->lock);
}

static bool find_hint(mq_segment *segment, int64_t offset, uint64_t *position)
{
    bool found = false;
    pthread_mutex_lock(&segment->lock);
    for (int i = 0; i < HINTS && !found; i++) {
        found = segment->hints[i].offset == offset;
        if (found)
            *position = segment->hints[i].position;
    }
    pthread_mutex_unlock(&segment->lock);
    return found;
}

/* Newest offset index entry that is not after target: in the tail, else in the file. */
static bool floor_entry(mq_segment *segment, const mq_offset_target *target, mq_offset_entry *entry)
{
    uint8_t bytes[MQ_INDEX_ENTRY_MAX];
    char path[MQ_PATH_MAX];
    pthread_mutex_lock(&segment->lock);
    const bool loaded = atomic_load_explicit(&segment->loaded_bytes, memory_order_relaxed) != UINT64_MAX;
    const uint32_t limit = loaded ? segment->index.offsets.spilled : UINT32_MAX;
    bool found = mq_index_floor_tail(&segment->index.offsets, mq_offset_index_after, target, bytes);
    pthread_mutex_unlock(&segment->lock);
    if (!found && mq_seg_sibling(segment, ".index", path, NULL) == MQ_OK)
        found =
            mq_index_floor_file(segment->io, path, MQ_OFFSET_ENTRY, limit, mq_offset_index_after, target, bytes, NULL);
    if (found)
        *entry = mq_offset_entry_get(bytes);
    return found;
}

void mq_seg_floor(mq_segment *segment, mq_walk *walk, int fd, int64_t offset, uint64_t max_position, uint64_t end,
                  bool *stepped)
{
    const mq_offset_target target = {
        offset - segment->base_offset,
        max_position < MQ_SEGMENT_BYTES_MAX ? (int64_t)max_position : (int64_t)MQ_SEGMENT_BYTES_MAX,
    };
    mq_offset_entry entry;
    *stepped = false;
    if (floor_entry(segment, &target, &entry) && entry.position >= 0 && (uint64_t)entry.position < end) {
        mq_walk_start(walk, segment->io, fd, segment->path, (uint64_t)entry.position, end);
        if (mq_walk_next(walk, NULL) == MQ_OK && walk->last_offset == segment->base_offset + entry.relative_offset) {
            *stepped = true;
            return;
        }
    }
    mq_walk_start(walk, segment->io, fd, segment->path, 0, end); /* I3 */
}

mq_status mq_segment_lookup(mq_segment *segment, int64_t offset, uint64_t *position, mq_error *err)
{
    mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    const mq_extent seen = mq_seg_extent(segment);
    const uint64_t end = seen.size;
    *position = offset <= segment->base_offset ? 0 : end;
    if (offset <= segment->base_offset || offset >= seen.next_offset)
        return MQ_OK;
    if (find_hint(segment, offset, position))
        return MQ_OK;
    int fd;
    if ((status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    mq_walk walk;
    bool stepped;
    mq_seg_floor(segment, &walk, fd, offset, end, end, &stepped);
    while (status == MQ_OK && (!stepped || walk.last_offset < offset)) {
        status = mq_walk_next(&walk, err);
        stepped = true;
    }
    mq_seg_put_fd(segment);
    if (status == MQ_ENOTFOUND) { /* a gap at the end (compaction): position is already the size */
        *position = end;
        return MQ_OK;
    }
    *position = walk.at;
    return status;
}

/* From a batch of the walk on: the end of what fits. */
static mq_status walk_ends(mq_walk *walk, bool stepped, uint64_t start, uint64_t max_bytes, int64_t limit_offset,
                           uint64_t *end, int64_t *next, mq_error *err)
{
    *end = start;
    for (;;) {
        if (!stepped) {
            const mq_status status = mq_walk_next(walk, err);
            if (status == MQ_ENOTFOUND)
                return MQ_OK;
            if (status != MQ_OK)
                return status;
        }
        stepped = false;
        *next = walk->batch.base_offset;
        if (walk->last_offset >= limit_offset || (walk->position - start > max_bytes && walk->at > start))
            break;
        *end = walk->position;
        *next = walk->last_offset + 1;
        /* Not a byte past the limit is looked at: beside a writer it may be half written (a reader's case). */
        if (walk->position - start >= max_bytes || *next >= limit_offset)
            break;
    }
    if (*end < walk->at) /* the first batch after a skip did not fit: what was skipped did */
        *end = walk->at;
    return MQ_OK;
}

mq_status mq_segment_lookup_ends(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset,
                                 uint64_t *end, mq_error *err)
{
    mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    const mq_extent seen = mq_seg_extent(segment);
    const uint64_t written = seen.size;
    *end = start;
    if (start >= written)
        return MQ_OK;
    if (written - start <= max_bytes && limit_offset >= seen.next_offset) { /* all that is there */
        *end = written;
        add_hint(segment, &seen, seen.next_offset, written);
        return MQ_OK;
    }
    int fd;
    if ((status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    mq_walk walk;
    bool stepped = false;
    if (max_bytes > SKIP_BYTES && written - start > SKIP_BYTES && limit_offset > segment->base_offset) {
        const uint64_t furthest = written - start > max_bytes ? start + max_bytes : written;
        mq_seg_floor(segment, &walk, fd, limit_offset - 1, furthest, written, &stepped);
        stepped = stepped && walk.at > start;
    }
    if (!stepped)
        mq_walk_start(&walk, segment->io, fd, segment->path, start, written);
    int64_t next = -1;
    status = walk_ends(&walk, stepped, start, max_bytes, limit_offset, end, &next, err);
    mq_seg_put_fd(segment);
    if (status == MQ_OK && next >= 0)
        add_hint(segment, &seen, next, *end);
    return status;
}

mq_status mq_segment_tail(mq_segment *segment, uint64_t start, uint64_t max_bytes, int64_t limit_offset, uint64_t *end,
                          mq_error *err)
{
    if (!segment->writable) {
        int fd;
        uint64_t size = 0;
        mq_status status = mq_seg_get_fd(segment, &fd, err);
        if (status != MQ_OK)
            return status;
        status = mq_io_size(fd, &size, segment->path, err);
        mq_seg_put_fd(segment);
        if (status != MQ_OK)
            return status;
        /* Shorter than it was, or past the limits: not refreshed, so what was there is all there is. */
        mq_error unused;
        (void)mq_segment_refresh(segment, size, mq_seg_next(segment), &unused);
    }
    return mq_segment_lookup_ends(segment, start, max_bytes, limit_offset, end, err);
}

/* Where to begin to look for a timestamp: after the newest time index entry below it, if the log agrees with it. */
static void floor_time(mq_segment *segment, mq_walk *walk, int fd, int64_t timestamp, uint64_t end)
{
    uint8_t bytes[MQ_INDEX_ENTRY_MAX];
    char path[MQ_PATH_MAX];
    pthread_mutex_lock(&segment->lock);
    const uint32_t limit = segment->index.times.spilled;
    bool found = mq_index_floor_tail(&segment->index.times, mq_time_index_after_time, &timestamp, bytes);
    pthread_mutex_unlock(&segment->lock);
    if (!found && mq_seg_sibling(segment, ".timeindex", path, NULL) == MQ_OK)
        found = mq_index_floor_file(segment->io, path, MQ_TIME_ENTRY, limit, mq_time_index_after_time, &timestamp,
                                    bytes, NULL);
    if (found) {
        const mq_time_entry entry = mq_time_entry_get(bytes);
        const int64_t offset = segment->base_offset + entry.relative_offset;
        bool stepped;
        mq_seg_floor(segment, walk, fd, offset, end, end, &stepped);
        mq_status status = MQ_OK;
        if (!stepped)
            status = mq_walk_next(walk, NULL);
        while (status == MQ_OK && walk->last_offset < offset)
            status = mq_walk_next(walk, NULL);
        if (status == MQ_OK && walk->last_offset == offset && walk->batch.max_timestamp == entry.timestamp)
            return; /* the walk goes on behind that batch */
    }
    mq_walk_start(walk, segment->io, fd, segment->path, 0, end);
}

mq_status mq_segment_lookup_time(mq_segment *segment, int64_t timestamp, int64_t *offset, mq_error *err)
{
    mq_segment_info info;
    *offset = -1;
    mq_status status = mq_segment_get_info(segment, &info, err);
    const uint64_t end = mq_seg_written(segment);
    if (status != MQ_OK || end == 0)
        return status;
    int fd;
    if ((status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    mq_walk walk;
    floor_time(segment, &walk, fd, timestamp, end);
    while ((status = mq_walk_next(&walk, err)) == MQ_OK && walk.batch.max_timestamp < timestamp)
        ;
    mq_seg_put_fd(segment);
    if (status == MQ_OK)
        *offset = walk.batch.base_offset;
    return status == MQ_ENOTFOUND ? MQ_OK : status;
}

mq_status mq_segment_map(mq_segment *segment, uint64_t end, void **address, size_t *length, mq_error *err)
{
    mq_status status = mq_seg_open_state(segment, err);
    if (status != MQ_OK)
        return status;
    if (end == 0 || end > mq_seg_written(segment))
        return mq_fail(err, MQ_EINVAL, segment->path, end, "a view must end inside the data");
    int fd;
    if ((status = mq_seg_get_fd(segment, &fd, err)) != MQ_OK)
        return status;
    *length = (size_t)(atomic_load(&segment->sealed) ? end : (end + MAP_STEP - 1) / MAP_STEP * MAP_STEP);
    *address = mmap(NULL, *length, PROT_READ, MAP_SHARED, fd, 0);
    if (*address == MAP_FAILED)
        status = mq_fail(err, MQ_EIO, segment->path, end, "mmap");
    mq_seg_put_fd(segment);
    if (status == MQ_OK) {
        uint_fast64_t seen = atomic_load(&segment->viewed_bytes);
        while (seen < end && !atomic_compare_exchange_weak(&segment->viewed_bytes, &seen, end))
            ;
    }
    return status;
}

void mq_unmap(void *address, size_t length)
{
    (void)munmap(address, length);
}

/* Old kernels: the pages come through a read that can fail, into the page cache that the mapping shows. */
static mq_status probe(mq_io *io, uint64_t start, uint64_t end, const char *path, mq_error *err)
{
    uint8_t bytes[16384];
    int fd;
    mq_status status = mq_io_open(io, path, O_RDONLY, 0, &fd, err);
    while (status == MQ_OK && start < end) {
        const size_t size = end - start < sizeof bytes ? (size_t)(end - start) : sizeof bytes;
        status = mq_io_read_all(io, fd, bytes, size, start, path, err);
        start += size;
    }
    mq_io_close(io, fd);
    return status;
}

/* Whether all pages are in the page cache: then no fault on them can need the disk, and none lies past the end of a cut
 * file. 1 us for a mapped MiB, where populating what is there already takes 36. (Who neither owns the file nor may
 * write it always gets "yes" from Linux; a store's files are 0600, so that is nobody.) */
static bool resident(uint8_t *from, size_t size, size_t page)
{
    unsigned char pages[RESIDENT_PAGES];
    if (mincore(from, size, pages) != 0)
        return false;
    const size_t count = (size + page - 1) / page;
    for (size_t i = 0; i < count; i++)
        if ((pages[i] & 1) == 0)
            return false;
    return true;
}

mq_status mq_map_populate(mq_io *io, void *address, size_t length, uint64_t start, uint64_t end, const char *path,
                          mq_error *err)
{
    if (start > end || end > length)
        return mq_fail(err, MQ_EINVAL, path, end, "a range outside the mapping");
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = start / page * page; at < end;) {
        const size_t part = end - at < page * RESIDENT_PAGES ? (size_t)(end - at) : page * RESIDENT_PAGES;
        uint8_t *from = (uint8_t *)address + at;
        int result = 0;
        if (!resident(from, part, page)) {
            do
                result = madvise(from, part, MADV_POPULATE_READ);
            while (result != 0 && (errno == EINTR || errno == EAGAIN));
        }
        if (result != 0 && (errno == EINVAL || errno == ENOSYS))
            return probe(io, start, end, path, err);
        if (result != 0)
            return mq_fail(err, MQ_EIO, path, at,
                           errno == EFAULT ? "the file was cut, or a sector is unreadable" : "reading mapped bytes");
        at += part;
    }
    return MQ_OK;
}
