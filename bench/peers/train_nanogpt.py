"""Trains nanoGPT's published character-level Shakespeare setting for CPUs, and prints one JSON object.

    python train_nanogpt.py tinyshakespeare.txt --threads 2

A GPT-2 of 4 layers, 4 heads and 128 wide without biases or dropout, context 64, batch 12, 2000 steps, AdamW with
a learning rate of 1e-3, which falls to 1e-4 as a cosine after 100 steps of warm-up. The first nine tenths of the
text are for training. nanoGPT's README reports a validation loss of 1.88. Here that is estimated as there, from
random windows (`validation_loss_sampled`), and over all of the validation text (`validation_loss`). The clock
runs from the first step to the last; evaluation comes after.
"""

import argparse
import json
import math
import os
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
PEAK_LR, LAST_LR, WARM_UP = 1e-3, 1e-4, 100
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.99), 1.0
SAMPLED_BATCHES = 200


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attention_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.LayerNorm(WIDTH, bias=False)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        batch, length, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))


class Gpt(nn.Module):
    """GPT-2: learned positions, norms before, the head tied to the embedding."""

    def __init__(self, vocab):
        super().__init__()
        self.tokens = nn.Embedding(vocab, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                into_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if into_residual else 0.02)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def learning_rate(step, steps):
    if step < WARM_UP:
        return PEAK_LR * (step + 1) / (WARM_UP + 1)
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LAST_LR + (PEAK_LR - LAST_LR) * 0.5 * (1 + math.cos(math.pi * done))


def windows(text, generator):
    """A batch of random windows and what follows each character of them."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH,), generator=generator)
    rows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def validate(model, text, generator):
    """The loss over all consecutive windows, and over random ones."""
    count = (len(text) - 1) // CONTEXT
    inputs = text[: count * CONTEXT].view(count, CONTEXT)
    targets = text[1 : count * CONTEXT + 1].view(count, CONTEXT)
    total = sum(
        model(*pair).item() * len(pair[0]) for pair in zip(inputs.split(256), targets.split(256), strict=True)
    )
    sampled = [model(*windows(text, generator)).item() for _ in range(SAMPLED_BATCHES)]
    return total / count, sum(sampled) / len(sampled)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--compile", action="store_true", help="torch.compile; compiling counts as time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)

    text = options.text.read_text(encoding="utf-8")
    characters = sorted(set(text))
    ids = {character: id for id, character in enumerate(characters)}
    encoded = torch.tensor([ids[character] for character in text])
    cut = int(0.9 * len(encoded))
    training, validation = encoded[:cut], encoded[cut:]

    model = Gpt(len(characters))
    groups = [
        dict(params=[p for p in model.parameters() if p.ndim == 2], weight_decay=WEIGHT_DECAY),
        dict(params=[p for p in model.parameters() if p.ndim == 1], weight_decay=0.0),
    ]
    optimiser = torch.optim.AdamW(groups, lr=PEAK_LR, betas=BETAS, fused=True)
    step_of = torch.compile(model) if options.compile else model

    start = time.perf_counter()
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options.steps)
        loss = step_of(*windows(training, generator))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr)
    wall = time.perf_counter() - start

    whole, sampled = validate(model, validation, generator)
    out = {
        "validation_loss": whole,
        "validation_loss_sampled": sampled,
        "training_loss_last_batch": loss.item(),
        "wall_s": wall,
        "tokens_per_s": options.steps * BATCH * CONTEXT / wall,
        "steps": options.steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(characters),
        "compiled": options.compile,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__,
    }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
