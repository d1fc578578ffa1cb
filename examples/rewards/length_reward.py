#!/usr/bin/env python3
"""A complete hone reward: 1 for a completion of the wanted length, less the further off it is.

hone starts this program once per scorer and keeps it running. Each line on stdin is one JSON object; each
line on stdout answers one, in any order, with the same "id". Everything on stderr goes to the scorer's log.

    reward:
      parts:
        - name: length
          verifier: command
          command: [python3, examples/rewards/length_reward.py, "40"]
          weight: 0.5
          timeout_s: 10
"""

import json
import sys


def score(row, wanted_tokens):
    """A number, or None to abstain: then this part does not count for this completion."""
    if row["finish_reason"] == "abort":
        return None
    length = len(row["completion_ids"])
    return max(0.0, 1.0 - abs(length - wanted_tokens) / wanted_tokens)


def main():
    wanted_tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    for line in sys.stdin:
        row = json.loads(line)
        answer = {"id": row["id"]}
        try:
            answer["score"] = score(row, wanted_tokens)
        except Exception as error:  # counted as a status and retried, never taken for a score of 0
            answer.update(status="error", message=repr(error))
        print(json.dumps(answer), flush=True)  # without flush the answer would sit in a buffer


if __name__ == "__main__":
    main()
