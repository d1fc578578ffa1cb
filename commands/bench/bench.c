#include "commands/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands/bench/model_shape.h"
#include "commands/commands.h"
#include "infra/base/error.h"
#include "infra/base/file.h"
#include "infra/launch/machine.h"
#include "infra/launch/placement.h"
#include "infra/wire/bench.h"

#define WIRE_BENCH_ROUNDS 9

static int bench_wire(struct bench *bench)
{
    (void)bench;
    return wire_bench(stdout, WIRE_BENCH_ROUNDS);
}

/* Options that a kind cannot go without are looked at before anything is measured. */
static int check_shape(const struct command_line *line)
{
    struct model_config config;
    return model_shape_config(line, &config);
}

static int check_recipe(const struct command_line *line)
{
    int64_t steps;
    int rc = command_int(line, "steps", 2, 100000, &steps);
    if (rc == 0 && command_value(line, "recipe") == NULL)
        rc = error_set(HONE_EINVAL, "bench rl: --recipe FILE is needed: whose RL stage to run");
    return rc;
}

static const struct {
    const char *name;
    int (*check)(const struct command_line *line); /* NULL: needs nothing */
    int (*run)(struct bench *bench);
    bool without_ceilings;
} kinds[] = {
    {"gemm", NULL, bench_gemm, false},
    {"attention", check_shape, bench_attention, false},
    {"decode", check_shape, bench_decode, false},
    {"prefill", check_shape, bench_prefill, false},
    {"train", check_shape, bench_train, false},
    {"rl", check_recipe, bench_rl, false},
    {"wire", NULL, bench_wire, true},
    {"weights", NULL, bench_weights, true},
};

static void print_ceiling(struct bench *bench, const char *name, const struct ceiling *ceiling,
                          double unit, const char *unit_name)
{
    char key[64];
    printf("  %-22s %10.1f %10.1f %s\n", name, ceiling->one / unit, ceiling->all / unit, unit_name);
    snprintf(key, sizeof key, "%s", name);
    for (char *c = key; *c != '\0'; c++)
        *c = *c == ' ' ? '_' : *c;
    json_t *pair = json_pack("{s:f,s:f}", "one_thread", ceiling->one, "all_threads", ceiling->all);
    json_object_set_new(json_object_get(bench->json, "ceilings"), key, pair);
}

/* The machine and its ceilings, to the screen and into the figures. */
static void measure_ceilings(struct bench *bench)
{
    struct machine machine;
    machine_describe(&machine);
    fprintf(stderr, "measuring the machine's ceilings: about %d s\n", CEILINGS_SECONDS);
    ceilings_measure(&bench->ceilings, bench->isa, bench->compute.pool);
    const struct ceilings *c = &bench->ceilings;
    json_object_set_new(bench->json, "machine", json_string(machine.cpu_model));
    json_object_set_new(bench->json, "isa", json_string(cpu_isa_name(bench->isa)));
    json_object_set_new(bench->json, "threads", json_integer(bench->threads));
    json_object_set_new(bench->json, "dtype", json_string(dtype_name(bench->dtype)));
    json_object_set_new(bench->json, "ceilings", json_object());
    printf("%s, %s\nceilings                   one thread  %d threads\n", machine.cpu_model,
           cpu_isa_name(bench->isa), bench->threads);
    print_ceiling(bench, "multiply-add peak", &c->fma, 1e9, "GFLOP/s");
    if (c->tile.one > 0.0) {
        print_ceiling(bench, "tile peak", &c->tile, 1e9, "GFLOP/s");
        print_ceiling(bench, "tile peak with loads", &c->tile_loads, 1e9, "GFLOP/s");
    }
    for (int level = LEVEL_L1; level < LEVEL_COUNT; level++) {
        char name[32];
        snprintf(name, sizeof name, "read %s", memory_level_name((enum memory_level)level));
        print_ceiling(bench, name, &c->read[level], 1e9, "GB/s");
    }
    printf("\n");
}

void bench_report(struct bench *bench, const char *label, double rate, const char *unit,
                  double share)
{
    json_t *row = json_pack("{s:s,s:f,s:s,s:f}", "label", label, "rate", rate, "unit", unit,
                            "roofline_share", share);
    printf("%-34s %12.1f %-10s %5.1f %% of the roofline\n", label, rate, unit, 100.0 * share);
    json_array_append_new(json_object_get(bench->json, "figures"), row);
}

void bench_progress(void *context, const char *what, int done, int total)
{
    struct progress **progress = context;
    if (*progress == NULL)
        *progress = progress_create("bench", "cases", total);
    progress_update(*progress, done, what);
}

static enum cpu_isa isa_of(const struct backend_ops *ops)
{
    for (int isa = 0; isa < CPU_ISA_COUNT; isa++)
        if (strcmp(ops->name, cpu_isa_name((enum cpu_isa)isa)) == 0)
            return (enum cpu_isa)isa;
    return CPU_ISA_SCALAR;
}

static int read_options(struct bench *bench)
{
    const char *dtype = command_value(bench->line, "dtype");
    int64_t threads;
    int rc = command_int(bench->line, "threads", 0, 1024, &threads);
    if (rc < 0)
        return rc;
    if (strcmp(dtype, "float32") != 0 && strcmp(dtype, "bfloat16") != 0)
        return error_set(HONE_EINVAL, "--dtype %s: use float32 or bfloat16", dtype);
    if (threads == 0) {
        struct cpu_set_list cpus;
        placement_available(&cpus);
        threads = cpus.count;
    }
    bench->threads = (int)threads;
    bench->dtype = strcmp(dtype, "float32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    bench->quick = command_flag(bench->line, "quick");
    return 0;
}

static int write_json(const struct bench *bench, const char *path)
{
    char *text = json_dumps(bench->json, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    int rc = file_write_atomic(path, text, strlen(text));
    free(text);
    return rc;
}

int command_bench(const struct command_line *line)
{
    const char *json_path = command_value(line, "json");
    struct bench bench = {.line = line};
    size_t kind = 0, count = sizeof kinds / sizeof kinds[0];
    while (kind < count && strcmp(line->positional[0], kinds[kind].name) != 0)
        kind++;
    if (kind == count)
        return error_set(HONE_EINVAL,
                         "bench: unknown kind '%s'; use gemm, attention, decode, prefill, train, "
                         "rl, wire or weights",
                         line->positional[0]);
    int rc = read_options(&bench);
    if (rc == 0 && kinds[kind].check != NULL)
        rc = kinds[kind].check(line);
    if (rc < 0 || (rc = compute_open(&bench.compute, bench.threads)) < 0)
        return rc;
    bench.isa = isa_of(bench.compute.ops);
    bench.json = json_pack("{s:s,s:[]}", "bench", kinds[kind].name, "figures");
    if (!kinds[kind].without_ceilings)
        measure_ceilings(&bench);
    rc = kinds[kind].run(&bench);
    if (rc == 0 && json_path != NULL)
        rc = write_json(&bench, json_path);
    json_decref(bench.json);
    compute_close(&bench.compute);
    return rc;
}
