"""Measures llama.cpp on this machine through its batch API, and prints one JSON object.

    python bench_llama_cpp.py /tmp/bench-models/small-Q8_0.gguf --threads 2 --parallel 1 8 32

prefill   one prompt of --prompt-tokens in one batch, logits of the last token only
decode    --parallel sequences, each with --context random tokens of its own, --gen-tokens steps; all sequences'
          tokens count. Tokens are drawn beforehand: no sampling and no Python between the steps but filling the batch.

Flash attention on and off, and one cache shared by all sequences or one for each, are tried first; what was
fastest is then measured --repeats times. (The name of this file avoids `llama_cpp`, the module it imports.)
"""

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import time
from contextlib import contextmanager

import llama_cpp
import numpy as np

BATCH = 512


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    pass


@contextmanager
def context_of(model, threads, sequences, length, flash, unified):
    """A context that holds `sequences` of `length` tokens each."""
    params = llama_cpp.llama_context_default_params()
    # A cache per sequence divides n_ctx evenly, and llama.cpp rounds each part up to 256.
    params.n_ctx = sequences * (length if unified else -(-length // 256) * 256)
    params.n_batch = params.n_ubatch = BATCH
    params.n_seq_max = sequences
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    params.kv_unified = unified
    params.no_perf = True
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp could not make a context")
    try:
        yield context
    finally:
        llama_cpp.llama_free(context)


@contextmanager
def batch_of(capacity):
    batch = llama_cpp.llama_batch_init(capacity, 0, 1)
    try:
        yield batch
    finally:
        llama_cpp.llama_batch_free(batch)


def put(batch, i, token, position, sequence, logits):
    batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
    batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def decode(context, batch, count):
    batch.n_tokens = count
    if llama_cpp.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")


class Prefill:
    """Tokens per second of one prompt."""

    def __init__(self, options, model, vocab, rng):
        self.options, self.model = options, model
        self.tokens = rng.integers(0, vocab, options.prompt_tokens).tolist()

    def measure(self, flash, unified, repeats):
        count = len(self.tokens)
        with context_of(self.model, self.options.threads, 1, count, flash, unified) as context, batch_of(BATCH) as batch:

            def run():
                llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
                for start in range(0, count, BATCH):
                    chunk = self.tokens[start : start + BATCH]
                    for i, token in enumerate(chunk):
                        put(batch, i, token, start + i, 0, start + i == count - 1)
                    decode(context, batch, len(chunk))
                llama_cpp.llama_synchronize(context)

            return rates(run, count, repeats)


class Decode:
    """Tokens per second of all sequences together."""

    def __init__(self, options, model, vocab, rng, sequences):
        self.options, self.model, self.sequences = options, model, sequences
        self.prompts = rng.integers(0, vocab, (sequences, options.context)).tolist()
        self.steps = rng.integers(0, vocab, (options.gen_tokens, sequences)).tolist()

    def prefill(self, context, batch):
        """Every sequence its own tokens, as many sequences in a batch as fit."""
        filled = 0
        for sequence, prompt in enumerate(self.prompts):
            for position, token in enumerate(prompt):
                put(batch, filled, token, position, sequence, False)
                filled += 1
                if filled == BATCH:
                    decode(context, batch, filled)
                    filled = 0
        if filled:
            decode(context, batch, filled)

    def measure(self, flash, unified, repeats):
        options, sequences = self.options, self.sequences
        length = options.context + options.gen_tokens
        with (
            context_of(self.model, options.threads, sequences, length, flash, unified) as context,
            batch_of(max(BATCH, sequences)) as batch,
        ):
            memory = llama_cpp.llama_get_memory(context)
            self.prefill(context, batch)

            def run():
                for sequence in range(sequences):
                    llama_cpp.llama_memory_seq_rm(memory, sequence, options.context, -1)
                for step, tokens in enumerate(self.steps):
                    for sequence, token in enumerate(tokens):
                        put(batch, sequence, token, options.context + step, sequence, True)
                    decode(context, batch, sequences)
                llama_cpp.llama_synchronize(context)

            return rates(run, sequences * options.gen_tokens, repeats)


def rates(run, tokens, repeats):
    """Tokens per second of each repeat, after one that warms up."""
    run()
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        out.append(tokens / (time.perf_counter() - start))
    return out


def fastest(measurement, variants, repeats):
    """Tries every variant, unless there is but one, then measures the best."""
    tried = {variant: max(measurement.measure(*variant, repeats=2)) for variant in variants if len(variants) > 1}
    tried = tried or {variants[0]: None}
    best = max(tried, key=tried.get)
    measured = measurement.measure(*best, repeats=repeats)
    return {
        "median": statistics.median(measured),
        "min": min(measured),
        "max": max(measured),
        "flash": best[0],
        "unified": best[1],
        "tried": [{"flash": flash, "unified": unified, "rate": rate} for (flash, unified), rate in tried.items()],
    }


def choices(word):
    return {"on": [True], "off": [False], "both": [True, False]}[word]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompt-tokens", type=int, default=512, help="0: no prefill measurement")
    parser.add_argument("--gen-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=128, help="tokens of each sequence before decoding")
    parser.add_argument("--parallel", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--flash", choices=["on", "off", "both"], default="both")
    parser.add_argument("--unified", choices=["on", "off", "both"], default="both")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    start = time.perf_counter()
    model = llama_cpp.llama_model_load_from_file(options.model.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp could not load {options.model}")
    load_s = time.perf_counter() - start
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rng = np.random.default_rng(1)

    result = {
        "model": options.model,
        "weight_bytes": llama_cpp.llama_model_size(model),
        "threads": options.threads,
        "load_s": load_s,
        "decode": {},
    }
    flash, unified = choices(options.flash), choices(options.unified)
    if options.prompt_tokens:
        prefill = Prefill(options, model, vocab, rng)
        result["prefill"] = fastest(prefill, [(each, True) for each in flash], options.repeats)
    for sequences in options.parallel:
        # With one sequence there is nothing to share.
        variants = list(itertools.product(flash, unified if sequences > 1 else [True]))
        measurement = Decode(options, model, vocab, rng, sequences)
        result["decode"][str(sequences)] = fastest(measurement, variants, options.repeats)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["llama_cpp_python"] = llama_cpp.__version__
    result["system_info"] = llama_cpp.llama_print_system_info().decode().strip()
    result["machine"] = platform.platform()
    result["load_average"] = os.getloadavg()[0]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
