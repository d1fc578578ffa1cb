"""Does asynchrony pay, and what does staleness cost? Real runs of `hone run` on this machine's first two cores.

    python3 -B tests/load/asynchrony.py HONE REPO OUT [--part all|abc|staleness] [--seeds 3] [--steps N] [--staleness-steps N]

A base is made first, by SFT from random weights, on the counting task (`hone data counting`): how long an answer must be is in
its prompt. Then, every run with the same base, batch size and number of trained batches:

  (a) uniform lengths, actor on core 0 and learner on core 1: asynchronous against synchronous. Ideal: 2 where the work is balanced.
  (b) lengths whose 99th percentile is ten times the median: asynchronous on those pools against a synchronous run that may use both
      cores in both phases. Ideal: 1 / (1 - bubble), the bubble being that of the synchronous run.
  (c) uniform lengths, the comparison of (b). Ideal: 1.
  staleness: bounds 0, 1, 2, 4, 8, with each off-policy correction: reward at the end of equally many batches.

Asynchronous and synchronous runs of one seed follow each other. What is measured of each comes from hone itself: metrics/rl.jsonl
(when each batch was trained), metrics/workers.jsonl (where each process's time went), `hone inspect` (lengths).

Wall time counts from when the learner first waits for a batch until the last batch is trained: the pipeline's filling is in it.

bubble (reference formula: ideal on the same devices = T_sync D / sum of work = 1 / (1 - bubble)): generation's work is its tokens at
the price that a token had in steps with every slot in use; the learner's is the time it trained and published. What is left of the
wall time, idle slots above all, is the bubble.

Balance: training a token is several times the work of generating one, so a judge looks at a share of the completions only and the
others are not trained on (sparse_judge.py); the share is calibrated by three short runs for each length distribution.

OUT gets a directory for each run, table.txt and results.json. A run that is there, complete and of the same settings is not made
again. Exit status 1: a claim does not hold.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

BASE = """name: {name}
seed: 1
output_dir: {out}/{name}
stages: [sft]
model:
  dtype: bfloat16
  init:
    method: random
    tokenizer: {out}/tokenizer
    hidden_size: 128
    layers: 4
    heads: 4
    kv_heads: 2
    head_dim: 32
    intermediate_size: 384
    max_positions: 256
    tie_embeddings: true
sft:
  data:
    path: [{out}/long/sft.jsonl, {out}/uniform/sft.jsonl]
    prompt_column: prompt
    completion_column: completion
  epochs: 1
  max_steps: {sft_steps}
  batch_tokens: 2048
  micro_batch_tokens: 2048
  max_length: 240
  optimizer:
    learning_rate: 3e-3
    schedule: cosine
    warmup_steps: 20
    min_lr_ratio: 0.05
eval:
  enabled: false
"""

RECIPE = """name: asynchrony
seed: {seed}
output_dir: {directory}
stages: [rl]
model:
  path: {out}/{base}/sft/final
  dtype: bfloat16
pools:
  actors:
    devices: [{actor_cpus}]
    workers: {actors}
    threads: {actor_threads}
  learner:
    devices: [{learner_cpus}]
    threads: {learner_threads}
  scorers:
    devices: [{both}]
    workers: 1
rl:
  data:
    path: [{out}/{lengths}/train.jsonl]
    prompt_column: prompt
    ground_truth_column: answer
    capability_column: capability
    data_source_column: source
  steps: {steps}
  prompts_per_step: {prompts}
  group_size: {group}
  max_prompt_tokens: {prompt_tokens}
  staleness_max: {staleness}
  sampling:
    temperature: 1.0
    max_completion_tokens: {completion_tokens}
  objective:
    baseline: group_mean
    scale: group_std
    clip_low: 0.2
    clip_high: 0.28
    off_policy_correction: {correction}
  drop_zero_advantage: false
  optimizer:
    learning_rate: {learning_rate}
    warmup_steps: 3
  micro_batch_tokens: 1024
  checkpoint_steps: {steps}
  actor:
    slots: {slots}
    prefill_chunk_tokens: 256
reward:
  parts:
    - name: exact
      {verifier}
      weight: 1.0
eval:
  enabled: false
"""

CASES = {
    "uniform": {"lengths": "uniform", "slots": 64, "prompts": 16, "group": 24},
    "long": {"lengths": "long", "slots": 64, "prompts": 16, "group": 24},
}
# Staleness is told from a base that has much to learn.
STALENESS_CASE = {"base": "base_early", "lengths": "uniform", "slots": 32, "prompts": 16, "group": 8, "share": None}
MODES = {
    "async": {"staleness": 4},
    "sync_pools": {"staleness": 0},
    "sync_all": {"staleness": 0},
}
CORRECTIONS = ("decoupled", "behavior_ratio", "none")
BOUNDS = (0, 1, 2, 4, 8)


def call(*words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit("FAILED: %s\n%s" % (" ".join(map(str, words)), done.stdout[-4000:]))
    return done.stdout


def records(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("}\n")]


def make_base(args):
    """Data of both length distributions, one tokenizer and the two bases that runs start from."""
    out = args.out
    if os.path.exists(os.path.join(out, "base_early/sft/final/DONE")):
        return
    spreads = {"long": ("16", "220", "223"), "uniform": ("26", "26", "26")}  # median, p99, longest
    for name, (median, p99, longest) in spreads.items():
        call(args.hone, "data", "counting", "--out", os.path.join(out, name), "--seed", "1", "--median", median, "--p99", p99,
             "--longest", longest, "--sft", "6000", "--train", "6000", "--test", "500")
    call(args.hone, "data", "tokenizer", "--input", os.path.join(out, "long/sft.jsonl"), "--vocab", "768", "--out",
         os.path.join(out, "tokenizer"))
    for name, steps in (("base", args.sft_steps), ("base_early", args.early_sft_steps)):
        recipe = os.path.join(out, name + ".yaml")
        with open(recipe, "w") as file:
            file.write(BASE.format(out=out, name=name, sft_steps=steps))
        call(args.hone, "run", recipe)


def placement(mode, cores, sync_actors):
    """Where each role runs, and with how many threads."""
    both = "cpu:%d, cpu:%d" % cores
    if mode == "sync_all":
        return {"actor_cpus": both, "learner_cpus": both, "actors": sync_actors, "actor_threads": 2 // sync_actors,
                "learner_threads": 2, "both": both}
    return {"actor_cpus": "cpu:%d" % cores[0], "learner_cpus": "cpu:%d" % cores[1], "actors": 1, "actor_threads": 1,
            "learner_threads": 1, "both": both}


def verifier(args, share, seed):
    """Every completion is judged, or a share of them."""
    if share is None:
        return "verifier: exact"
    judge = os.path.join(args.repository, "tests/load/sparse_judge.py")
    return "verifier: command\n      command: [%s, -B, %s, \"%.6f\", \"%d\"]" % (sys.executable, judge, share, seed)


def calibrate(args, table, case):
    """The share of completions to judge with which the learner's work is the actor's: what a completion costs each of them is
    measured in three short synchronous runs."""
    share, ratios = 0.25, []
    for attempt in range(1, 4):
        measured = run(args, "calibration-%s-%d" % (case, attempt), case, "sync_pools", attempt, share=share, steps=args.calibration_steps)
        actor = measured["generate_work_s"] + measured["pools"]["actor"]["time/exchange_s"]
        ratios.append(measured["train_work_s"] / actor)
    table.say("%s: with %.2f of the completions judged the learner's work is %s of the actor's (median counts)" %
              (case, share, ", ".join("%.3f" % ratio for ratio in ratios)))
    return min(1.0, max(0.1, share / statistics.median(ratios)))


def run(args, name, case, mode, seed, **more):
    """One run, unless it is there; returns what was measured of it."""
    directory = os.path.join(args.out, "runs", name)
    result = os.path.join(args.out, "runs", name + ".json")
    settings = {"seed": seed, "directory": directory, "out": args.out, "steps": args.steps, "prompt_tokens": 16,
                "completion_tokens": 224, "base": "base", "correction": "decoupled", "learning_rate": args.learning_rate}
    settings.update(CASES[case], **MODES[mode], **placement(mode, args.cores, args.sync_actors))
    settings.update(more)
    settings["verifier"] = verifier(args, settings["share"], seed)
    if mode == "sync_all":
        settings["slots"] //= settings["actors"]
    if os.path.exists(result):
        with open(result) as file:
            measured = json.load(file)
        if measured["settings"] == settings:
            return measured
    shutil.rmtree(directory, ignore_errors=True)
    recipe = directory + ".yaml"
    with open(recipe, "w") as file:
        file.write(RECIPE.format(**settings))
    load = os.getloadavg()[0]
    call(args.hone, "run", recipe)
    measured = measure(args.hone, directory, settings, load)
    with open(result, "w") as file:
        json.dump(measured, file, indent=1)
    return measured


def pool_times(directory):
    """Seconds of each activity by role, over the whole life of its processes, and the largest difference between what a process
    accounts for and the wall time between its first and its last record, as a share."""
    newest, first = {}, {}
    for record in records(os.path.join(directory, "metrics/workers.jsonl")):
        key = (record["worker"], record["incarnation"])
        newest[key] = record
        first.setdefault(key, record)
    pools, error = {}, 0.0
    for key, record in newest.items():
        pool = pools.setdefault(record["role"], {"processes": 0})
        pool["processes"] += 1
        for name, value in record.items():
            if name.startswith(("time/", "slots/", "weights/")) or name == "tokens":
                pool[name] = pool.get(name, 0) + value
        wall = (record["time"] - first[key]["time"]) / 1000
        if wall > 1:
            error = max(error, abs(record["time/total_s"] - first[key]["time/total_s"] - wall) / wall)
    return pools, error


def completion_lengths(hone, directory):
    """Completion tokens of the trained trajectories."""
    text = call(hone, "inspect", directory, "--limit", 100000000, "--status", "trained")
    return sorted(int(line.split(" tokens ")[1].split()[0].split("+")[1]) for line in text.splitlines() if line.startswith("trajectory"))


def measure(hone, directory, settings, load):
    steps = records(os.path.join(directory, "metrics/rl.jsonl"))
    first, last = steps[0], steps[-1]
    start = first["time"] / 1000 - first["time/train_s"] - first["time/wait_for_batch_s"]
    rewards = [record["reward/mean"] for record in steps]
    tail = max(1, len(steps) // 5)
    pools, error = pool_times(directory)
    lengths = completion_lengths(hone, directory)
    measured = {
        "settings": settings, "load_before": load, "batches": len(steps), "wall_s": last["time"] / 1000 - start,
        "reward_first": statistics.mean(rewards[:tail]), "reward_last": statistics.mean(rewards[-tail:]),
        "unequal_tokens": sum(record["mismatch/unequal_tokens"] for record in steps),
        "staleness_mean": statistics.mean(record["staleness/mean"] for record in steps),
        "staleness_max": max(record["staleness/max"] for record in steps),
        "ess": statistics.mean(record["mismatch/ess"] for record in steps),
        "dropped_stale": records(os.path.join(directory, "metrics/curriculum.jsonl"))[-1]["dropped/stale"],
        "length_median": lengths[len(lengths) // 2], "length_p99": lengths[len(lengths) * 99 // 100],
        "length_mean": statistics.mean(lengths), "length_max": lengths[-1], "trained_tokens": sum(lengths),
        "pools": pools, "account_error": error,
    }
    measured.update(bubble(measured))
    return measured


def bubble(run):
    """Of a run whose phases follow each other: the share of the wall time that work at full slots would not need."""
    actor, learner = run["pools"]["actor"], run["pools"]["learner"]
    price = actor["slots/full_s"] / actor["slots/full_tokens"] if actor["slots/full_tokens"] else float("nan")
    generate = price * actor["tokens"] / actor["processes"]
    train = learner["time/train_s"] + learner["time/publish_s"]
    return {"generate_work_s": generate, "train_work_s": train, "bubble": 1 - (generate + train) / run["wall_s"],
            "slots_idle": 1 - actor["slots/used_s"] / actor["time/generate_s"]}


def share(run, role, name):
    pool = run["pools"][role]
    return pool[name] / pool["time/total_s"]


def mean(runs, name):
    return statistics.mean(run[name] for run in runs)


def spread(values):
    return "%.3f (%.3f to %.3f)" % (statistics.mean(values), min(values), max(values))


class Table:
    def __init__(self, path):
        self.file = open(path, "w")

    def say(self, text=""):
        print(text, flush=True)
        self.file.write(text + "\n")
        self.file.flush()


def describe(table, title, runs):
    for seed, run in enumerate(runs, 1):
        roles = []
        for role in ("actor", "learner", "scorer"):
            pool = run["pools"][role]
            parts = ["%s %.1f" % (name[5:-2], 100 * pool[name] / pool["time/total_s"]) for name in pool
                     if name.startswith("time/") and name not in ("time/total_s", "time/busy_s") and pool[name] > 0.0005 * pool["time/total_s"]]
            roles.append("%s %s" % (role, ", ".join(parts)))
        table.say("  %s seed %d: %.1f s, %d batches, length median %d p99 %d mean %.1f, reward %.3f -> %.3f, staleness %.2f (max %d), "
                  "%d stale groups dropped, load before %.1f" %
                  (title, seed, run["wall_s"], run["batches"], run["length_median"], run["length_p99"], run["length_mean"],
                   run["reward_first"], run["reward_last"], run["staleness_mean"], run["staleness_max"], run["dropped_stale"],
                   run["load_before"]))
        table.say("    %% of each process's time: %s" % "; ".join(roles))
        table.say("    slots idle %.1f %% of generation; accounts add up to wall time within %.2f %%" %
                  (100 * run["slots_idle"], 100 * run["account_error"]))


def verdict(table, good, text):
    table.say("  %s: %s" % ("yes" if good else "NO", text))
    return {"claim": text, "holds": good}


def compare(table, name, fast, slow, least, what, bubbles=None):
    """Ratios of paired seeds; rewards within the spread; accounts."""
    ratios = [b["wall_s"] / a["wall_s"] for a, b in zip(fast, slow)]
    verdicts = []
    table.say("(%s) %s: %s times as fast, per seed %s" %
              (name, what, spread(ratios), ", ".join("%.3f" % ratio for ratio in ratios)))
    if bubbles is None:
        verdicts.append(verdict(table, statistics.mean(ratios) >= least, "mean ratio at least %.2f" % least))
    else:
        ideals = [1 / (1 - run["bubble"]) for run in bubbles]
        reached = [ratio / ideal for ratio, ideal in zip(ratios, ideals)]
        table.say("  ideal 1 / (1 - bubble) %s; bubble %s" % (spread(ideals), spread([run["bubble"] for run in bubbles])))
        verdicts.append(verdict(table, statistics.mean(reached) >= least, "%s of the ideal, at least %.2f" % (spread(reached), least)))
    rewards = [[run["reward_last"] for run in runs] for runs in (fast, slow)]
    width = max(max(values) - min(values) for values in rewards)
    apart = abs(statistics.mean(rewards[0]) - statistics.mean(rewards[1]))
    verdicts.append(verdict(table, apart <= width, "final reward %s asynchronous, %s synchronous: %.3f apart, seed spread %.3f" %
                            (spread(rewards[0]), spread(rewards[1]), apart, width)))
    error = max(run["account_error"] for run in fast + slow)
    verdicts.append(verdict(table, error <= 0.02, "the pools' times add up to wall time within %.2f %%" % (100 * error)))
    unequal = sum(run["unequal_tokens"] for run in fast + slow)
    verdicts.append(verdict(table, unequal == 0, "%d unequal tokens (G6)" % unequal))
    return {"ratios": ratios, "verdicts": verdicts}


def part_abc(args, table, results):
    runs = {}
    for case, modes in (("uniform", ("async", "sync_pools", "sync_all")), ("long", ("async", "sync_all"))):
        share = calibrate(args, table, case)
        for mode in modes:
            runs[case, mode] = []
        for seed in range(1, args.seeds + 1):
            for mode in modes:
                actors = "-2" if mode == "sync_all" and args.sync_actors == 2 else ""
                runs[case, mode].append(run(args, "%s-%s%s-%d" % (case, mode, actors, seed), case, mode, seed, share=share))
        for mode in modes:
            describe(table, "%s %s" % (case, mode), runs[case, mode])
    uniform, tail = runs["uniform", "async"], runs["long", "async"]
    balance = [run["train_work_s"] / run["generate_work_s"] for run in runs["uniform", "sync_pools"]]
    table.say("balance of (a), learner's work / actor's work in the synchronous run: %s" % spread(balance))
    results["a"] = compare(table, "a", uniform, runs["uniform", "sync_pools"], 1.7, "uniform lengths, asynchronous against synchronous on "
                           "the same two pools")
    results["a"]["balance"] = balance
    lengths = runs["long", "sync_all"]
    is_long = verdict(table, mean(lengths, "length_p99") >= 9 * mean(lengths, "length_median"),
                      "length p99 %.0f is about ten times the median %.0f" %
                      (mean(lengths, "length_p99"), mean(lengths, "length_median")))
    results["b"] = compare(table, "b", tail, lengths, 0.9, "long-tailed lengths, asynchronous against synchronous on all cores", lengths)
    results["b"]["verdicts"].append(is_long)
    results["c"] = compare(table, "c", uniform, runs["uniform", "sync_all"], 0.95, "uniform lengths, asynchronous against synchronous "
                           "on all cores")
    results["runs"] = {"%s %s" % key: value for key, value in runs.items()}


def part_staleness(args, table, results):
    """Final reward against the bound, for each correction."""
    results["staleness"] = {}
    table.say("staleness: final reward (mean of the last fifth of %d batches; mean, lowest and highest of %d seeds), mean staleness, "
              "effective sample size" % (args.staleness_steps, args.seeds))
    for correction in CORRECTIONS:
        for bound in BOUNDS:
            if bound == 0 and correction != CORRECTIONS[0]:
                continue  # on policy every correction is the same bits
            runs = [run(args, "stale-%s-%d-%d" % (correction, bound, seed), "uniform", "async", seed,
                        **dict(STALENESS_CASE, staleness=bound, correction=correction, steps=args.staleness_steps,
                               learning_rate=args.staleness_learning_rate))
                    for seed in range(1, args.seeds + 1)]
            table.say("  %-14s bound %d: reward %s, from %.3f; staleness %.2f, max %d; ess %.3f; %.1f s" %
                      (correction if bound else "(any)", bound, spread([r["reward_last"] for r in runs]), mean(runs, "reward_first"),
                       mean(runs, "staleness_mean"), max(r["staleness_max"] for r in runs), mean(runs, "ess"), mean(runs, "wall_s")))
            results["staleness"]["%s %d" % (correction, bound)] = runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hone")
    parser.add_argument("repository")
    parser.add_argument("out")
    parser.add_argument("--part", default="all", choices=["all", "abc", "staleness"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--staleness-steps", type=int, default=40)
    parser.add_argument("--sft-steps", type=int, default=256)
    parser.add_argument("--early-sft-steps", type=int, default=128)
    parser.add_argument("--calibration-steps", type=int, default=20)
    parser.add_argument("--learning-rate", default="1e-4")
    parser.add_argument("--staleness-learning-rate", default="2e-4")
    parser.add_argument("--sync-actors", type=int, default=1, choices=[1, 2],
                        help="synchronous on all cores: one actor with two threads, or two with one each")
    args = parser.parse_args()
    args.hone, args.out, args.repository = map(os.path.abspath, (args.hone, args.out, args.repository))
    args.cores = tuple(sorted(os.sched_getaffinity(0))[:2])
    if len(args.cores) < 2:
        sys.exit("two cores are needed")
    os.makedirs(os.path.join(args.out, "runs"), exist_ok=True)
    table, results, start = Table(os.path.join(args.out, "table.txt")), {}, time.monotonic()
    make_base(args)
    if args.part in ("all", "abc"):
        part_abc(args, table, results)
    if args.part in ("all", "staleness"):
        part_staleness(args, table, results)
    with open(os.path.join(args.out, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
    table.say("%.0f s in all" % (time.monotonic() - start))
    verdicts = [verdict for part in "abc" for verdict in results.get(part, {}).get("verdicts", [])]
    sys.exit(not all(verdict["holds"] for verdict in verdicts))


if __name__ == "__main__":
    main()
