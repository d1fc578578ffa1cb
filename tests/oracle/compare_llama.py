"""Compares hone with transformers' LlamaForCausalLM on one checkpoint: the log-probability of every token of a
text, in float32 against float32 and float64, and greedy completions id by id.

usage: python compare_llama.py HONE MODEL [TEXT ...]

The yardstick for logprobs is float64: hone may be off by as much as float32 rounding explains, which is what
transformers' own float32 is off by, times a margin. Greedy ids must be equal; where they part, the two best logits
of the float64 model must be closer than that, a tie that rounding decides.
"""
import subprocess
import sys

import torch
from transformers import LlamaForCausalLM

TEXTS = [
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    "Q: Tom has 14 apples and gets 27 more. How many apples does Tom have now?\nA: 14+27=41. #### 41",
    "a",
    "  Spaces, \t tabs;\n\nnew lines, 1234567890, and w\u00f6rds \u4f60\u597d \U0001f600!",
    " ".join(str(i) for i in range(60)),
]
GREEDY_TOKENS = 48
MARGIN = 8.0  # times the error of transformers' float32
FLOOR = 2e-6  # nats: one rounding of a logprob near 16


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:3])}: exit status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def hone_ids(hone, model, text):
    return [int(word) for word in run(hone, "tokenize", model, "--parse-special", text).split()]


def hone_logprobs(hone, model, text):
    lines = run(hone, "logprobs", model, "--dtype", "float32", text).splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("sum ")]
    return [int(row[1]) for row in rows], torch.tensor([float(row[2]) for row in rows], dtype=torch.float64)


def hone_greedy(hone, model, text, count):
    out = run(hone, "generate", model, "--dtype", "float32", "--temperature", "0", "--ids", "--ignore-eos",
              "--max-tokens", str(count), text)
    return [int(word) for word in out.split()]


def logprobs(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0].double()


def greedy(model, ids, count):
    """Ids, and for each the gap between the two best logits."""
    ids, gaps = list(ids), []
    with torch.no_grad():
        for _ in range(count):
            best = torch.topk(model(torch.tensor([ids])).logits[0, -1], 2)
            ids.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
    return ids, gaps


def compare_logprobs(hone, directory, text, single, double):
    ids = hone_ids(hone, directory, text)
    scored, ours = hone_logprobs(hone, directory, text)
    assert scored == ids[1:], "logprobs and tokenize disagree on the ids"
    exact, theirs = logprobs(double, ids), logprobs(single, ids)
    error, allowed = (ours - exact).abs().max().item(), (theirs - exact).abs().max().item()
    limit = MARGIN * allowed + FLOOR
    ok = error <= limit
    print(f"  logprobs  {len(ids):4d} tokens  hone {error:.2e}  transformers {allowed:.2e}  "
          f"limit {limit:.2e}  {'ok' if ok else 'FAILED'}")
    return ok


def compare_greedy(hone, directory, text, double):
    prompt = hone_ids(hone, directory, text)
    count = min(GREEDY_TOKENS, double.config.max_position_embeddings - len(prompt))
    ours = hone_greedy(hone, directory, text, count)
    expected, gaps = greedy(double, prompt, count)
    length = len(prompt)
    if ours[:length] != prompt or len(ours) != len(expected):
        print(f"  greedy    {len(ours)} ids where {len(expected)} are due  FAILED")
        return False
    parted = next((i for i in range(length, len(ours)) if ours[i] != expected[i]), None)
    if parted is None:
        print(f"  greedy    {count:4d} tokens  all equal  ok")
        return True
    tie = gaps[parted - length] < 1e-5
    print(f"  greedy    parts at token {parted - length} of {count}, gap {gaps[parted - length]:.1e}  "
          f"{'ok, a tie' if tie else 'FAILED'}")
    return tie


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    hone, directory = sys.argv[1:3]
    torch.manual_seed(0)
    single = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    double = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="eager").eval()
    print(f"{directory}: {sum(p.numel() for p in double.parameters())} parameters")
    results = []
    for text in sys.argv[3:] or TEXTS:
        results.append(compare_logprobs(hone, directory, text, single, double))
        results.append(compare_greedy(hone, directory, text, double))
    print(f"{results.count(True)} of {len(results)} comparisons agree")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
