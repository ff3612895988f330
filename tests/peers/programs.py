"""The programs that are compared: what each reads for a format of weights, how it is run, and how its output is read.

A contest is between llamac and the variants of one peer on the same weights with the same number of bits, with keys and
values stored in the same number of bits. `None` for a format: the peer has nothing of its kind.
"""

import json
from typing import NamedTuple

from installed import HERE
from models import size

PROMPT, NEW, DEPTHS = 512, 64, (0, 2048)
TESTS = ["pp", *(f"tg@{depth}" for depth in DEPTHS)]


class Contestant(NamedTuple):
    """A program with a model: commands that print the speeds when they are run one after the other."""

    name: str
    commands: list
    read: object
    bytes: int


def llamac(models, shape, weights, kv, threads):
    """llamac, whose JSON also has the machine's limits."""
    model = models.compiled(shape, "native", weights)
    depths = ",".join(map(str, DEPTHS))
    options = ["-p", PROMPT, "-n", NEW, "-d", depths, "-b", 1, "-r", 1, "--kv", kv, "--threads", threads]
    command = [models.llamac, "bench", model, *options, "--no-check", "--json", "-q"]
    return Contestant("llamac", [command], read_llamac, size(model))


def read_llamac(output):
    report = json.loads(output)
    tests = {row["test"] if row["test"] == "pp" else f"tg@{row['depth']}": row for row in report["results"]}
    speeds = {test: row["tok_s"] for test, row in tests.items()}
    fractions = {test: row["limit_fraction"] for test, row in tests.items()}
    return {**speeds, "fractions": fractions, "limits": report["limits"]}


def llama_cpp(models, shape, weights, threads):
    """llama.cpp's own benchmark, with what it does by default: a cache of 16 bits (f16), weights repacked."""
    # Blocks of 256 do not divide the rows of the smaller shape: most of its q4_K_M would be other formats.
    mixed = [("Q4_K_M", []), ("Q4_K_M", ["--repack", 0])] if shape == "tinyllama" else []
    kinds = {"f32": [("F32", [])], "bf16": [("BF16", [])], "q8": [("Q8_0", [])], "q4": [("Q4_0", []), *mixed]}
    program = models.installed.llama_cpp() / "llama-bench"
    contestants = []
    for kind, options in kinds.get(weights, []):
        model = models.gguf(shape, kind)
        command = [program, "-m", model, "-t", threads, "-r", 1, "-o", "json", *options]
        first = [*command, "-p", PROMPT, "-n", NEW, "-d", DEPTHS[0]]
        deeper = [[*command, "-p", 0, "-n", NEW, "-d", depth] for depth in DEPTHS[1:]]
        name = " ".join(["llama.cpp", kind.lower().replace("_k_m", "_K_M"), *map(str, options)])
        contestants.append(Contestant(name, [first, *deeper], read_llama_cpp, size(model)))
    return contestants


def read_llama_cpp(output):
    rows = json.loads(output)
    return {"pp" if row["n_prompt"] > 0 else f"tg@{row['n_depth']}": row["avg_ts"] for row in rows}


def script(name, python, model, threads, label, *extra):
    """A peer that a script of the folder `workers` runs."""
    command = [python, HERE / "workers" / f"run_{name}.py", *settings(model, threads), *extra]
    return Contestant(label, [command], json.loads, size(model))


def settings(model, threads):
    """The arguments of scripts and programs that run a peer."""
    depths = ",".join(map(str, DEPTHS))
    return [model, "--threads", threads, "--prompt", PROMPT, "--new", NEW, "--depths", depths]


def onnxruntime(models, shape, weights, threads):
    """ONNX Runtime on llamac's export for it."""
    if weights == "bf16":
        return []
    model = models.compiled(shape, "onnx-ort", weights)
    return [script("onnxruntime", models.installed.python(), model, threads, f"ONNX Runtime {weights}")]


def genai(models, shape, weights, threads):
    """onnxruntime-genai on the same export."""
    if weights == "bf16":
        return []
    model = models.compiled(shape, "onnx-ort", weights)
    return [script("genai", models.installed.python(), model, threads, f"onnxruntime-genai {weights}")]


def openvino(models, shape, weights, threads):
    """OpenVINO on llamac's portable export; it computes in bf16 from weights in f32."""
    if weights not in ("f32", "bf16"):
        return []
    model = models.compiled(shape, "onnx", "f32")
    python = models.installed.python()
    return [script("openvino", python, model, threads, f"OpenVINO {weights}", "--precision", weights)]


def transformers(models, shape, weights, threads):
    """transformers with torch on the checkpoint."""
    if weights not in ("f32", "bf16"):
        return []
    python, model = models.installed.torch(), models.checkpoint(shape)
    return [script("transformers", python, model, threads, f"transformers {weights}", "--precision", weights)]


def candle(models, shape, weights, threads):
    """candle: its LLaMA on the checkpoint, its quantized LLaMA on a GGUF file. It multiplies no bf16 on processors."""
    if weights == "bf16":
        return []
    kind = {"q8": "Q8_0", "q4": "Q4_0"}.get(weights)
    model = models.gguf(shape, kind) if kind else models.checkpoint(shape)
    label = f"candle {kind.lower() if kind else weights}"
    command = [models.installed.crate("candle"), *settings(model, threads), "--precision", weights]
    return [Contestant(label, [command], json.loads, size(model))]


def rten(models, shape, weights, threads):
    """rten on llamac's portable export."""
    if weights != "f32":
        return []
    model = models.compiled(shape, "onnx", weights)
    command = [models.installed.crate("rten"), *settings(model, threads)]
    return [Contestant(f"rten {weights}", [command], json.loads, size(model))]


# Name → its contestants, and how llamac stores keys and values beside it: in as many bits.
PEERS = {
    "llama.cpp": (llama_cpp, "bf16"),
    "ort": (onnxruntime, "f32"),
    "genai": (genai, "f32"),
    "openvino": (openvino, "as the weights"),
    "candle": (candle, "as the weights"),
    "rten": (rten, "f32"),
    "torch": (transformers, "as the weights"),
}


def contest(models, peer, shape, weights, threads):
    """llamac and the contestants of a peer; none if the peer has no such format."""
    contestants, kv = PEERS[peer]
    if kv == "as the weights":
        kv = "bf16" if weights == "bf16" else "f32"
    others = contestants(models, shape, weights, threads)
    return [llamac(models, shape, weights, kv, threads), *others] if others else []
