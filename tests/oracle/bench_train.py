"""One optimiser step of the llama-100m shape: hone against transformers' LlamaForCausalLM (sdpa, fused AdamW), tokens a second.

Both train on random tokens in sequences of --length, micro-batches of at most 2048 tokens, hone in bf16 with
fp32 masters. transformers has weights and moments of --peer-dtype, or with --autocast 1 fp32 weights under bf16 autocast, which is what
hone's masters correspond to. On a processor without bf16 instructions its float32 is the faster one.

usage: bench_train.py HONE [--threads N] [--tokens 8192] [--length 512] [--peer-dtype bfloat16|float32] [--autocast 0|1] [--rounds N] [--json FILE]"""
import torch
import transformers

import paired

options = paired.arguments(__doc__, tokens=8192, length=512, autocast=0, peer_dtype="bfloat16")
torch.set_num_threads(options.threads)
model = paired.llama(torch, transformers, torch.float32 if options.autocast else getattr(torch, options.peer_dtype))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
tokens = torch.randint(32000, (options.tokens // options.length, options.length))
micro_batch = max(1, 2048 // options.length)


def step():
    for part in tokens.split(micro_batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(options.autocast)):
            loss = model(input_ids=part, labels=part).loss
        (loss * len(part) / len(tokens)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)


def hone():
    result = paired.hone_bench(options, "train", "--tokens", options.tokens, "--length", options.length, "--steps", 1)
    return {"tokens/s": result["figures"][0]["rate"]}


def peer():
    return {"tokens/s": options.tokens / paired.seconds(step, options.threads)}


print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} threads")
paired.alternate(options, hone, peer)
