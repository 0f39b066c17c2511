"""Writes a Mixtral folder with random bf16 weights: speed does not depend on their values.

    python make_model.py small /tmp/bench-models/small

Written tensor by tensor, so memory stays small however large the model.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

# Multi-query attention and sixteen experts, like the model this project is about.
PRESETS = {
    "small": dict(hidden=512, layers=8, heads=8, experts=16, ffn=1024, vocab=8192),
    "medium": dict(hidden=1024, layers=16, heads=16, experts=16, ffn=2816, vocab=32000),
    # Multiples of 32 that are no multiples of much else, and an odd vocabulary.
    "odd": dict(hidden=704, layers=6, heads=11, experts=12, ffn=1696, vocab=10007),
}
HEAD_DIM = 64
KV_HEADS = 1
EXPERTS_PER_TOKEN = 2
CONTEXT = 8192


def config(shape):
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_act": "silu",
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["ffn"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "num_local_experts": shape["experts"],
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "vocab_size": shape["vocab"],
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }


def tensors(shape):
    """Every tensor's name and shape, in the order of the file."""
    hidden, queries, keys = shape["hidden"], shape["heads"] * HEAD_DIM, KV_HEADS * HEAD_DIM
    yield "model.embed_tokens.weight", (shape["vocab"], hidden)
    for layer in range(shape["layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (queries, hidden)
        yield prefix + "self_attn.k_proj.weight", (keys, hidden)
        yield prefix + "self_attn.v_proj.weight", (keys, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, queries)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        moe = prefix + "block_sparse_moe."
        yield moe + "gate.weight", (shape["experts"], hidden)
        for expert in range(shape["experts"]):
            yield f"{moe}experts.{expert}.w1.weight", (shape["ffn"], hidden)
            yield f"{moe}experts.{expert}.w2.weight", (hidden, shape["ffn"])
            yield f"{moe}experts.{expert}.w3.weight", (shape["ffn"], hidden)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (shape["vocab"], hidden)


def random_bf16(rng, shape):
    """Norms are ones. Matrices keep the size of what passes through them, so routers choose all experts."""
    if len(shape) == 1:
        values = np.ones(shape, dtype=np.float32)
    else:
        values = rng.standard_normal(shape, dtype=np.float32)
        values /= np.float32(math.sqrt(shape[1]))
    bits = values.view(np.uint32)
    bits += 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
    return (bits >> 16).astype(np.uint16)


def write(folder, shape, seed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n")
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors(shape):
        start, end = end, end + 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    rng = np.random.default_rng(seed)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, size in tensors(shape):
            random_bf16(rng, size).tofile(file)
    print(f"{folder}: {end / 2e6:.0f}M parameters, {end / 1e9:.2f} GB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.folder, PRESETS[arguments.preset], arguments.seed)


if __name__ == "__main__":
    main()
