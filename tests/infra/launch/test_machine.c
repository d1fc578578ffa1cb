/* What `hone doctor` says agrees with the system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "infra/launch/machine.h"

static void test_describe(void **state)
{
    (void)state;
    struct machine machine;
    machine_describe(&machine);
    assert_true(machine.cpu_count >= 1 && machine.cpu_count <= sysconf(_SC_NPROCESSORS_CONF));
    assert_true(machine.cpu_model[0] && machine.cpus[0]);
    int64_t page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    assert_true(llabs(machine.memory_total_bytes - page * pages) < page * pages / 20);
    assert_true(machine.memory_available_bytes > 0);
    assert_true(machine.memory_available_bytes <= machine.memory_total_bytes);
    assert_true(machine.isa[CPU_ISA_SCALAR]);
    assert_true((machine.isa_selected[0] == '\0') == (machine.isa_problem[0] != '\0'));
    assert_true(machine.cuda_count >= 0 && machine.cuda[0]);
    assert_true(machine.disk_free_bytes > 0);
    assert_true(machine.open_files_max == sysconf(_SC_OPEN_MAX));
}

static void test_bubblewrap_is_looked_for_on_the_path(void **state)
{
    (void)state;
    struct machine machine;
    char directory[] = "/tmp/hone-machine-XXXXXX", program[64], *old = strdup(getenv("PATH"));
    assert_non_null(mkdtemp(directory));
    snprintf(program, sizeof program, "%s/bwrap", directory);
    setenv("PATH", directory, 1);
    machine_describe(&machine);
    assert_false(machine.bubblewrap);
    FILE *file = fopen(program, "w");
    fclose(file);
    machine_describe(&machine);
    assert_false(machine.bubblewrap); /* not executable */
    assert_int_equal(chmod(program, 0755), 0);
    machine_describe(&machine);
    assert_true(machine.bubblewrap);
    setenv("PATH", old, 1);
    free(old);
    unlink(program);
    rmdir(directory);
}

static void test_unknown_instruction_set_is_told(void **state)
{
    (void)state;
    struct machine machine;
    char *old = getenv("HONE_ISA") ? strdup(getenv("HONE_ISA")) : NULL;
    setenv("HONE_ISA", "mmx", 1);
    machine_describe(&machine);
    assert_string_equal(machine.isa_selected, "");
    assert_non_null(strstr(machine.isa_problem, "mmx"));
    if (old)
        setenv("HONE_ISA", old, 1);
    else
        unsetenv("HONE_ISA");
    free(old);
}

static void test_print(void **state)
{
    (void)state;
    static const char *const lines[] = {"version", "cpu",  "cpus",    "memory", "instructions",
                                        "compute", "cuda", "sandbox", "disk",   "open files"};
    struct machine machine;
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    machine_describe(&machine);
    machine_print(&machine, out);
    fclose(out);
    const char *at = text;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_memory_equal(at, lines[i], strlen(lines[i]));
        at = strchr(at, '\n');
        assert_non_null(at);
        at++;
    }
    assert_int_equal(*at, '\0');
    assert_non_null(strstr(text, machine.cpu_model));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_bubblewrap_is_looked_for_on_the_path),
        cmocka_unit_test(test_unknown_instruction_set_is_told),
        cmocka_unit_test(test_print),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
