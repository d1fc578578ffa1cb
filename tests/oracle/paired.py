"""Paired comparisons: hone and a peer in turns (ABAB), the median of the rounds' ratios, raw figures as JSON.

The first pair warms up and is dropped. What else runs on the machine slows a round of one and not of the other: look at the spread
before believing the median, and let nothing else run."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time


def arguments(description, **defaults):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("hone", help="the hone program, a release build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", help="where to write every round's figures")
    for name, value in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    return parser.parse_args()


def hone_bench(options, *more):
    """One run of `hone bench`; returns its JSON."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [options.hone, "bench", *map(str, more), "--threads", str(options.threads), "--json", out.name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.load(open(out.name))


def seconds(work, threads):
    """One call. A single thread is timed by its processor clock, as hone does it."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def alternate(options, hone, peer):
    """hone() and peer() return {label: rate}; prints the medians and returns the rounds."""
    rounds = []
    for number in range(options.rounds + 1):
        pair = {"hone": hone(), "peer": peer(), "load": os.getloadavg()[0]}
        print(f"round {number}{' (warm-up)' if number == 0 else ''}: load {pair['load']:.1f}", flush=True)
        if number > 0:
            rounds.append(pair)
    for label in rounds[0]["hone"]:
        if label not in rounds[0]["peer"]:
            continue
        ratios = sorted(r["hone"][label] / r["peer"][label] for r in rounds)
        print(f"{label:28} hone {statistics.median(r['hone'][label] for r in rounds):10.1f}  "
              f"peer {statistics.median(r['peer'][label] for r in rounds):10.1f}  "
              f"ratio {statistics.median(ratios):6.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)
    if options.json:
        json.dump(rounds, open(options.json, "w"), indent=1)
    return rounds


def llama(torch, transformers, dtype):
    """The llama-100m shape of commands/bench/model_shape.c, random."""
    config = transformers.LlamaConfig(vocab_size=32000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
                                      num_key_value_heads=12, intermediate_size=2048, tie_word_embeddings=True,
                                      max_position_embeddings=32768, attn_implementation="sdpa")
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(config).to(dtype)
