"""What a light DPO on corner cases does: pairs of one capability, mined from the log of an RL run, against the others.

    python3 -B tests/load/corner_cases.py HONE REPO OUT [--runs on-1,on-2,on-3] [--slices compare,two_step,add] [--samples 64] [--anchors 0]

OUT is that of tests/load/filter.py, whose runs these are. For each run and slice: DPO from the RL result (learning rate 3e-5, NLL 0.2, at most
2,000 pairs, the newest, one epoch; ANCHORS is the share of pairs of other prompts), and pass@1 on the held-out prompts before and after, from SAMPLES answers to each. The table has the change in
points for the slice, and for all other prompts together. OUT gets a directory for each run and corner_cases.md.
"""
import os
import statistics

from quickstart_runs import arguments, evaluate, run, spread


def elsewhere(capabilities, name):
    others = [value for key, value in capabilities.items() if key != name]
    return sum(value["pass@1"] * value["prompts"] for value in others) / sum(value["prompts"] for value in others)


def main():
    parser = arguments(__doc__)
    parser.add_argument("--runs", default="on-1,on-2,on-3")
    parser.add_argument("--slices", default="compare,two_step,add")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--anchors", type=float, default=0)
    options = parser.parse_args()
    hone, repository, out = options.hone, options.repository, options.out
    lines = ["| slice | before | change in the slice | change elsewhere | worst other capability |", "|---|---|---|---|---|"]
    for name in options.slices.split(","):
        rows = []
        for base in options.runs.split(","):
            model = os.path.join(out, base, "rl/final")
            samples = ["eval.samples=%d" % options.samples]
            before = evaluate(hone, repository, out, model, os.path.join(out, base, "eval/corners.json"), samples)["capabilities"]
            overrides = ["stages=[dpo]", "model.path=" + model, "dpo.log=" + os.path.join(out, base, "rl/log"), "dpo.capabilities=[%s]" % name,
                         "dpo.optimizer.learning_rate=3e-5", "dpo.nll_coef=0.2", "dpo.pairs_max=2000", "eval.enabled=false", "dpo.anchor_share=%g" % options.anchors]
            directory, _ = run(hone, repository, out, "dpo-%s-%s%s" % (name, base, "-%g" % options.anchors if options.anchors else ""), overrides)
            result = os.path.join(directory, "dpo/final")
            after = evaluate(hone, repository, out, result, os.path.join(directory, "eval.json"), samples)["capabilities"]
            change = {key: 100 * (after[key]["pass@1"] - before[key]["pass@1"]) for key in before}
            rows.append({"before": 100 * before[name]["pass@1"], "slice": change[name],
                         "elsewhere": 100 * (elsewhere(after, name) - elsewhere(before, name)),
                         "worst": min(value for key, value in change.items() if key != name)})
            print(name, base, {key: round(value, 1) for key, value in change.items()}, flush=True)
        lines.append("| %s | %.1f %% | %s | %s | %s |" % (name, statistics.fmean(row["before"] for row in rows), spread(rows, "slice", 1),
                                                        spread(rows, "elsewhere", 1), spread(rows, "worst", 1)))
    with open(os.path.join(out, "corner_cases.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
