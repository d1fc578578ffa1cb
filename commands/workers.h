/* The worker processes of a run: what each does from its start to its exit code. A worker of the
 * run's own machine is told the run directory and its index; everything else it reads from
 * RUN/recipe.yaml and RUN/status.json. One that joins from elsewhere is given the recipe, the hub's
 * endpoint and keys. */
#ifndef HONE_COMMANDS_WORKERS_H
#define HONE_COMMANDS_WORKERS_H

#include "infra/config/recipe.h"
#include "infra/launch/placement.h"
#include "infra/launch/run_directory.h"

enum worker_role { WORKER_CURRICULUM, WORKER_ACTOR, WORKER_SCORER, WORKER_LEARNER, WORKER_OFFLINE };

/* How a worker is started: run_path, or the rest. */
struct worker_start {
    const char *run_path;
    int index;             /* in its pool on this machine */
    const char *join;      /* the hub's endpoint, tcp */
    const char *keys;      /* directory */
    const char *name;      /* NULL: ROLE-HOST-INDEX */
    const char *model;     /* what the RL stage starts from; NULL: as the recipe says */
    struct recipe *recipe; /* taken over */
};

/* A worker's surroundings. */
struct worker {
    struct run_directory run;
    struct recipe recipe;
    enum worker_role role;
    int index;
    char name[64];                        /* "actor-0" */
    int threads;                          /* for compute */
    char hub_endpoint[HONE_PATH_MAX];     /* a hub's own: all of them */
    char weights_endpoint[HONE_PATH_MAX]; /* a learner's */
    const char *model;                    /* given with --model; NULL */
    struct wire_context *context;         /* with its keys, when it needs any */
};

/* How many workers of a role the recipe (or, where it says 0, the machine) asks for. */
int worker_count(const struct recipe *recipe, enum worker_role role);
/* Do these workers join by themselves? */
bool worker_is_remote(const struct recipe *recipe, enum worker_role role);
/* Cpus of worker `index` and the threads it computes with. Derived from the machine where the
 * recipe is silent: with two cpus or more the learner has the first half, actors and scorers the
 * rest; offline work has all of them. */
int worker_placement(const struct recipe *recipe, enum worker_role role, int index,
                     struct cpu_set_list *cpus, int *threads);

/* Each opens the run, pins itself, works until done. 0 or a negative code with the message set. */
int worker_run_curriculum(const char *run_path);
int worker_run_actor(const struct worker_start *start);
int worker_run_scorer(const struct worker_start *start);
int worker_run_learner(const struct worker_start *start);
int worker_run_sft(const char *run_path);
int worker_run_critique(
    const char *run_path); /* the judge's votes, before SFT that is pruned by them */
int worker_run_dpo(const char *run_path);
int worker_run_eval(const char *run_path, const char *label, const char *model_directory);

#endif
