"""Reads and writes Hugging Face checkpoints of LLaMA with numpy alone."""

import json
import struct

import numpy as np


def config_of(folder):
    """config.json."""
    return json.loads((folder / "config.json").read_text())


def tensors_of(folder):
    """Yields (name, values in f32) of a checkpoint in f32 or bf16, one at a time."""
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            data = np.memmap(path, np.uint8, "r", 8 + length + start, end - start)
            yield name, to_f32(data, entry["dtype"]).reshape(entry["shape"])


def to_f32(data, dtype):
    """Bytes as f32."""
    if dtype == "F32":
        return data.view("<f4")
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    raise ValueError(f"no checkpoint in f32 or bf16: {dtype}")


def write(folder, config, tensors):
    """Writes a checkpoint in f32: its configuration, and {name: values}."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    header, end = {}, 0
    for name, values in tensors.items():
        start, end = end, end + 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())
