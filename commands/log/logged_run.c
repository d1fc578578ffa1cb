#include "commands/log/logged_run.h"

#include "infra/base/error.h"
#include "infra/config/problem.h"

/* Opens RUN's recipe, and its RL log when there is one. */
int logged_run_open(const char *path, struct run_directory *run, struct recipe *recipe)
{
    char file[HONE_PATH_MAX];
    struct problems problems;
    int rc = run_directory_attach(run, path);
    if (rc < 0)
        return rc;
    problems_init(&problems);
    rc = recipe_load(recipe, path_join(file, sizeof file, run->path, "recipe.yaml"), NULL, 0,
                     &problems);
    problems_release(&problems);
    if (rc < 0)
        run_directory_close(run);
    return rc;
}

int logged_run_log(const struct run_directory *run, struct run_log **log)
{
    char path[HONE_PATH_MAX];
    path_join(path, sizeof path, run->path, "rl/log");
    if (!file_is_directory(path))
        return error_set(HONE_ENOENT, "%s: this run has no RL log", run->path);
    return run_log_open(log, path, true);
}
