"""Measures what reading and converting large checkpoints takes. Needs python3 on Linux, nothing else.

    python3 tests/memory/large.py LLAMAC WORK [--rounds N]

Makes checkpoints in WORK, and removes them again: one of the shape of LLaMA 65B, 130 GB in sparse files that take no room
on the disk, in Meta's layout in 8 files and in Hugging Face's in 14; and one of the shape of TinyLlama 1.1B in Meta's
layout in 2 files with random numbers, for which WORK needs 7 GB. The first numbers of every matrix of the large one are
not zero, so that no two are equal. Memory is measured as in measure.py. Exits with 1 if a bound is not held:

    65B: `inspect` within 2 s; `inspect`, `estimate`, `compile --layers 0..4` and `convert --layers 0..4` with at most
    500 MiB of private memory
    1.1B: `convert` in at most 1.5 times the time of copying (both synced), with at most 300 MiB of private memory
"""

import argparse
import json
import os
import shutil
import statistics
import struct
import sys
from pathlib import Path

from measure import MIB, copied, watched

LARGE = {"dim": 8192, "layers": 80, "heads": 64, "kv_heads": 64, "ffn": 22016, "vocab": 32000, "eps": 1e-5}
SMALL = {"dim": 2048, "layers": 22, "heads": 32, "kv_heads": 4, "ffn": 5632, "vocab": 32000, "eps": 1e-5}


def meta_shapes(m):
    """Meta's names: (shape, the dimension that is cut)."""
    dim, ffn, kv = m["dim"], m["ffn"], m["dim"] // m["heads"] * m["kv_heads"]
    out = {"tok_embeddings.weight": ([m["vocab"], dim], 1), "norm.weight": ([dim], None),
           "output.weight": ([m["vocab"], dim], 0)}
    for n in range(m["layers"]):
        p = f"layers.{n}."
        out |= {p + "attention.wq.weight": ([dim, dim], 0), p + "attention.wk.weight": ([kv, dim], 0),
                p + "attention.wv.weight": ([kv, dim], 0), p + "attention.wo.weight": ([dim, dim], 1),
                p + "feed_forward.w1.weight": ([ffn, dim], 0), p + "feed_forward.w2.weight": ([dim, ffn], 1),
                p + "feed_forward.w3.weight": ([ffn, dim], 0), p + "attention_norm.weight": ([dim], None),
                p + "ffn_norm.weight": ([dim], None)}
    return out


def hugging_face_shapes(m):
    """Hugging Face's names and shapes."""
    names = {"tok_embeddings": "model.embed_tokens", "output": "lm_head", "norm": "model.norm",
             "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
             "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
             "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm"}
    out = {}
    for name, (shape, _) in meta_shapes(m).items():
        name = name.removesuffix(".weight")
        if name.startswith("layers"):
            _, n, name = name.split(".", 2)
            out[f"model.layers.{n}.{names[name]}.weight"] = shape
        else:
            out[f"{names[name]}.weight"] = shape
    return out


def size(shape):
    """Bytes of a bf16 tensor."""
    count = 2
    for n in shape:
        count *= n
    return count


def fill(file, bytes_, seed, sparse):
    """Writes numbers: a few and a hole, or random ones throughout."""
    if sparse:
        file.write(struct.pack("<2H", 0x3C00 | seed & 0xFF, 0x3D00 | seed >> 8 & 0xFF))
        file.seek(bytes_ - 4, os.SEEK_CUR)
        return
    while bytes_:
        chunk = min(bytes_, 16 * MIB)
        file.write(os.urandom(chunk))
        bytes_ -= chunk


def pickle(tensors):
    """A dictionary of tensors as torch.save() writes it: [(name, key, shape)]."""
    out = bytearray(b"\x80\x02}(")

    def text(value):
        out.extend(b"X" + struct.pack("<I", len(value)) + value.encode())

    def integer(value):
        out.extend(b"J" + struct.pack("<i", value))

    for name, key, shape in tensors:
        text(name)
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        text("storage")
        out.extend(b"ctorch\nBFloat16Storage\n")
        text(key)
        text("cpu")
        integer(size(shape) // 2)
        out.extend(b"tQK\x00(")
        for n in shape:
            integer(n)
        out.extend(b"t(")
        for i in range(len(shape)):
            integer(size(shape[i + 1:]) // 2)
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR")
    out.extend(b"u.")
    return bytes(out)


def write_pth(path, tensors, seed, sparse):
    """A zip64 file of stored entries at multiples of 64 bytes."""
    entries = []
    with path.open("wb") as file:

        def begin(name, length):
            offset, name = file.tell(), f"consolidated/{name}".encode()
            pad = -(offset + 30 + len(name) + 4) % 64
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, length, length, len(name), pad + 4))
            file.write(name + struct.pack("<2H", 0x4246, pad) + bytes(pad))
            entries.append((name, length, offset))

        data = pickle([(name, str(i), shape) for i, (name, shape) in enumerate(tensors)])
        begin("data.pkl", len(data))
        file.write(data)
        for i, (_, shape) in enumerate(tensors):
            begin(f"data/{i}", size(shape))
            # Every file has the same copy of a norm.
            fill(file, size(shape), i if len(shape) == 1 else seed + i, sparse or len(shape) == 1)
        start = file.tell()
        for name, length, offset in entries:
            extra = struct.pack("<2HQ", 1, 8, offset)
            file.write(struct.pack("<4s6H3I5H2I", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, length, length, len(name), len(extra),
                                   0, 0, 0, 0, 0xFFFFFFFF))
            file.write(name + extra)
        end = file.tell()
        count = len(entries)
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - start, start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, end - start, 0xFFFFFFFF, 0))


def make_meta(folder, m, count, sparse):
    """A checkpoint in Meta's layout."""
    folder.mkdir(parents=True)
    params = {"dim": m["dim"], "multiple_of": 256, "n_heads": m["heads"], "n_kv_heads": m["kv_heads"],
              "n_layers": m["layers"], "norm_eps": m["eps"], "vocab_size": -1}
    (folder / "params.json").write_text(json.dumps(params))
    for i in range(count):
        tensors = []
        for name, (shape, cut) in meta_shapes(m).items():
            shape = list(shape)
            if cut is not None:
                shape[cut] //= count
            tensors.append((name, shape))
        write_pth(folder / f"consolidated.{i:02}.pth", tensors, 1000 * i, sparse)


def make_hugging_face(folder, m, count):
    """A sparse checkpoint in Hugging Face's layout."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": m["dim"],
              "intermediate_size": m["ffn"], "num_hidden_layers": m["layers"], "num_attention_heads": m["heads"],
              "num_key_value_heads": m["kv_heads"], "vocab_size": m["vocab"], "rms_norm_eps": m["eps"],
              "torch_dtype": "bfloat16", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = list(hugging_face_shapes(m).items())
    index = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        header, at = {}, 0
        part = shapes[i * len(shapes) // count:(i + 1) * len(shapes) // count]
        for name, shape in part:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size(shape)]}
            at += size(shape)
            index[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            for j, (name, shape) in enumerate(part):
                fill(out, size(shape), 1000 * i + j, True)
            out.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def remove(path):
    """Removes a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def main():
    """Measures, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llamac", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    missed = []
    for kind in ("meta", "hugging-face"):
        checkpoint, out = args.work / f"65b-{kind}", args.work / "65b-out"
        make_meta(checkpoint, LARGE, 8, True) if kind == "meta" else make_hugging_face(checkpoint, LARGE, 14)
        apparent = sum(path.stat().st_size for path in checkpoint.iterdir())
        print(f"65B, {kind}: {apparent / 1e9:.1f} GB in {len(list(checkpoint.iterdir()))} files")
        for command in (["inspect", checkpoint], ["estimate", checkpoint, "--context", "2048"],
                        ["compile", checkpoint, "--layers", "0..4", "-o", out, "--quiet"],
                        ["convert", checkpoint, "--layers", "0..4", "-o", out, "--quiet"]):
            remove(out)
            seconds, peak = watched([args.llamac, *command])
            private = peak["private"]
            print(f"  {command[0]:9} {seconds:7.1f} s   {private / MIB:7.1f} MiB private", flush=True)
            if private > 500 * MIB or (command[0] == "inspect" and seconds > 2):
                missed.append(f"{command[0]} of 65B, {kind}")
        remove(out)
        remove(checkpoint)
    checkpoint, out, copy = (args.work / f"1b-{name}" for name in ("meta", "out", "copy"))
    make_meta(checkpoint, SMALL, 2, False)
    files = sorted(checkpoint.iterdir())
    seconds, copies, peaks = [], [], []
    for _ in range(args.rounds):
        copies.append(copied(files, copy)[1])
        remove(out)
        taken, peak = watched([args.llamac, "convert", checkpoint, "-o", out, "--quiet"])
        seconds.append(taken)
        peaks.append(peak["private"])
    ratio, private = statistics.median(seconds) / statistics.median(copies), max(peaks)
    print(f"1.1B, meta: {sum(path.stat().st_size for path in files) / 1e9:.2f} GB in 2 files")
    print(f"  copy    {statistics.median(copies):7.1f} s, synced   {[round(s, 1) for s in copies]}")
    print(f"  convert {statistics.median(seconds):7.1f} s, {ratio:.2f} of copying   {[round(s, 1) for s in seconds]}")
    print(f"          {private / MIB:7.1f} MiB private")
    if ratio > 1.5 or private > 300 * MIB:
        missed.append("convert of 1.1B")
    remove(out)
    remove(checkpoint)
    if missed:
        sys.exit(f"  not held: {', '.join(missed)}")


if __name__ == "__main__":
    main()
