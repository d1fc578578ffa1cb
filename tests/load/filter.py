"""What the hard-prompt filter saves: RL runs of the quickstart from one SFT checkpoint, with it and without.

    python3 -B tests/load/filter.py HONE REPO OUT [--seeds 3] [--steps 120] [--every 10] [--cases off,drop,on,wide,file]

off: every group is trained, prompts come unfiltered. drop: groups without an advantage are dropped and replaced, prompts come unfiltered. on: the same with the
filter at its defaults, from unseen prompts. wide: the quickstart's own, a band up to 0.9 that stays. file: as on, started from what `hone filter` measured of a quarter of the prompts.
Each run keeps a checkpoint every EVERY steps; each is evaluated on the held-out prompts.

The table says what each case needed to come to the pass@1 that `off` has at its end (mean of its last three checkpoints, the same for all
cases of a seed), by interpolation between checkpoints: steps, trained tokens, and sampled tokens, those of dropped groups, of probes and of
`hone filter` included. OUT gets a directory for each run, curves.jsonl and table.md; what is there is not made again.
"""
import json
import os
import statistics
import subprocess

from quickstart_runs import arguments, call, evaluate, prepare, records, run, spread

DEFAULTS = "rl.filter={mode: on, high: 0.75, high_min: 0.5, high_step: 0.05, easy_share: 0.05}"
CASES = {
    "off": ["rl.filter.mode=measure", "rl.filter.probe_groups=0", "rl.drop_zero_advantage=false"],
    "drop": ["rl.filter.mode=measure", "rl.filter.probe_groups=0", "rl.drop_zero_advantage=true"],
    "on": [DEFAULTS, "rl.drop_zero_advantage=true"],
    "wide": ["rl.filter={mode: on, high: 0.9, high_min: 0.9, high_step: 0, easy_share: 0.1}", "rl.drop_zero_advantage=true"],
    "file": [DEFAULTS, "rl.drop_zero_advantage=true"],
}


def evaluate_step(hone, repository, out, directory, step):
    model = os.path.join(directory, "rl/checkpoints/step-%d" % step)
    return evaluate(hone, repository, out, model, os.path.join(directory, "eval", "step-%d.json" % step))["pass@1"]


def measure_first(hone, repository, out, start):
    """Pools of a quarter of the prompts, and the tokens that they took."""
    path, cost = os.path.join(out, "pools.jsonl"), os.path.join(out, "pools.tokens")
    if not os.path.exists(cost):
        words = [hone, "filter", os.path.join(repository, "configs/quickstart.yaml"), "stages=[rl]", start, "--out", path, "--limit", "1500"]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True, cwd=out)
        with open(cost, "w", encoding="utf-8") as file:
            file.write(done.stdout.splitlines()[-1].split()[0])
    with open(cost, encoding="utf-8") as file:
        return path, int(file.read())


def curve(hone, repository, out, directory, steps, every, before, sampled):
    """Points (step, trained tokens, sampled tokens, pass@1)."""
    points, trained = [(0, 0, sampled, before)], 0
    learner = {record["step"]: record for record in records(directory, "rl.jsonl") if "tokens" in record}
    hub = {record["step"]: record for record in records(directory, "curriculum.jsonl")}
    for step in range(1, steps + 1):
        trained += learner[step]["tokens"]
        sampled += hub[step]["length/mean"] * learner[step]["batch/trajectories"] + hub[step]["filter/wasted_tokens"]
        if step % every == 0:
            points.append((step, trained, sampled, evaluate_step(hone, repository, out, directory, step)))
    return points


def reached(points, level, column):
    """Where the curve first comes to the level; None: it does not."""
    for last, point in zip(points, points[1:]):
        if point[3] >= level:
            part = (level - last[3]) / (point[3] - last[3]) if point[3] > last[3] else 1.0
            return last[column] + max(0.0, part) * (point[column] - last[column])
    return None


def main():
    parser = arguments(__doc__)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    hone, repository, out = options.hone, options.repository, options.out
    start = prepare(hone, repository, out)
    cases = options.cases.split(",")
    rows = {case: [] for case in cases}
    for seed in range(1, options.seeds + 1):
        level = None
        for case in cases:
            more, cost = CASES[case], 0
            if case == "file":
                path, cost = measure_first(hone, repository, out, start)
                more = more + ["rl.filter.pools=" + path]
            overrides = ["stages=[rl]", "seed=%d" % seed, "rl.steps=%d" % options.steps, "rl.checkpoint_steps=%d" % options.every,
                         "rl.keep_checkpoints=%d" % (options.steps // options.every + 1), start] + more
            directory, summary = run(hone, repository, out, "%s-%d" % (case, seed), overrides)
            call([hone, "audit", directory])
            points = curve(hone, repository, out, directory, options.steps, options.every, summary["stages"]["base"]["pass@1"], cost)
            if level is None:
                level = statistics.fmean(point[3] for point in points[-3:])
            row = {"end": points[-1][3], "level": level, "trained": points[-1][1], "sampled": points[-1][2]}
            for column, key in ((0, "steps"), (1, "trained_to"), (2, "sampled_to")):
                row[key] = reached(points, level, column)
            rows[case].append(row)
            with open(os.path.join(out, "curves.jsonl"), "a", encoding="utf-8") as file:
                file.write(json.dumps({"case": case, "seed": seed, "points": points}) + "\n")
            print(case, seed, json.dumps(row), flush=True)
    lines = ["| case | pass@1 at the end | steps to the level | trained tokens to it, thousands | sampled tokens to it, thousands |",
             "|---|---|---|---|---|"]
    for case in cases:
        done = [row for row in rows[case] if row["steps"] is not None]
        for row in done:
            row["kilo_trained"], row["kilo_sampled"] = row["trained_to"] / 1000, row["sampled_to"] / 1000
        cells = [spread(done, key, 0) if done else "never" for key in ("steps", "kilo_trained", "kilo_sampled")]
        lines.append("| %s | %s | %s |" % (case, spread(rows[case], "end", 3), " | ".join(cells)))
    lines.append("\nThe level: %s" % spread(rows[cases[0]], "level", 3))
    with open(os.path.join(out, "table.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
