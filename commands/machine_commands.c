#include <stdio.h>
#include <string.h>

#include "commands/bench.h"
#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/compute/bench.h"
#include "infra/launch/machine.h"
#include "infra/launch/placement.h"
#include "infra/wire/bench.h"
#include "infra/wire/keys.h"

enum { WIRE_BENCH_ROUNDS = 9 };

static int bench_model(const struct command_line *line, int threads, FILE *json)
{
    const char *kind = line->positional[0], *model = command_value(line, "model");
    enum dtype dtype =
        strcmp(command_value(line, "dtype"), "float32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    struct compute compute;
    struct bench_figures figures;
    if (model == NULL)
        return error_set(HONE_EINVAL, "bench %s: --model DIR is needed", kind);
    int rc = compute_open(&compute, threads);
    if (rc < 0)
        return rc;
    if (strcmp(kind, "decode") == 0)
        rc = bench_decode(model, dtype, &compute, &figures);
    else
        rc = bench_train(model, dtype, &compute, &figures);
    if (rc == 0) {
        printf("%s %s %s %d threads: %.0f tokens/s, %.1f GFLOP/s (%lld tokens in %.2f s)\n", kind,
               dtype_name(dtype), compute.ops->name, threads, figures.tokens_per_second,
               figures.gflops, (long long)figures.tokens, figures.seconds);
        if (json != NULL)
            fprintf(json,
                    "{\"bench\": \"%s\", \"dtype\": \"%s\", \"isa\": \"%s\", \"threads\": %d, "
                    "\"tokens_per_second\": %.1f, \"gflops\": %.2f}\n",
                    kind, dtype_name(dtype), compute.ops->name, threads, figures.tokens_per_second,
                    figures.gflops);
    }
    compute_close(&compute);
    return rc;
}

int command_bench(const struct command_line *line)
{
    const char *kind = line->positional[0], *json_path = command_value(line, "json");
    int64_t threads;
    FILE *json = NULL;
    int rc = command_int(line, "threads", 0, 1024, &threads);
    if (rc < 0)
        return rc;
    if (threads == 0) {
        struct cpu_set_list cpus;
        placement_available(&cpus);
        threads = cpus.count;
    }
    if (json_path != NULL && (json = fopen(json_path, "w")) == NULL)
        return error_errno("open %s", json_path);
    if (strcmp(kind, "gemm") == 0)
        rc = bench_gemm_to(stdout, json, (int)threads);
    else if (strcmp(kind, "decode") == 0 || strcmp(kind, "train") == 0)
        rc = bench_model(line, (int)threads, json);
    else if (strcmp(kind, "wire") == 0)
        rc = wire_bench(stdout, WIRE_BENCH_ROUNDS);
    else
        rc = error_set(HONE_EINVAL, "bench: unknown kind '%s' (gemm, decode, train, wire)", kind);
    if (json != NULL && fclose(json) != 0 && rc == 0)
        rc = error_errno("write %s", json_path);
    return rc;
}

int command_doctor(const struct command_line *line)
{
    struct machine machine;
    (void)line;
    machine_describe(&machine);
    machine_print(&machine, stdout);
    int rc = backend_self_test();
    printf("%-14s %s\n", "self-test",
           rc == 0 ? "every instruction-set path gives the same bits" : error_message());
    return rc;
}

/* Says what to copy where: the directory is made on one machine and read on several. */
static int make_keys(const char *directory)
{
    int rc = keys_create(directory);
    if (rc < 0)
        return rc;
    printf("%s holds keys for a hub, a learner, actors and scorers.\n"
           "Name it in the recipe: wire.keys=%s. A worker on another machine needs hub.public and "
           "its own key (actor.key, scorer.key, learner.key; a learner also needs allowed) in a "
           "directory there, and --keys.\n",
           directory, directory);
    return 0;
}

int command_keys(const struct command_line *line)
{
    const char *directory = line->positional[0];
    const char *add = command_value(line, "add"), *revoke = command_value(line, "revoke");
    bool list = command_flag(line, "list");
    struct text text;
    if ((add != NULL) + (revoke != NULL) + list > 1)
        return error_set(HONE_EINVAL, "keys: one of --list, --add and --revoke at a time");
    if (add != NULL)
        return keys_add(directory, add);
    if (revoke != NULL)
        return keys_revoke(directory, revoke);
    if (!list)
        return make_keys(directory);
    text_init(&text);
    int rc = keys_list(directory, &text);
    fputs(text.data, stdout);
    text_release(&text);
    return rc;
}

int command_completion_script(const struct command_line *line)
{
    return command_completion(hone_commands, line->positional[0], stdout);
}

int command_man(const struct command_line *line)
{
    (void)line;
    command_man_page(hone_commands, stdout);
    return 0;
}
