"""Runs of the quickstart's RL stage from one SFT checkpoint, for the measurements of this folder."""
import argparse
import json
import os
import statistics
import subprocess
import sys


# Every group is trained and prompts come unfiltered, unless a measurement says otherwise.
UNFILTERED = ["rl.filter.mode=off", "rl.drop_zero_advantage=false"]


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


def arguments(usage, steps=120):
    """A parser of what all of them take; hone, repository and out become absolute."""
    parser = argparse.ArgumentParser(usage=usage)
    parser.add_argument("hone", type=os.path.abspath)
    parser.add_argument("repository", type=os.path.abspath)
    parser.add_argument("out", type=os.path.abspath)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=steps)
    return parser


def evaluate(hone, repository, out, model, path, overrides=()):
    """The figures of `hone eval` on the held-out prompts, kept in the file `path`."""
    if not os.path.exists(path):
        words = [hone, "eval", os.path.join(repository, "configs/quickstart.yaml"), "--model", model, "stages=[rl]", "model.path=" + model]
        done = subprocess.run(words + list(overrides), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True, cwd=out)
        with open(path, "w", encoding="utf-8") as file:
            file.write(done.stdout)
    with open(path, encoding="utf-8") as file:
        return json.load(file)
