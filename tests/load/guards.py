"""What the guards do about each fault, in whole RL runs of the quickstart's task from one SFT checkpoint.

    python3 -B tests/load/guards.py HONE REPO OUT [--steps 120] [--at 60] [--for 8] [--seeds 1] [--fault gradient_spike] ...

A run without faults first. Then one with each fault injected (HONE_INJECT) from batch --at on for --for batches: loss that is not a
number, gradients ten thousand times too large, gradients of the wrong sign (the policy unlearns: reward falls, KL drifts), an entropy
bonus that hardens the policy, and an actor that keeps old weights under a new version's name.

Told of each, a figure a seed: the first signal, how many batches after the fault, what was done, and pass@1 on the held-out prompts at the end. OUT gets a
directory for each run and table.md; a run that is there and complete is not made again.
"""
import argparse
import json
import os
import subprocess
import sys

FAULTS = ["none", "nan_loss", "gradient_spike", "wrong_way", "wrong_way, reward alone", "wrong_way, KL alone", "entropy_collapse", "stale_weights"]
SIGNALS = ["none", "non_finite", "gradient_spike", "mismatch", "rolled_back", "entropy_collapse", "reward_collapse", "kl_drift",
           "behavior_drift", "sample_size", "truncation"]


def call(words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit("FAILED: %s\n%s" % (" ".join(map(str, words)), done.stdout[-4000:]))


def run(options, name, overrides, inject=None):
    directory = os.path.join(options.out, name.replace(", ", "-").replace(" ", "_"))
    summary = os.path.join(directory, "summary.json")
    if not os.path.exists(summary):
        environment = dict(os.environ)
        if inject:
            environment["HONE_INJECT"] = inject
        recipe = os.path.join(options.repository, "configs/quickstart.yaml")
        call([options.hone, "run", recipe, "output_dir=" + directory] + overrides, cwd=options.out, env=environment)
    with open(summary, encoding="utf-8") as file:
        return directory, json.load(file)


def told(directory, at):
    with open(os.path.join(directory, "metrics/rl.jsonl"), encoding="utf-8") as file:
        steps = [json.loads(line) for line in file]
    steps = {step["step"]: step for step in steps if "guard/signal" in step}
    signals = [number for number in sorted(steps) if steps[number]["guard/signal"] not in (0, 4, 9, 10)]
    backs = [number for number in sorted(steps) if steps[number]["guard/action"] == 3]
    skipped = sum(step["guard/action"] == 2 for step in steps.values())
    first = signals[0] if signals else None
    return {"signal": SIGNALS[int(steps[first]["guard/signal"])] if first else "none", "after": first - at + 1 if first else None,
            "backs": backs, "skipped": skipped}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("hone", type=os.path.abspath)
    parser.add_argument("repository", type=os.path.abspath)
    parser.add_argument("out", type=os.path.abspath)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--at", type=int, default=60)
    parser.add_argument("--for", type=int, default=8, dest="length")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--fault", action="append", choices=FAULTS, help="a fault to run, as often as there are faults; all of them when left out")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    if not os.path.exists(os.path.join(options.out, "runs/quickstart/data/train.jsonl")):
        call([options.hone, "data", "make", "--out", os.path.join(options.out, "runs/quickstart/data")])
    model = "model.path=" + os.path.join(options.repository, "models/quickstart_base")
    run(options, "sft", ["stages=[sft]", "eval.enabled=false", model])
    lines = ["| fault | first signal | batches after it began | skipped | went back | pass@1 at the end |", "|---|---|---|---|---|---|"]
    for fault in options.fault or FAULTS:
        kind = fault.split(",")[0]
        overrides = ["stages=[rl]", "rl.filter.mode=off", "rl.drop_zero_advantage=false", "rl.steps=%d" % options.steps, "rl.checkpoint_steps=10",
                     "model.path=" + os.path.join(options.out, "sft/sft/final")]
        if fault.endswith("KL alone"):
            overrides += ["rl.guards.reward_drop=0", "rl.guards.entropy_floor=0", "rl.guards.behavior_drift=0", "rl.objective.kl_limit=0.4"]
        if fault.endswith("reward alone"):
            overrides += ["rl.guards.behavior_drift=0"]
        if kind == "stale_weights":
            overrides += ["weights.transport=chunks"]
        last = options.at + options.length - 1
        # A version is one batch older than the batch that is sampled from it next.
        inject = "%s:%d-%d" % (kind, options.at, last) if kind != "none" else None
        rows, passes, errors = [], [], []
        for seed in range(1, options.seeds + 1):
            directory, summary = run(options, "%s-%d" % (fault, seed), overrides + ["seed=%d" % seed], inject)
            rows.append(told(directory, options.at))
            passes.append(summary["stages"]["rl"]["pass@1"])
            errors.append(summary["stages"]["rl"]["pass@1_error"])
            print(fault, seed, json.dumps(rows[-1]), passes[-1], flush=True)
        error = sum(error * error for error in errors) ** 0.5 / len(errors)
        lines.append("| %s | %s | %s | %s | %s | %.3f +- %.3f (%s) |" % (
            fault, ", ".join(sorted({row["signal"] for row in rows})), ", ".join(str(row["after"]) for row in rows if row["after"] is not None),
            ", ".join(str(row["skipped"]) for row in rows), "; ".join(", ".join("at %d" % number for number in row["backs"]) or "no" for row in rows),
            sum(passes) / len(passes), error, ", ".join("%.3f" % passed for passed in passes)))
    with open(os.path.join(options.out, "table.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
