/* `hone bench rl`: a short RL stage of a recipe, as `hone run` runs it, watched from outside. Rates
 * come from the learner's metrics between its first and its last step; how busy a role was, from
 * the processor time of its processes over the same span. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "commands/bench/bench.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/base/memory.h"

#define POLL_MS     50
#define ROLE_COUNT  4
#define WORKERS_MAX 256

static const char *const roles[ROLE_COUNT] = {"actor", "learner", "curriculum", "scorer"};

/* Processor seconds of every worker seen, by role; and how many threads they have. */
struct usage {
    int count[ROLE_COUNT];
    double seconds[ROLE_COUNT];
};

/* Sums over the learner's records. */
struct progress_sums {
    int64_t steps;
    double first_ms, last_ms;              /* of the first and the last record */
    double trajectories, tokens, waited_s; /* of the records after the first */
};

static void make_directory_name(char *buffer, size_t capacity)
{
    const char *base = getenv("TMPDIR");
    snprintf(buffer, capacity, "%s/hone-bench-XXXXXX", base != NULL ? base : "/tmp");
}

static int read_small(const char *path, char *buffer, size_t capacity)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return -1;
    size_t bytes = fread(buffer, 1, capacity - 1, file);
    fclose(file);
    buffer[bytes] = '\0';
    return (int)bytes;
}

/* The role of a process whose parent is `parent`, or -1. Its second argument is its command. */
static int role_of(const char *pid, pid_t parent, double *seconds)
{
    char path[64], text[1024];
    int found_parent;
    unsigned long user, system;
    snprintf(path, sizeof path, "/proc/%.16s/stat", pid);
    if (read_small(path, text, sizeof text) <= 0)
        return -1;
    const char *after = strrchr(text, ')');
    if (after == NULL || sscanf(after + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                                &found_parent, &user, &system) != 3)
        return -1;
    if (found_parent != parent)
        return -1;
    snprintf(path, sizeof path, "/proc/%.16s/cmdline", pid);
    int bytes = read_small(path, text, sizeof text);
    size_t first = strlen(text) + 1;
    if (bytes <= (int)first)
        return -1;
    *seconds = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    for (int role = 0; role < ROLE_COUNT; role++)
        if (strcmp(text + first, roles[role]) == 0)
            return role;
    return -1;
}

static void take_usage(pid_t parent, struct usage *usage)
{
    struct usage taken = {0};
    DIR *processes = opendir("/proc");
    if (processes == NULL)
        return;
    for (struct dirent *entry = readdir(processes); entry != NULL; entry = readdir(processes)) {
        double seconds = 0.0;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        int role = role_of(entry->d_name, parent, &seconds);
        if (role >= 0) {
            taken.count[role]++;
            taken.seconds[role] += seconds;
        }
    }
    closedir(processes);
    /* Workers that are gone already say nothing: keep what was known of them. */
    for (int role = 0; role < ROLE_COUNT; role++)
        if (taken.count[role] >= usage->count[role]) {
            usage->count[role] = taken.count[role];
            usage->seconds[role] = taken.seconds[role];
        }
}

static double number(const json_t *record, const char *name)
{
    return json_number_value(json_object_get(record, name));
}

static void read_metrics(const char *path, struct progress_sums *sums)
{
    char line[16384];
    FILE *file = fopen(path, "r");
    *sums = (struct progress_sums){0};
    if (file == NULL)
        return;
    while (fgets(line, sizeof line, file) != NULL) {
        json_t *record = json_loads(line, 0, NULL);
        if (record == NULL)
            continue;
        double now = number(record, "time");
        if (sums->steps++ == 0) {
            sums->first_ms = now;
        } else {
            sums->trajectories += number(record, "batch/trajectories");
            sums->tokens += number(record, "tokens");
            sums->waited_s += number(record, "time/wait_for_batch_s");
        }
        sums->last_ms = now;
        json_decref(record);
    }
    fclose(file);
}

static pid_t start_run(const struct bench *bench, const char *recipe, const char *directory)
{
    char steps[64], output[HONE_PATH_MAX + 16];
    snprintf(steps, sizeof steps, "rl.steps=%s", command_value(bench->line, "steps"));
    snprintf(output, sizeof output, "output_dir=%s", directory);
    const char *arguments[] = {"/proc/self/exe",
                               "run",
                               recipe,
                               "stages=[rl]",
                               steps,
                               output,
                               "eval.max_prompts=1",
                               "eval.samples=1",
                               "eval.k=1",
                               "rl.optimizer.warmup_steps=0",
                               NULL};
    fflush(stdout); /* what is buffered would be written by the child too */
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    /* Its messages and its table are not this command's. */
    if (freopen("/dev/null", "w", stdout) == NULL)
        _exit(127);
    char *copies[16] = {0};
    for (int i = 0; arguments[i] != NULL; i++)
        copies[i] = memory_strdup(arguments[i]);
    execv(arguments[0], copies);
    _exit(127);
}

/* Watches until the run is over; usage at the first step and at the last. */
static int watch_run(pid_t pid, const char *metrics, int64_t steps, struct usage *first,
                     struct usage *last, struct progress_sums *sums)
{
    struct progress *progress = progress_create("bench", "steps", steps);
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000};
    int64_t seen = 0;
    int status = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        nanosleep(&pause, NULL);
        read_metrics(metrics, sums);
        if (sums->steps == 0 || sums->steps == seen)
            continue;
        take_usage(pid, seen == 0 ? first : last);
        seen = sums->steps;
        progress_update(progress, seen, NULL);
    }
    read_metrics(metrics, sums);
    progress_finish(progress, NULL);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_set(HONE_EIO,
                         "the run ended with status %d; its messages are above, its files "
                         "beside %s",
                         WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), metrics);
    return 0;
}

static void report_run(struct bench *bench, const struct usage *first, const struct usage *last,
                       const struct progress_sums *sums)
{
    double seconds = (sums->last_ms - sums->first_ms) / 1000.0;
    json_t *idle = json_object();
    printf("%lld steps after the first, %.1f s\n", (long long)(sums->steps - 1), seconds);
    printf("%-34s %12.1f trajectories/s\n", "trained", sums->trajectories / seconds);
    printf("%-34s %12.1f tokens/s\n", "trained", sums->tokens / seconds);
    printf("%-34s %12.1f %% of the time\n", "learner waits for a batch",
           100.0 * sums->waited_s / seconds);
    for (int role = 0; role < ROLE_COUNT; role++) {
        double used = last->seconds[role] - first->seconds[role];
        double share = used / seconds;
        printf("%-34s %12.2f cpus busy, in %d process%s\n", roles[role], share, last->count[role],
               last->count[role] == 1 ? "" : "es");
        json_object_set_new(idle, roles[role], json_real(share));
    }
    json_t *row =
        json_pack("{s:f,s:f,s:f,s:o}", "trajectories_per_second", sums->trajectories / seconds,
                  "tokens_per_second", sums->tokens / seconds, "learner_waiting_share",
                  sums->waited_s / seconds, "cpus_busy", idle);
    json_array_append_new(json_object_get(bench->json, "figures"), row);
}

int bench_rl(struct bench *bench)
{
    const char *recipe = command_value(bench->line, "recipe");
    char directory[HONE_PATH_MAX], metrics[HONE_PATH_MAX + 32];
    struct usage first = {0}, last = {0};
    struct progress_sums sums = {0};
    int64_t steps;
    int rc = command_int(bench->line, "steps", 2, 100000, &steps);
    if (rc < 0)
        return rc;
    make_directory_name(directory, sizeof directory);
    if (mkdtemp(directory) == NULL)
        return error_errno("create %s", directory);
    snprintf(metrics, sizeof metrics, "%s/metrics/rl.jsonl", directory);
    pid_t pid = start_run(bench, recipe, directory);
    if (pid < 0)
        return error_errno("start a run of %s", recipe);
    rc = watch_run(pid, metrics, steps, &first, &last, &sums);
    if (rc == 0 && sums.steps < 2)
        rc = error_set(HONE_EIO, "%s has %lld steps; the run is left for a look", metrics,
                       (long long)sums.steps);
    if (rc < 0)
        return rc;
    report_run(bench, &first, &last, &sums);
    return file_remove_tree(directory);
}
