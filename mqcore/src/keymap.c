/* The key map of compact.h: open addressing over 16-byte places, keys in one arena beside it. */
#include <string.h>

#include "budget.h"
#include "mqcore/compact.h"
#include "mqcore/hash.h"

enum { BITS_START = 8, MAX_BYTES_LEAST = 64 << 10, ARENA_START = 4096 };

/* tag: the hash's upper half, so that nearly every place of another key is passed without a look into the arena.
 * key: where its length and bytes begin, in units of 4 bytes; 0 marks a free place (the arena starts at 1). */
typedef struct place {
    uint32_t tag;
    uint32_t key;
    int64_t offset;
} place;

struct mq_keymap {
    place *places;
    uint32_t bits;
    uint64_t count;
    uint8_t *arena;
    size_t arena_size, arena_room;
    uint64_t seed;
    mq_budget budget;
};

static mq_status fail(mq_status status, mq_error *err)
{
    return mq_fail(err, status, NULL, 0, status == MQ_EFULL ? "the key map is full" : "no memory for the key map");
}

mq_keymap *mq_keymap_new(size_t max_bytes, uint64_t seed, mq_error *err)
{
    if (max_bytes < MAX_BYTES_LEAST) {
        mq_fail(err, MQ_EINVAL, NULL, 0, "a key map needs at least 65536 bytes");
        return NULL;
    }
    mq_keymap *m = mq_alloc_zeroed(sizeof *m);
    place *places = mq_alloc_zeroed(sizeof *places << BITS_START);
    if (m == NULL || places == NULL) {
        mq_free(m);
        mq_free(places);
        fail(MQ_ENOMEM, err);
        return NULL;
    }
    *m = (mq_keymap){.places = places, .bits = BITS_START, .seed = seed, .arena_size = 4};
    m->budget = (mq_budget){mq_block_bytes(sizeof *places << BITS_START), max_bytes};
    return m;
}

void mq_keymap_free(mq_keymap *m)
{
    if (m == NULL)
        return;
    mq_free(m->places);
    mq_free(m->arena);
    mq_free(m);
}

uint64_t mq_keymap_count(const mq_keymap *m)
{
    return m->count;
}

size_t mq_keymap_bytes(const mq_keymap *m)
{
    return m->budget.used;
}

static bool same_key(const mq_keymap *m, const place *p, const uint8_t *key, size_t size)
{
    const uint8_t *stored = m->arena + (size_t)p->key * 4;
    uint32_t length;
    memcpy(&length, stored, sizeof length);
    return length == size && (size == 0 || memcmp(stored + sizeof length, key, size) == 0);
}

/* The key's place, or the free one where it would go. */
static place *find(const mq_keymap *m, uint64_t hash, const uint8_t *key, size_t size)
{
    const size_t mask = ((size_t)1 << m->bits) - 1;
    const uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t at = (size_t)hash & mask;; at = (at + 1) & mask) {
        place *p = &m->places[at];
        if (p->key == 0 || (p->tag == tag && same_key(m, p, key, size)))
            return p;
    }
}

int64_t mq_keymap_get(const mq_keymap *m, const uint8_t *key, size_t size)
{
    if (m->count == 0)
        return -1;
    const place *p = find(m, mq_hash64(key, size, m->seed), key, size);
    return p->key == 0 ? -1 : p->offset;
}

static mq_status grow_places(mq_keymap *m)
{
    void *block = NULL;
    const uint32_t bits = m->bits + 1;
    const mq_status status = mq_budget_resize(&m->budget, &block, 0, sizeof(place) << bits);
    if (status != MQ_OK)
        return status;
    place *places = block;
    memset(places, 0, sizeof(place) << bits);
    const size_t mask = ((size_t)1 << bits) - 1;
    for (size_t i = 0; i < (size_t)1 << m->bits; i++) {
        const place *old = &m->places[i];
        if (old->key == 0)
            continue;
        /* The place keeps half of the hash; the other half is made again from the key. */
        uint32_t length;
        memcpy(&length, m->arena + (size_t)old->key * 4, sizeof length);
        size_t at = (size_t)mq_hash64(m->arena + (size_t)old->key * 4 + sizeof length, length, m->seed) & mask;
        while (places[at].key != 0)
            at = (at + 1) & mask;
        places[at] = *old;
    }
    block = m->places;
    mq_budget_resize(&m->budget, &block, sizeof(place) << m->bits, 0);
    m->places = places;
    m->bits = bits;
    return MQ_OK;
}

static mq_status reserve(mq_keymap *m, size_t key_bytes)
{
    if ((m->count + 1) * 4 > ((uint64_t)3 << m->bits)) {
        const mq_status status = grow_places(m);
        if (status != MQ_OK)
            return status;
    }
    if (key_bytes <= m->arena_room - (m->arena_size < m->arena_room ? m->arena_size : m->arena_room))
        return MQ_OK;
    /* Doubling; near the cap, what is left of it. */
    size_t room = m->arena_room < ARENA_START ? ARENA_START : m->arena_room * 2;
    if (room < m->arena_size + key_bytes)
        room = m->arena_size + key_bytes;
    void *block = m->arena;
    mq_status status = mq_budget_resize(&m->budget, &block, m->arena_room, room);
    if (status == MQ_EFULL) {
        room = m->arena_room + m->budget.max - m->budget.used;
        room = room > 64 ? room - 64 : 0;
        if (room >= m->arena_size + key_bytes)
            status = mq_budget_resize(&m->budget, &block, m->arena_room, room);
    }
    m->arena = block;
    if (status == MQ_OK)
        m->arena_room = room;
    return status;
}

mq_status mq_keymap_put(mq_keymap *m, const uint8_t *key, size_t size, int64_t offset, mq_error *err)
{
    const uint64_t hash = mq_hash64(key, size, m->seed);
    place *p = find(m, hash, key, size);
    if (p->key != 0) {
        if (offset > p->offset)
            p->offset = offset;
        return MQ_OK;
    }
    const size_t key_bytes = (sizeof(uint32_t) + size + 3) & ~(size_t)3;
    const uint32_t bits = m->bits;
    const mq_status status = m->arena_size / 4 > UINT32_MAX - key_bytes / 4 ? MQ_EFULL : reserve(m, key_bytes);
    if (status != MQ_OK)
        return fail(status, err);
    if (m->bits != bits)
        p = find(m, hash, key, size);
    const uint32_t length = (uint32_t)size;
    memcpy(m->arena + m->arena_size, &length, sizeof length);
    if (size > 0)
        memcpy(m->arena + m->arena_size + sizeof length, key, size);
    *p = (place){(uint32_t)(hash >> 32), (uint32_t)(m->arena_size / 4), offset};
    m->arena_size += key_bytes;
    m->count++;
    return MQ_OK;
}
