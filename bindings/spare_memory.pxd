# spare_memory.pxd -- malloc and free for blocks that live as long as one batch of columns.
#
# Such blocks are a few hundred KiB. malloc maps such sizes anew each time, and the page faults cost as much as decoding
# into them. So a few freed blocks are kept, 4 MiB at most, and given out again. The state is static in the module that
# cimports this (one is enough), not in the core; nobody waits for the flag: who finds it set goes to malloc.
cdef extern from *:
    """
    #include <stdatomic.h>
    #include <stdlib.h>

    enum { SPARE_SLOTS = 4, SPARE_BYTES_MIN = 32 << 10, SPARE_BYTES_MAX = 1 << 20 };

    static struct { void *memory; size_t capacity; } spare_slots[SPARE_SLOTS];
    static atomic_flag spare_busy = ATOMIC_FLAG_INIT;

    static int spare_lock(size_t capacity)
    {
        return capacity >= SPARE_BYTES_MIN && capacity <= SPARE_BYTES_MAX &&
               !atomic_flag_test_and_set_explicit(&spare_busy, memory_order_acquire);
    }

    /* Memory for size bytes, NULL if there is none; *capacity is what spare_give must be told. */
    static void *spare_take(size_t size, size_t *capacity)
    {
        void *found = NULL;
        /* A quarter more, so that blocks of nearly the same size fit each other's place. */
        *capacity = size < SPARE_BYTES_MIN ? size : (size + size / 4) & ~(size_t)0xfff;
        if (spare_lock(*capacity)) {
            for (int i = 0; i < SPARE_SLOTS && found == NULL; i++) {
                if (spare_slots[i].memory != NULL && spare_slots[i].capacity >= size) {
                    found = spare_slots[i].memory;
                    *capacity = spare_slots[i].capacity;
                    spare_slots[i].memory = NULL;
                }
            }
            atomic_flag_clear_explicit(&spare_busy, memory_order_release);
        }
        return found != NULL ? found : malloc(*capacity > 0 ? *capacity : 1);
    }

    static void spare_give(void *memory, size_t capacity)
    {
        if (memory != NULL && spare_lock(capacity)) {
            for (int i = 0; i < SPARE_SLOTS && memory != NULL; i++) {
                if (spare_slots[i].memory == NULL) {
                    spare_slots[i].memory = memory;
                    spare_slots[i].capacity = capacity;
                    memory = NULL;
                }
            }
            atomic_flag_clear_explicit(&spare_busy, memory_order_release);
        }
        free(memory);
    }
    """
    void *spare_take(size_t size, size_t *capacity)
    void spare_give(void *memory, size_t capacity)
