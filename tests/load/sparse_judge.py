"""A reward command (examples/rewards) that looks at a share of the completions and abstains from the others, as an expensive judge
would: what is not judged is generated but not trained on. asynchrony.py sets the ratio of the actor's work to the learner's by it.

    sparse_judge.py SHARE SEED"""
import json
import random
import sys


def main():
    share, draw = float(sys.argv[1]), random.Random(int(sys.argv[2]))
    for line in sys.stdin:
        row = json.loads(line)
        right = row["completion"].strip() == row["ground_truth"].strip()
        print('{"id": %d, "score": %s}' % (row["id"], "null" if draw.random() >= share else "%d.0" % right), flush=True)


if __name__ == "__main__":
    main()
