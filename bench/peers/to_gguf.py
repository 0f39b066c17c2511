"""Converts a Mixtral folder of make_model.py to GGUF, laid out as llama.cpp's own converter does it.

    python to_gguf.py /tmp/bench-models/small F16 Q8_0 Q4_0 Q4_K

writes /tmp/bench-models/small-F16.gguf and so on. F16 and BF16 come from the folder, layer by layer; the others
are made from the F16 file by llama.cpp's quantiser, with the mixture of types that its users get.
"""

import argparse
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType as Type

FLOATS = {"F16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16), "BF16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16)}
QUANTISED = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


class Safetensors:
    """The bf16 tensors of a file, read as f32 when asked for."""

    def __init__(self, path):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(size))
        self.data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)

    def __getitem__(self, name):
        entry = self.header[name]
        assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}, not BF16"
        start, end = entry["data_offsets"]
        bits = self.data[start:end].view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(entry["shape"])


def interleave_halves(weight, heads):
    """llama.cpp rotates neighbours where transformers rotates halves: the rows of a head change places."""
    outputs, inputs = weight.shape
    return weight.reshape(heads, 2, outputs // heads // 2, inputs).swapaxes(1, 2).reshape(outputs, inputs)


def tensors(config, source):
    """(name, shape, function that reads it) of every tensor, under llama.cpp's names."""
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    hidden, ffn, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    head_dim = config["head_dim"]

    def one(theirs, ours, *shape):
        return theirs, shape, lambda: source[ours]

    def rotated(theirs, ours, count):
        return theirs, (count * head_dim, hidden), lambda: interleave_halves(source[ours], count)

    def stacked(theirs, moe, name, *shape):
        names = [f"{moe}experts.{expert}.{name}.weight" for expert in range(experts)]
        return theirs, (experts, *shape), lambda: np.stack([source[name] for name in names])

    yield one("token_embd.weight", "model.embed_tokens.weight", config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"blk.{layer}.", f"model.layers.{layer}."
        attention, moe = ours + "self_attn.", ours + "block_sparse_moe."
        yield one(theirs + "attn_norm.weight", ours + "input_layernorm.weight", hidden)
        yield rotated(theirs + "attn_q.weight", attention + "q_proj.weight", heads)
        yield rotated(theirs + "attn_k.weight", attention + "k_proj.weight", keys)
        yield one(theirs + "attn_v.weight", attention + "v_proj.weight", keys * head_dim, hidden)
        yield one(theirs + "attn_output.weight", attention + "o_proj.weight", hidden, heads * head_dim)
        yield one(theirs + "ffn_norm.weight", ours + "post_attention_layernorm.weight", hidden)
        yield one(theirs + "ffn_gate_inp.weight", moe + "gate.weight", experts, hidden)
        yield stacked(theirs + "ffn_gate_exps.weight", moe, "w1", ffn, hidden)
        yield stacked(theirs + "ffn_down_exps.weight", moe, "w2", hidden, ffn)
        yield stacked(theirs + "ffn_up_exps.weight", moe, "w3", ffn, hidden)
    yield one("output_norm.weight", "model.norm.weight", hidden)
    yield one("output.weight", "lm_head.weight", config["vocab_size"], hidden)


def stored_type(name, shape, kind):
    """Norms and routers stay f32."""
    return Type.F32 if len(shape) == 1 or "ffn_gate_inp" in name else kind


def add_metadata(writer, config, file_type):
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(file_type)


def add_tokenizer(writer, path, vocab_size):
    """A byte-level BPE tokenizer.json, ids that it lacks being unused tokens; servers need one."""
    if not path.exists():
        writer.add_tokenizer_model("no_vocab")
        return
    found = json.loads(path.read_text())
    kinds = gguf.TokenType
    tokens = [(f"[unused{id}]", kinds.UNUSED) for id in range(vocab_size)]
    for token, id in found["model"]["vocab"].items():
        tokens[id] = (token, kinds.NORMAL)
    for token in found["added_tokens"]:
        tokens[token["id"]] = (token["content"], kinds.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    merges = found["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(next(token["id"] for token in found["added_tokens"] if "endoftext" in token["content"]))


def write_floats(folder, path, name):
    config = json.loads((folder / "config.json").read_text())
    source = Safetensors(folder / "model.safetensors")
    kind, file_type = FLOATS[name]
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer, config, file_type)
    add_tokenizer(writer, folder / "tokenizer.json", config["vocab_size"])
    for tensor, shape, _ in tensors(config, source):
        stored = stored_type(tensor, shape, kind)
        width = 4 if stored == Type.F32 else 2
        writer.add_tensor_info(tensor, shape, np.dtype(np.float32), int(np.prod(shape)) * width, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, shape, read in tensors(config, source):
        writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(read()), stored_type(tensor, shape, kind)))
    writer.close()


def write_quantised(source, path, name, threads):
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = QUANTISED[name]
    params.nthread = threads
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), params) != 0:
        raise SystemExit(f"llama.cpp could not write {path}")


@llama_cpp.llama_log_callback
def quiet(_level, _text, _data):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("types", nargs="+", choices=[*FLOATS, *QUANTISED])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    llama_cpp.llama_log_set(quiet, None)

    def path(name):
        return arguments.folder.with_name(f"{arguments.folder.name}-{name}.gguf")

    for name in arguments.types:
        if name in FLOATS:
            write_floats(arguments.folder, path(name), name)
        else:
            if not path("F16").exists():
                write_floats(arguments.folder, path("F16"), "F16")
            write_quantised(path("F16"), path(name), name, arguments.threads)
        print(f"{path(name)}: {path(name).stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
