"""What pruned SFT data does to the RL that follows: the quickstart's SFT on all rows and on part of them, then its RL stage.

    python3 -B tests/load/pruning.py HONE REPO OUT [--seeds 3] [--steps 120] [--cases full,loss-50,loss-95,random-50]

A case is METHOD-PERCENT: so many percent of each capability's rows are left out, by sft.prune.method; METHOD-PERCENT-steps goes over the rest
more often, so that SFT has as many steps as with all rows. Groups without an advantage are dropped
and replaced in the RL stage. The table has pass@1 on the held-out prompts after SFT and after RL. OUT gets a directory for each run and
pruning.md; what is there and complete is not made again.
"""
import os

from quickstart_runs import arguments, prepare, run, spread


def main():
    parser = arguments(__doc__)
    parser.add_argument("--cases", default="full,loss-50,loss-95,random-50")
    options = parser.parse_args()
    hone, repository, out = options.hone, options.repository, options.out
    prepare(hone, repository, out)
    lines = ["| rows left out | pass@1 after SFT | after RL | pass@k after SFT | after RL |", "|---|---|---|---|---|"]
    for case in options.cases.split(","):
        rows = []
        for seed in range(1, options.seeds + 1):
            overrides = ["stages=[sft,rl]", "seed=%d" % seed, "rl.steps=%d" % options.steps, "rl.drop_zero_advantage=true", "rl.filter.mode=off",
                         "sft.data.capability_column=capability", "model.path=" + os.path.join(repository, "models/quickstart_base")]
            if case != "full":
                method, percent = case.split("-")[:2]
                if case.endswith("-steps"):
                    overrides += ["sft.epochs=%d" % round(2 * 100 / (100 - int(percent)))]
                overrides += ["sft.prune.method=" + method, "sft.prune.drop_share=%g" % (int(percent) / 100)]
            stages = run(hone, repository, out, "%s-%d" % (case, seed), overrides)[1]["stages"]
            passk = next(key for key in stages["sft"] if key.startswith("pass@") and key not in ("pass@1", "pass@1_error"))
            rows.append({"sft": stages["sft"]["pass@1"], "rl": stages["rl"]["pass@1"], "sftk": stages["sft"][passk], "rlk": stages["rl"][passk]})
            print(case, seed, rows[-1], flush=True)
        lines.append("| %s | %s |" % (case, " | ".join(spread(rows, key, 3) for key in ("sft", "rl", "sftk", "rlk"))))
    with open(os.path.join(out, "pruning.md"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    print("\n".join(lines))


main()
