/* A file call that fails, stops short or is interrupted reaches the caller as one status with errno and path; what was
 * there before an atomic write is there after it failed, at every call that can fail. */
#include <errno.h>

#include "mqcore/io_fault.h"
#include "mqcore/limits.h"
#include "scratch.h"

static void writes_are_completed(void)
{
    mq_io_fault fault;
    mq_error err;
    int fd;
    mq_io_fault_init(&fault, mq_io_posix());
    CHECK(mq_io_open(&fault.io, scratch_path("a"), O_RDWR | O_CREAT, 0600, &fd, &err) == MQ_OK);
    mq_io_fault_arm(&fault, 1, EINTR, -1, false, 1u << MQ_CALL_PWRITEV, 0);
    CHECK(mq_io_write_all(&fault.io, fd, "0123456789", 10, 5, "a", &err) == MQ_OK);
    mq_io_fault_arm(&fault, 1, 0, 3, false, 1u << MQ_CALL_PWRITEV, 0); /* short, then the rest */
    CHECK(mq_io_write_all(&fault.io, fd, "abcdefghij", 10, 15, "a", &err) == MQ_OK);
    mq_io_fault_arm(&fault, 1, 0, 2, false, 1u << MQ_CALL_PREAD, 0);
    char bytes[20];
    CHECK(mq_io_read_all(&fault.io, fd, bytes, 20, 5, "a", &err) == MQ_OK);
    CHECK(memcmp(bytes, "0123456789abcdefghij", 20) == 0);
    CHECK(atomic_load(&fault.fired) == 3);
    CHECK(mq_io_read_all(&fault.io, fd, bytes, 20, 6, "a", &err) == MQ_ETRUNCATED && err.position == 25);
    size_t got;
    CHECK(mq_io_read_some(&fault.io, fd, bytes, 20, 20, &got, "a", &err) == MQ_OK && got == 5);
    mq_io_fault_arm(&fault, 1, ENOSPC, 4, false, 0, 0); /* torn: four bytes reach the file, then it fails */
    CHECK(mq_io_write_all(&fault.io, fd, "XXXXXXXX", 8, 25, "a", &err) == MQ_EIO && err.sys_errno == ENOSPC);
    uint64_t size;
    CHECK(mq_io_size(fd, &size, "a", &err) == MQ_OK && size == 29);
    mq_io_fault_arm(&fault, 1, 0, 0, true, 0, 0); /* a disk that takes nothing: an error, no endless loop */
    CHECK(mq_io_write_all(&fault.io, fd, "XXXXXXXX", 8, 25, "a", &err) == MQ_EIO && err.sys_errno == EIO);
    mq_io_close(&fault.io, fd);
}

static void faults_are_chosen(void)
{
    mq_io_fault fault;
    mq_error err;
    mq_io_fault_init(&fault, mq_io_posix());
    mq_io_fault_arm(&fault, 2, EIO, -1, false, 1u << MQ_CALL_FSYNC, 0);
    CHECK(mq_io_write_atomic(&fault.io, scratch_path("b"), "x", 1, 0600, true, &err) == MQ_EIO);
    CHECK(strcmp(err.what, "fsync of a directory") == 0 && atomic_load(&fault.fired) == 1);
    CHECK(mq_io_write_atomic(&fault.io, scratch_path("b"), "y", 1, 0600, true, &err) == MQ_OK);
    mq_io_fault_arm(&fault, 1, EIO, -1, true, 0, 0);
    for (int i = 0; i < 3; i++)
        CHECK(mq_io_sync_dir(&fault.io, scratch, &err) == MQ_EIO && err.sys_errno == EIO);
    mq_io_fault_disarm(&fault);
    CHECK(mq_io_sync_dir(&fault.io, scratch, &err) == MQ_OK);
    CHECK(strcmp(mq_io_fault_name(MQ_CALL_RMDIR), "rmdir") == 0 && mq_io_fault_name(MQ_CALL_COUNT) == NULL);
    CHECK(mq_io_fault_calls(&fault) > 10);
}

static void atomic_writes_are_atomic(void)
{
    mq_io_fault fault;
    mq_error err;
    mq_io_fault_init(&fault, mq_io_posix());
    CHECK(mq_io_write_atomic(&fault.io, scratch_path("c"), "old", 3, 0600, true, &err) == MQ_OK);
    int n = 1;
    for (bool clean = false; !clean && n < 50; n++) {
        for (long long torn = -1; torn <= 1; torn++) {
            mq_io_fault_arm(&fault, n, EIO, torn, false, 0, 0);
            const long long fired = atomic_load(&fault.fired);
            const mq_status status = mq_io_write_atomic(&fault.io, scratch_path("c"), "new", 3, 0600, true, &err);
            clean = atomic_load(&fault.fired) == fired;
            CHECK((status == MQ_OK) == clean);
            size_t size;
            unsigned char *bytes = get_file("c", &size);
            CHECK(size == 3 && (memcmp(bytes, "old", 3) == 0 || memcmp(bytes, "new", 3) == 0));
            CHECK(memcmp(bytes, "old", 3) == 0 || n > 4); /* open, pwritev, fsync, rename come first */
            CHECK(!file_exists("c.tmp"));
            free(bytes);
            put_file("c", "old", 3);
        }
    }
    CHECK(n > 5 && n < 50);
}

static void links_are_refused(void)
{
    mq_error err;
    int fd;
    put_file("real", "x", 1);
    CHECK(symlink(scratch_path("real"), scratch_path("link")) == 0);
    CHECK(mq_io_open(mq_io_posix(), scratch_path("link"), O_RDONLY, 0, &fd, &err) == MQ_EIO);
    CHECK(err.sys_errno == ELOOP && fd == -1);
    char longest[MQ_PATH_MAX + 1];
    memset(longest, 'a', MQ_PATH_MAX);
    longest[MQ_PATH_MAX] = '\0';
    CHECK(mq_io_write_atomic(mq_io_posix(), longest, "x", 1, 0600, true, &err) == MQ_EINVAL);
}

int main(void)
{
    scratch_begin();
    RUN(writes_are_completed);
    RUN(faults_are_chosen);
    RUN(atomic_writes_are_atomic);
    RUN(links_are_refused);
    scratch_end();
    FINISH();
}
