#!/usr/bin/env python3
"""Reward for story completions: how many different words of joy it uses, and whether it comes to an end.

Each line on stdin is one JSON object, each line on stdout answers one (see examples/rewards/README.md).
"""

import json
import re
import sys

JOY = ("happy", "smile", "laugh", "fun", "play", "love", "hug", "friend", "thank", "proud", "dance", "sing")
WANTED = 6


def score(row):
    words = set(re.findall(r"[a-z]+", row["completion"].lower()))
    found = sum(1 for stem in JOY if any(word.startswith(stem) for word in words))
    return min(found, WANTED) / WANTED


for line in sys.stdin:
    row = json.loads(line)
    try:
        answer = {"id": row["id"], "score": score(row)}
    except Exception as error:  # a status, never a zero
        answer = {"id": row["id"], "status": "error", "message": repr(error)}
    print(json.dumps(answer), flush=True)
