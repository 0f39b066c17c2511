"""Measures how fast `tokenizers` and tiktoken encode a text on one thread, and prints one JSON object.

    python tokenizer_speed.py corpus.txt tokenizer.json

The text is cut at line ends into documents of about --document-bytes, the same for both; a rate is the median of
--repeats over all documents. tiktoken is built from the vocabulary of the same file, which works for byte-level
BPE with one regular expression, and `same_ids` says whether both gave the same tokens. Without tiktoken installed
it is left out.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers  # noqa: E402  (after the variables above, which it reads)

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def documents(text, size):
    """Parts of about `size` bytes, each ending with a line."""
    out, part, length = [], [], 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        length += len(line.encode())
        if length >= size:
            out.append("".join(part))
            part, length = [], 0
    return [*out, "".join(part)] if part else out


def pattern_of(spec):
    """The one expression that splits the text before BPE, or a reason why there is none."""
    steps = spec["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    patterns = []
    for step in steps:
        if step["type"] == "ByteLevel":
            patterns += [GPT2_PATTERN] if step.get("use_regex", True) else []
            if step.get("add_prefix_space", False):
                raise ValueError("a space is put before the text")
        elif step["type"] == "Split" and "Regex" in step["pattern"] and step["behavior"] == "Isolated":
            patterns.append(step["pattern"]["Regex"])
        else:
            raise ValueError(f"no word for the pre-tokenizer {step['type']}")
    if len(patterns) != 1 or spec["normalizer"]:
        raise ValueError(f"{len(patterns)} expressions, normalizer {spec['normalizer']}")
    return patterns[0]


def bytes_of_characters():
    """The inverse of byte-level BPE's printable alphabet."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def as_tiktoken(spec):
    import tiktoken

    to_byte = bytes_of_characters()
    special = {token["content"]: token["id"] for token in spec["added_tokens"]}
    vocab = {token: id for token, id in spec["model"]["vocab"].items() if token not in special}
    ranks = {bytes(to_byte[character] for character in token): id for token, id in vocab.items()}
    return tiktoken.Encoding("same", pat_str=pattern_of(spec), mergeable_ranks=ranks, special_tokens=special)


def rate(encode, parts, size, repeats):
    """MB/s, and the ids of the last run."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        ids = encode(parts)
        rates.append(size / 1e6 / (time.perf_counter() - start))
    return {"mb_per_s": statistics.median(rates), "worst": min(rates), "best": max(rates)}, ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("--document-bytes", type=int, default=16384)
    parser.add_argument("--max-bytes", type=int, default=32_000_000, help="of the text, from its beginning")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with open(options.text, "rb") as file:
        text = file.read(options.max_bytes).decode(errors="ignore")
    parts, size = documents(text, options.document_bytes), len(text.encode())

    hugging_face = tokenizers.Tokenizer.from_file(str(options.tokenizer))
    hugging_face.encode_special_tokens = True  # in raw text they are plain text, as for tiktoken below
    # Each call in its fastest form: many documents together, and no offsets.
    variants = {
        "encode": lambda parts: [hugging_face.encode(part, add_special_tokens=False) for part in parts],
        "encode_batch": lambda parts: hugging_face.encode_batch(parts, add_special_tokens=False),
        "encode_batch_fast": lambda parts: hugging_face.encode_batch_fast(parts, add_special_tokens=False),
    }
    results, reference = {}, None
    for name, encode in variants.items():
        results[name], encodings = rate(encode, parts, size, options.repeats)
        reference = [encoding.ids for encoding in encodings]
    best = max(results, key=lambda name: results[name]["mb_per_s"])
    out = {
        "bytes": size,
        "documents": len(parts),
        "tokens": sum(map(len, reference)),
        "vocabulary": hugging_face.get_vocab_size(),
        "tokenizers": {"version": tokenizers.__version__, "call": best, **results[best], "calls": results},
    }
    try:
        import tiktoken

        encoding = as_tiktoken(json.loads(options.tokenizer.read_text(encoding="utf-8")))
        result, ids = rate(
            lambda parts: [encoding.encode_ordinary(part) for part in parts], parts, size, options.repeats
        )
        out["tiktoken"] = {"version": tiktoken.__version__, **result, "same_ids": ids == reference}
    except (ImportError, ValueError, KeyError) as error:
        out["tiktoken"] = {"left_out": f"{type(error).__name__}: {error}"}
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
