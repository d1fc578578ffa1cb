#include "infra/base/clock.h"

#include <errno.h>
#include <time.h>

#define NS_PER_MS 1000000
#define NS_PER_S  1000000000

static int64_t system_now_ns(struct clock *clock)
{
    struct timespec now;
    (void)clock;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static int64_t system_unix_ms(struct clock *clock)
{
    struct timespec now;
    (void)clock;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / NS_PER_MS;
}

struct clock *clock_system(void)
{
    static struct clock instance = {.now_ns = system_now_ns, .unix_ms = system_unix_ms};
    return &instance;
}

int64_t clock_now_ns(struct clock *clock)
{
    return clock->now_ns(clock);
}

int64_t clock_now_ms(struct clock *clock)
{
    return clock->now_ns(clock) / NS_PER_MS;
}

int64_t clock_unix_ms(struct clock *clock)
{
    return clock->unix_ms(clock);
}

void clock_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * NS_PER_MS};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
}

static int64_t fake_now_ns(struct clock *clock)
{
    return *(const int64_t *)clock->context;
}

static int64_t fake_unix_ms(struct clock *clock)
{
    return *(const int64_t *)clock->context / NS_PER_MS;
}

struct clock clock_fake(int64_t *now_ns)
{
    return (struct clock){.now_ns = fake_now_ns, .unix_ms = fake_unix_ms, .context = now_ns};
}
