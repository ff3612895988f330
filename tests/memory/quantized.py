"""Measures what compiling large quantized checkpoints takes. Needs python3 on Linux, nothing else.

    python3 tests/memory/quantized.py LLAMAC WORK [--rounds N]

Makes checkpoints of the shape of TinyLlama 1.1B with random codes in WORK, and removes them again: GPTQ's in 4 bits, and a GGUF
file in Q4_K; of each also one with a quarter of the layers. WORK needs 6 GB. Memory and copying are measured as in measure.py.
Exits with 1 if a bound is not held:

    compile (native, onnx-ort, and onnx in f32), inspect, estimate: at most 64 MiB of private memory, and at most 8 MiB
    more than for a quarter of the layers
"""

import argparse
import json
import os
import resource
import statistics
import struct
import sys
from pathlib import Path

from large import SMALL, hugging_face_shapes, remove
from measure import MIB, copied, watched

GROUP = 128
CHUNK = 1 << 14
COMMANDS = [["compile", "-o", "OUT"], ["compile", "--target", "onnx-ort", "--weights", "as-is", "-o", "OUT"],
            ["compile", "--target", "onnx", "-o", "OUT"], ["inspect"], ["estimate", "--context", "2048"]]


def write_random(file, count, size, fixed):
    """Random structures of `size` bytes, with bytes that are not random: of numbers that are not to be too large."""
    while count:
        part = min(count, CHUNK)
        data = bytearray(os.urandom(part * size))
        for at, byte in fixed.items():
            data[at::size] = bytes([byte]) * part
        file.write(data)
        count -= part


def halves(file, count, high):
    """Numbers in half precision that begin with the byte `high`."""
    write_random(file, count, 2, {1: high})


def make_gptq(folder, m):
    """A checkpoint of GPTQ's."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": m["dim"],
              "intermediate_size": m["ffn"], "num_hidden_layers": m["layers"], "num_attention_heads": m["heads"],
              "num_key_value_heads": m["kv_heads"], "vocab_size": m["vocab"], "rms_norm_eps": m["eps"],
              "torch_dtype": "float16", "max_position_embeddings": 2048,
              "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False,
                                      "checkpoint_format": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config))
    parts = []
    for name, shape in hugging_face_shapes(m).items():
        if "_proj" not in name:
            parts.append((name, "F16", shape))
            continue
        module, (outputs, inputs) = name.removesuffix(".weight"), shape
        parts += [(f"{module}.qweight", "I32", [inputs // 8, outputs]),
                  (f"{module}.qzeros", "I32", [inputs // GROUP, outputs // 8]),
                  (f"{module}.scales", "F16", [inputs // GROUP, outputs])]
    header, at = {}, 0
    for name, dtype, shape in parts:
        length = count_of(shape) * (4 if dtype == "I32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, shape in parts:
            if dtype == "I32":
                write_random(file, count_of(shape), 4, {})
            else:
                halves(file, count_of(shape), 0x3C if len(shape) == 1 else 0x1C)
    return folder


def make_gguf(folder, m):
    """A GGUF file with all matrices in Q4_K."""
    folder.mkdir(parents=True)
    names = {"model.embed_tokens": "token_embd", "lm_head": "output", "model.norm": "output_norm",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()
    number = lambda key, value: text(f"llama.{key}") + struct.pack("<II", 4, value)
    metadata = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
                text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("none"),
                text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, m["eps"]),
                number("context_length", 2048), number("embedding_length", m["dim"]), number("block_count", m["layers"]),
                number("feed_forward_length", m["ffn"]), number("attention.head_count", m["heads"]),
                number("attention.head_count_kv", m["kv_heads"])]
    tensors, at = [], 0
    shapes = hugging_face_shapes(m)
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module in names:
            module = names[module]
        else:
            _, _, layer, module = module.split(".", 3)
            module = f"blk.{layer}.{names[module]}"
        kind, length = (0, 4 * count_of(shape)) if len(shape) == 1 else (12, count_of(shape) // 256 * 144)
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        tensors.append(text(f"{module}.weight") + sizes + struct.pack("<IQ", kind, at))
        at += -(-length // 32) * 32
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata + tensors)
    with (folder / "model.gguf").open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for shape in shapes.values():
            if len(shape) == 1:
                file.write(struct.pack("<f", 1) * count_of(shape))
            else:
                # The scale of scales, and that of minima.
                write_random(file, count_of(shape) // 256, 144, {1: 0x02, 3: 0x10})
    return folder / "model.gguf"


def count_of(shape):
    """Numbers of a tensor."""
    count = 1
    for n in shape:
        count *= n
    return count


def processor():
    """Seconds of processors that ended commands have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    """Measures, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llamac", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    missed, out, copy = [], args.work / "quantized-out", args.work / "quantized-copy"
    for name, make in (("gptq", make_gptq), ("gguf", make_gguf)):
        quarter = {}
        for layers in (SMALL["layers"] // 4, SMALL["layers"]):
            folder = args.work / f"quantized-{name}"
            path = make(folder, SMALL | {"layers": layers})
            files = sorted(folder.iterdir())
            print(f"{name}, {layers} layers: {sum(file.stat().st_size for file in files) / 1e9:.2f} GB")
            synced = statistics.median(copied(files, copy)[1] for _ in range(args.rounds))
            print(f"  {'copy':42} {synced:6.1f} s, synced")
            for number, (command, *options) in enumerate(COMMANDS):
                options = [out if option == "OUT" else option for option in options]
                seconds, private, length, before = [], 0, 0, processor()
                for _ in range(args.rounds):
                    taken, peak = watched([args.llamac, command, path, *options, "--quiet"])
                    seconds.append(taken)
                    private = max(private, peak["private"])
                    if out.exists():
                        length = sum(f.stat().st_size for f in (out.iterdir() if out.is_dir() else [out]))
                        remove(out)
                what = " ".join(map(str, [command, *(option for option in options if option not in ("-o", out))]))
                grown = private - quarter.setdefault(number, private)
                written = f", {length / 1e9:.2f} GB written" if length else ""
                used = (processor() - before) / args.rounds
                print(f"  {what:42} {statistics.median(seconds):6.1f} s, {used:5.1f} s of a core   "
                      f"{private / MIB:5.1f} MiB private{written}", flush=True)
                if private > 64 * MIB or grown > 8 * MIB:
                    missed.append(f"{what} of {name}")
            remove(folder)
    if missed:
        sys.exit(f"  not held: {', '.join(missed)}")


if __name__ == "__main__":
    main()
