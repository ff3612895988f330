"""A checkpoint as GGUF in f32, and a GGUF file of any format back as a checkpoint.

    python gguf_files.py CHECKPOINT OUT.gguf

Needs the packages gguf and numpy, and sentencepiece for a checkpoint with a tokenizer.model; one without gets no
tokenizer. llama.cpp rotates neighbouring numbers of a head where transformers rotates numbers half a head apart, so
rows of the query and key projections change places.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

import checkpoints

OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def renamed(name):
    """The name in GGUF of a tensor."""
    module, kind = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{IN_LAYER[rest]}.{kind}"


def rotated_heads(name, config):
    """How many heads the rows of a tensor are that is rotated; none for others."""
    heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
    return next((config[key] for module, key in heads.items() if module in name), None)


def to_neighbours(values, heads):
    """Rows in llama.cpp's order."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def from_neighbours(values, heads):
    """Rows in transformers' order."""
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def add_tokenizer(writer, folder, config):
    """The tokenizer in `folder`, if there is one."""
    if not (folder / "tokenizer.model").exists():
        writer.add_tokenizer_model("none")
        return
    tokens, scores, types = zip(*gguf.SentencePieceVocab(folder).all_tokens())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def write(folder, out):
    """Writes the checkpoint in `folder` in f32."""
    config = checkpoints.config_of(folder)
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    add_tokenizer(writer, folder, config)
    for name, values in checkpoints.tensors_of(folder):
        writer.add_tensor_info(renamed(name), values.shape, np.dtype(np.float32), 4 * values.size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, values in checkpoints.tensors_of(folder):
        rotated = rotated_heads(name, config)
        writer.write_tensor_data(to_neighbours(values, rotated) if rotated else np.ascontiguousarray(values))
    writer.close()


def read(path, names, config):
    """{name: values in f32} of a GGUF file, named and ordered as in a checkpoint, and its bits a number of matrices."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    out, bits, numbers = {}, 0, 0
    for name in names:
        tensor = tensors[renamed(name)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
        rotated = rotated_heads(name, config)
        out[name] = from_neighbours(values, rotated) if rotated else values
        if values.ndim == 2:
            bits, numbers = bits + 8 * int(tensor.n_bytes), numbers + values.size
    return out, bits / numbers


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
