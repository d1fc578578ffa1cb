"""Sampling from the llama-100m shape: hone's rollout engine against transformers' generate (sdpa), new tokens a second, prompts included.

usage: bench_decode.py HONE [--threads N] [--sequences 64] [--prompt-tokens 256] [--new-tokens 256] [--peer-dtype bfloat16|float32] [--rounds N] [--json FILE]"""
import torch
import transformers

import paired

options = paired.arguments(__doc__, sequences=64, prompt_tokens=256, new_tokens=256, peer_dtype="bfloat16")
torch.set_num_threads(options.threads)
model = paired.llama(torch, transformers, getattr(torch, options.peer_dtype)).eval()
prompts = torch.randint(32000, (options.sequences, options.prompt_tokens))


@torch.inference_mode()
def generate():
    out = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                         min_new_tokens=options.new_tokens, max_new_tokens=options.new_tokens, eos_token_id=None, pad_token_id=0)
    assert out.shape[1] == options.prompt_tokens + options.new_tokens


def hone():
    result = paired.hone_bench(options, "decode", "--sequences", options.sequences, "--prompt-tokens", options.prompt_tokens,
                               "--new-tokens", options.new_tokens)
    return {"tokens/s": next(f["rate"] for f in result["figures"] if f["label"] == "prompts and decode")}


def peer():
    return {"tokens/s": options.sequences * options.new_tokens / paired.seconds(generate, options.threads)}


print(f"torch {torch.__version__}, transformers {transformers.__version__}, {options.threads} threads")
paired.alternate(options, hone, peer)
