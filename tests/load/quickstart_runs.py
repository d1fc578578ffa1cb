"""Runs of the quickstart's RL stage from one SFT checkpoint, for the measurements of this folder."""
import json
import os
import statistics
import subprocess
import sys


def call(words, **options):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit("FAILED: %s\n%s" % (" ".join(map(str, words)), done.stdout[-4000:]))


def run(hone, repository, out, name, overrides):
    directory = os.path.join(out, name)
    summary = os.path.join(directory, "summary.json")
    if not os.path.exists(summary):
        call([hone, "run", os.path.join(repository, "configs/quickstart.yaml"), "output_dir=" + directory] + overrides, cwd=out)
    with open(summary, encoding="utf-8") as file:
        return directory, json.load(file)


def spread(rows, key, digits):
    values = [row[key] for row in rows]
    return "%.*f (%.*f to %.*f)" % (digits, statistics.fmean(values), digits, min(values), digits, max(values))


def prepare(hone, repository, out):
    """Data and the SFT checkpoint (the quickstart's, seed 1) in OUT; the override that starts from it."""
    os.makedirs(out, exist_ok=True)
    if not os.path.exists(os.path.join(out, "runs/quickstart/data/train.jsonl")):
        call([hone, "data", "make", "--out", os.path.join(out, "runs/quickstart/data")])
    model = "model.path=" + os.path.join(repository, "models/quickstart_base")
    run(hone, repository, out, "sft", ["stages=[sft]", "eval.enabled=false", model])
    return "model.path=" + os.path.join(out, "sft/sft/final")


def records(directory, name):
    """Of a metrics file, the newest of each step, in order."""
    steps = {}
    with open(os.path.join(directory, "metrics", name), encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            steps[record["step"]] = record
    return [steps[step] for step in sorted(steps)]
