"""What each published objective makes of the quickstart's task: whole RL runs of `hone run` from one SFT checkpoint.

    python3 -B tests/load/presets.py HONE REPO OUT [--seeds 3] [--steps 120] [--presets a,b,...] [--stale] [--learning-rate 4e-4]

The quickstart's recipe makes the checkpoint (its SFT stage, seed 1). Then, for each preset and seed, its RL stage with that preset's
values of rl.objective (its learning rate, sizes and limit on KL are the quickstart's) and an evaluation on the held-out prompts.
--stale: AIPO and decoupled_ppo against plain clipping (dapo) at staleness_max 8, instead; no guard goes back or stops there, and KL has no
limit, so that each objective shows what it does.

Reward, entropy and KL are means over the last tenth of the batches. OUT gets a directory for each run and the table; a run that is there
and complete is not made again.
"""
import json
import os
import statistics

from quickstart_runs import UNFILTERED, arguments, prepare, records, run, spread

PRESETS = ["grpo", "dr_grpo", "dapo", "rloo", "reinforce++", "reinforce++-baseline", "gspo", "cispo", "aipo", "decoupled_ppo", "ppo"]
UNGUARDED = ["rl.guards={gradient_spike: 0, entropy_floor: 0, reward_drop: 0, behavior_drift: 0}"]
STALE = [("dapo", "off_policy_correction: none, "), ("dapo", ""), ("aipo", ""), ("decoupled_ppo", "")]


def figures(directory, summary):
    steps = [step for step in records(directory, "rl.jsonl") if "reward/mean" in step]
    last = steps[-max(1, len(steps) // 10):]

    def mean(key):
        values = [step[key] for step in last if key in step]
        return statistics.fmean(values) if values else float("nan")

    stages = summary["stages"]
    return {"pass": stages["rl"]["pass@1"], "before": stages["base"]["pass@1"], "reward": mean("reward/mean"),
            "entropy": mean("policy/entropy"), "kl": mean("policy/kl_ref"), "staleness": mean("staleness/mean"),
            "seconds": (steps[-1]["time"] - steps[0]["time"]) / 1000}


def main():
    parser = arguments(__doc__)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--stale", action="store_true")
    parser.add_argument("--learning-rate", default="4e-4")
    options = parser.parse_args()
    hone, repository, out = options.hone, options.repository, options.out
    start = prepare(hone, repository, out)
    cases = STALE if options.stale else [(preset, "") for preset in options.presets.split(",")]
    lines = ["| preset | pass@1 after RL | reward | entropy | KL to the start | staleness | seconds |", "|---|---|---|---|---|---|---|"]
    for preset, more in cases:
        rows, stopped = [], []
        for seed in range(1, options.seeds + 1):
            name = "%s%s-%s-%d" % (preset, "-stale" + ("-none" if more else "") if options.stale else "", options.learning_rate, seed)
            objective = "rl.objective={preset: %s, %skl_limit: %g}" % (preset, more, 0.0 if options.stale else 1.0)
            overrides = ["stages=[rl]", "seed=%d" % seed, objective, "rl.steps=%d" % options.steps, start,
                         "rl.optimizer.learning_rate=" + options.learning_rate] + UNFILTERED
            if options.stale:
                overrides += ["rl.staleness_max=8"] + UNGUARDED
            try:
                directory, summary = run(hone, repository, out, name, overrides)
            except SystemExit as stop:  # the guards gave up
                stopped.append(str(stop).strip().splitlines()[-1])
                print(name, stopped[-1], flush=True)
                continue
            rows.append(figures(directory, summary))
            print(name, json.dumps(rows[-1]), flush=True)
        label = preset + (", " + more.strip(" ,") if more else "") + (" (%d of %d stopped)" % (len(stopped), options.seeds) if stopped else "")
        if not rows:
            lines.append("| %s | %s | | | | | |" % (label, stopped[0]))
            continue
        lines.append("| %s | %s | %s | %s | %s | %.1f | %.0f |" % (
            label, spread(rows, "pass", 3), spread(rows, "reward", 3), spread(rows, "entropy", 3), spread(rows, "kl", 4),
            statistics.fmean(row["staleness"] for row in rows), statistics.fmean(row["seconds"] for row in rows)))
    if rows:
        lines.append("\npass@1 before RL: %.3f" % rows[0]["before"])
    with open(os.path.join(out, "%s-%s.md" % ("stale" if options.stale else "table", options.learning_rate)), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
