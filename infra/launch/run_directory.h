/* The directory of a run: what is where, and who may write.
 *
 *   RUN/recipe.yaml            the recipe as resolved
 *   RUN/run.json               run id, recipe hash, version of hone, started
 *   RUN/status.json            stage by stage: pending | running | done, with figures; atomic
 *   RUN/summary.json           figures of the final table per stage
 *   RUN/logs/NAME.log          one per process
 *   RUN/metrics/NAME.jsonl     one per writer
 *   RUN/sft RUN/rl RUN/dpo     one per stage: checkpoints/step-N, final (a checkpoint)
 *   RUN/eval/STAGE.json        figures; RUN/eval/STAGE.samples.jsonl
 *   RUN/rl/log                 the RocksDB log
 *   RUN/sock                   0700, unix sockets; /tmp/hone-UID-RUNID when that path is too long
 *   RUN/lock                   held by `hone run` (flock): a second one is refused
 */
#ifndef HONE_LAUNCH_RUN_DIRECTORY_H
#define HONE_LAUNCH_RUN_DIRECTORY_H

#include <stdbool.h>

#include "infra/base/file.h"
#include "infra/base/hash.h"

struct run_directory {
    char path[HONE_PATH_MAX];
    char run_id[33];
    char recipe_hash[HASH_HEX_SIZE];
    int lock_fd;
};

/* Creates or reopens; takes the lock. A directory with another recipe_hash is refused with the
 * first differing line of the two recipes. Read-only or full: one clear error. */
int run_directory_open(struct run_directory *run, const char *path, const char *recipe_text,
                       const char *recipe_hash);
/* Opens for a worker or for reading: no lock. */
int run_directory_attach(struct run_directory *run, const char *path);
void run_directory_close(struct run_directory *run);
/* "RUN/a/b", directories made. Returns buffer. */
const char *run_directory_file(const struct run_directory *run, char *buffer, size_t capacity,
                               const char *relative);
/* "ipc://..." for a socket of this run. */
const char *run_directory_endpoint(const struct run_directory *run, char *buffer, size_t capacity,
                                   const char *name);

#endif
