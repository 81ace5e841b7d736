#include "mqcore/alloc.h"

#ifdef MQCORE_ALLOC_FAULT
_Thread_local int64_t mq_alloc_countdown;
#else
typedef int mq_alloc_has_no_state; /* ISO C forbids an empty translation unit */
#endif
