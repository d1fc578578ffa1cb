/* Time behind a table, so that the simulator can replace it. Stages take a `struct clock *`. */
#ifndef HONE_BASE_CLOCK_H
#define HONE_BASE_CLOCK_H

#include <stdint.h>

struct clock {
    int64_t (*now_ns)(struct clock *clock);  /* monotonic */
    int64_t (*unix_ms)(struct clock *clock); /* wall time */
    void *context;
};

struct clock *clock_system(void);
int64_t clock_now_ns(struct clock *clock);
int64_t clock_now_ms(struct clock *clock);
int64_t clock_unix_ms(struct clock *clock);
void clock_sleep_ms(int64_t ms);

/* A clock that moves only when told; context points at the caller's int64_t nanoseconds. */
struct clock clock_fake(int64_t *now_ns);

#endif
