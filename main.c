/* The table of commands. */
#include <stddef.h>

#include "commands/commands.h"

static const struct command_option recipe_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {0}};

static const struct command_option check_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {.name = "schema", .help = "print the JSON schema of recipes"},
    {.name = "reference", .help = "print the reference page of recipe keys"},
    {0}};

static const struct command_option stage_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {.name = "run", .value = "DIR", .help = "work as this stage's process of a run directory"},
    {.name = "index",
     .value = "N",
     .help = "number of this worker in its pool",
     .default_text = "0"},
    {0}};

static const struct command_option curriculum_options[] = {
    {.name = "run", .value = "DIR", .help = "run directory to join"},
    {.name = "index",
     .value = "N",
     .help = "number of this worker in its pool",
     .default_text = "0"},
    {0}};

static const struct command_option worker_options[] = {
    {.name = "run", .value = "DIR", .help = "run directory to join, on the run's own machine"},
    {.name = "index",
     .value = "N",
     .help = "number of this worker in its pool on this machine",
     .default_text = "0"},
    {.name = "join", .value = "ENDPOINT", .help = "the hub of a run elsewhere: tcp://HOST:PORT"},
    {.name = "keys", .value = "DIR", .help = "with --join: directory with this worker's key"},
    {.name = "name",
     .value = "NAME",
     .help = "with --join: this worker's name (default: ROLE-HOST-INDEX)"},
    {.name = "model",
     .value = "DIR",
     .help = "with --join: what the RL stage starts from, when the recipe's earlier stages ran "
             "elsewhere"},
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {0}};

static const struct command_option eval_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {.name = "model",
     .value = "DIR",
     .help = "checkpoint to evaluate (default: the recipe's model.path)"},
    {.name = "samples",
     .value = "FILE",
     .help = "write every sample with its reward, one JSON object a line"},
    {.name = "run", .value = "DIR", .help = "write the result into a run directory"},
    {.name = "label",
     .value = "NAME",
     .help = "name of the result in the run directory",
     .default_text = "eval"},
    {0}};

static const struct command_option filter_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {.name = "model",
     .value = "DIR",
     .help = "checkpoint to measure against (default: the recipe's model.path)"},
    {.name = "out", .value = "FILE", .help = "where the pools are written, for rl.filter.pools"},
    {.name = "samples", .value = "N", .help = "samples of each prompt", .default_text = "8"},
    {.name = "limit",
     .value = "N",
     .help = "at most so many prompts, spread over the data; 0: all",
     .default_text = "0"},
    {0}};

static const struct command_option critique_options[] = {
    {.name = "set",
     .value = "KEY=VALUE",
     .help = "override a recipe key (repeatable)",
     .repeated = true},
    {.name = "out", .value = "FILE", .help = "where the votes are written"},
    {.name = "run", .value = "DIR", .help = "write them into a run directory"},
    {0}};

#define MODEL_OPTIONS                                                                              \
    {.name = "dtype",                                                                              \
     .value = "float32|bfloat16",                                                                  \
     .help = "compute dtype",                                                                      \
     .default_text = "bfloat16"},                                                                  \
        {.name = "threads", .value = "N", .help = "0: all cpus", .default_text = "0"},             \
    {                                                                                              \
        .name = "file", .value = "PATH", .help = "read the text from a file, - for standard input" \
    }

static const struct command_option generate_options[] = {
    MODEL_OPTIONS,
    {.name = "max-tokens", .value = "N", .help = "most tokens to sample", .default_text = "256"},
    {.name = "temperature", .value = "T", .help = "0: greedy", .default_text = "0"},
    {.name = "top-p", .value = "P", .help = "nucleus sampling; 1: off", .default_text = "1"},
    {.name = "top-k", .value = "K", .help = "0: off", .default_text = "0"},
    {.name = "min-p", .value = "P", .help = "0: off", .default_text = "0"},
    {.name = "samples", .value = "N", .help = "completions to sample", .default_text = "1"},
    {.name = "seed", .value = "N", .help = "seed of the draws", .default_text = "1"},
    {.name = "ids", .help = "print token ids instead of text"},
    {.name = "ignore-eos", .help = "go on past end-of-sequence tokens"},
    {0}};

static const struct command_option logprobs_options[] = {MODEL_OPTIONS, {0}};

static const struct command_option tokenize_options[] = {
    {.name = "file", .value = "PATH", .help = "read the text from a file, - for standard input"},
    {.name = "no-special", .help = "do not add BOS and the like"},
    {.name = "parse-special", .help = "special tokens written in the text become their ids"},
    {.name = "pieces", .help = "one token a line, with its piece"},
    {.name = "decode", .help = "the arguments are ids; print their text"},
    {0}};

static const struct command_option data_options[] = {
    {.name = "out", .value = "PATH", .help = "where to write"},
    {.name = "input", .value = "FILE", .help = "what to read"},
    {.name = "exclude", .value = "FILE", .help = "leave out what this file holds"},
    {.name = "seed",
     .value = "N",
     .help = "make: everything is a function of it",
     .default_text = "1"},
    {.name = "text", .value = "N", .help = "make: rows of raw text", .default_text = "0"},
    {.name = "sft",
     .value = "N",
     .help = "make: rows with worked solutions",
     .default_text = "1000"},
    {.name = "train", .value = "N", .help = "make: prompts for RL", .default_text = "6000"},
    {.name = "test", .value = "N", .help = "make: held-out prompts", .default_text = "600"},
    {.name = "median",
     .value = "N",
     .help = "counting: columns in an answer, the median",
     .default_text = "12"},
    {.name = "p99", .value = "N", .help = "counting: the 99th percentile", .default_text = "120"},
    {.name = "longest", .value = "N", .help = "counting: the most", .default_text = "200"},
    {.name = "vocab", .value = "N", .help = "tokenizer: entries", .default_text = "512"},
    {.name = "format", .value = "NAME", .help = "show: dataset format", .default_text = "auto"},
    {.name = "limit", .value = "N", .help = "show: rows", .default_text = "5"},
    {0}};

static const struct command_option inspect_options[] = {
    {.name = "summary", .help = "print the final table instead of trajectories"},
    {.name = "waiting", .help = "who waits for whom in a run that goes on, queues and credit"},
    {.name = "time", .help = "where each worker's time went"},
    {.name = "pools",
     .help = "how hard prompts are, and how they moved (with --prompt: one of them)"},
    {.name = "limit", .value = "N", .help = "trajectories to show", .default_text = "10"},
    {.name = "id", .value = "HEX", .help = "one trajectory"},
    {.name = "prompt", .value = "N", .help = "of this prompt", .default_text = "-1"},
    {.name = "version",
     .value = "N",
     .help = "with tokens of this policy version",
     .default_text = "-1"},
    {.name = "status",
     .value = "WORD",
     .help = "with this reward (ok, timeout, ...), group (trained, dropped, ...) or reason"},
    {.name = "reward-min", .value = "R", .help = "reward at least", .default_text = "-1e30"},
    {.name = "reward-max", .value = "R", .help = "reward at most", .default_text = "1e30"},
    {.name = "tokens", .help = "token by token: id, version, logprob"},
    {0}};

static const struct command_option replay_options[] = {
    {.name = "to",
     .value = "VERSION",
     .help = "stop after this version; -1: the newest trained one",
     .default_text = "-1"},
    {.name = "out", .value = "DIR", .help = "write that version's weights (Hugging Face layout)"},
    {.name = "threads", .value = "N", .help = "0: all cpus", .default_text = "0"},
    {0}};

static const struct command_option bench_options[] = {
    {.name = "threads", .value = "N", .help = "0: all cpus", .default_text = "0"},
    {.name = "dtype",
     .value = "float32|bfloat16",
     .help = "compute dtype",
     .default_text = "bfloat16"},
    {.name = "quick", .help = "gemm, attention: fewer sizes"},
    {.name = "model", .value = "DIR", .help = "the model to time"},
    {.name = "shape",
     .value = "NAME",
     .help = "instead of --model, random weights of this shape: stories260k, llama-100m, "
             "llama-500m, llama-1b",
     .default_text = "llama-100m"},
    {.name = "sequences",
     .value = "N",
     .help = "attention, decode, prefill: sequences at once",
     .default_text = "64"},
    {.name = "prompt-tokens",
     .value = "N",
     .help = "decode, prefill: of each sequence",
     .default_text = "256"},
    {.name = "new-tokens", .value = "N", .help = "decode: sampled of each", .default_text = "256"},
    {.name = "tokens", .value = "N", .help = "train: tokens a step", .default_text = "8192"},
    {.name = "megabytes",
     .value = "N",
     .help = "weights: size of the published model",
     .default_text = "400"},
    {.name = "length", .value = "N", .help = "train: of a sequence", .default_text = "512"},
    {.name = "steps",
     .value = "N",
     .help = "train, rl: optimiser steps that are timed",
     .default_text = "3"},
    {.name = "recipe", .value = "FILE", .help = "rl: whose RL stage to run"},
    {.name = "json", .value = "FILE", .help = "also write the figures as JSON"},
    {0}};

#define JOIN_TEXT                                                                                  \
    "With --run: a process of a run directory, as `hone run` starts it. With --join, --keys and "  \
    "the run's recipe: joins from another machine, and comes back by itself after the hub was "    \
    "away."

static const struct command_option keys_options[] = {
    {.name = "list", .help = "who may connect: role, names, public key"},
    {.name = "add",
     .value = "NAME",
     .help = "a pair for one more worker: actor-NAME, scorer-NAME, learner, or a beginning with a "
             "star"},
    {.name = "revoke",
     .value = "NAME",
     .help = "take a pair off the list; running hubs and learners notice within seconds"},
    {0}};

const struct command hone_commands[] = {
    {"run", "RECIPE [KEY=VALUE ...]", "run a recipe: sft, rl, dpo and the evaluations between them",
     "Runs every stage of the recipe that is not done yet in the recipe's output_dir and prints "
     "the final table. A "
     "killed or interrupted run continues when the same command is given again.",
     recipe_options, 1, -1, command_run},
    {"check", "[RECIPE [KEY=VALUE ...]]", "print the resolved recipe, or every problem it has",
     NULL, check_options, 0, -1, command_check},
    {"sft", "[RECIPE [KEY=VALUE ...]]", "supervised fine-tuning alone", NULL, stage_options, 0, -1,
     command_sft},
    {"rl", "[RECIPE [KEY=VALUE ...]]", "online reinforcement learning alone", NULL, stage_options,
     0, -1, command_rl},
    {"dpo", "[RECIPE [KEY=VALUE ...]]", "direct preference optimisation alone", NULL, stage_options,
     0, -1, command_dpo},
    {"eval", "[RECIPE [KEY=VALUE ...]]", "pass@k of a checkpoint on a recipe's held-out prompts",
     NULL, eval_options, 0, -1, command_eval},
    {"filter", "RECIPE [KEY=VALUE ...]",
     "measure the RL prompts against a checkpoint: easy, in the band, hard, parked",
     "Each prompt of rl.data is sampled as the RL stage would sample it, with the weights of one "
     "checkpoint, and scored with the recipe's rewards. A prompt of which no sample passes is "
     "sampled on, up to rl.filter.certificate. The file that is written names each prompt by a "
     "hash of its tokens, with its counts and its pool; rl.filter.pools lets a run start from it.",
     filter_options, 1, -1, command_filter},
    {"critique", "[RECIPE [KEY=VALUE ...]]",
     "ask a judge how hard each SFT row is (sft.prune.method: votes)",
     "hone run does this before an SFT stage that is pruned by votes. By itself it writes the "
     "votes "
     "into a file, to see what a judge and a question are worth.",
     critique_options, 0, -1, command_critique},
    {"generate", "MODEL [TEXT ...]", "complete a text", NULL, generate_options, 1, -1,
     command_generate},
    {"tokenize", "MODEL [TEXT ...]", "token ids of a text, or text of ids", NULL, tokenize_options,
     1, -1, command_tokenize},
    {"logprobs", "MODEL [TEXT ...]", "log-probability of every token of a text", NULL,
     logprobs_options, 1, -1, command_logprobs},
    {"curriculum", "", "a run's hub: prompts, leases, batches and the log", NULL,
     curriculum_options, 0, 0, command_curriculum},
    {"actor", "[RECIPE [KEY=VALUE ...]]", "a rollout actor of a run", JOIN_TEXT, worker_options, 0,
     -1, command_actor},
    {"scorer", "[RECIPE [KEY=VALUE ...]]", "a reward scorer of a run", JOIN_TEXT, worker_options, 0,
     -1, command_scorer},
    {"learner", "[RECIPE [KEY=VALUE ...]]", "the learner of a run", JOIN_TEXT, worker_options, 0,
     -1, command_learner},
    {"data", "make|equations|calculator|counting|tokenizer|show", "make, derive and look at data",
     "make: arithmetic word problems and raw text of the same world, from a seed, into the "
     "directory --out. calculator: "
     "the calculator notes of a GSM8K file as prompts. counting: \"count g to k:\" with answers "
     "of the lengths that are asked for. tokenizer: trains a byte-level BPE on the "
     "text of a dataset. "
     "show: prints rows as hone reads them.",
     data_options, 1, 1, command_data},
    {"inspect", "RUN", "trajectories of a run: text, tokens, logprobs, versions, rewards", NULL,
     inspect_options, 1, 1, command_inspect},
    {"audit", "RUN", "prove from the disk that nothing was lost or counted twice", NULL, NULL, 1, 1,
     command_audit},
    {"replay", "RUN", "make a run's versions again from its log and compare every hash",
     "Starts from the checkpoint that the RL stage started from and trains the logged batches in "
     "order with the run's own recipe. Every version must have the hash that was logged when it "
     "was "
     "trained first; the first that has not is named and the exit status is not 0.",
     replay_options, 1, 1, command_replay},
    {"bench", "gemm|attention|decode|prefill|train|rl|wire|weights",
     "time the engine against this machine's limits",
     "First the machine's ceilings are measured: multiply-adds, tile products where it has them, "
     "and reading from every level of memory. Then the kind's own figures, each with its share of "
     "the roofline that follows from the ceilings. gemm: the matmul of a linear layer forward, for "
     "its input's gradient and its weight's, beside a kernel that may add in any order. rl: a "
     "recipe's RL stage for --steps steps, in a temporary directory: trajectories and tokens a "
     "second, and how many cpus each role keeps busy. wire: messages a second. Let nothing else "
     "run meanwhile.",
     bench_options, 1, 1, command_bench},
    {"doctor", "", "what this machine can do", NULL, NULL, 0, 0, command_doctor},
    {"keys", "DIR", "make and revoke the keys of a run on several machines",
     "Without an option: makes DIR with the keys of a hub, a learner, actors and scorers and the "
     "list of who may connect. Secrets are in files of mode 0600 and are never printed.",
     keys_options, 1, 1, command_keys},
    {"completion", "bash|zsh|fish", "print a shell completion script", NULL, NULL, 1, 1,
     command_completion_script},
    {"man", "", "print the man page", NULL, NULL, 0, 0, command_man},
    {0}};

int main(int argc, char **argv)
{
    return command_dispatch(hone_commands, argc, argv);
}
