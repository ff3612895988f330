"""Quantized checkpoints and GGUF files in llamac and in ONNX Runtime, against their dequantized numbers in numpy.

Usage: quantized.py LLAMAC [NAME …]

Small random models (`fixtures/quantized`, `fixtures/gguf`) and the whole story model in every format
(`fixtures/scripts/quantized_stories.py`). The reference is numpy's forward in double precision, over weights that numpy
or the gguf package dequantized; for small models over those that llamac converts, if their hashes are numpy's.

Exports in f32 have the reference's logits. Exports with weights as they are have those of the weights that they are said to
hold: the reference's where integers are carried, and else what numpy rounds to blocks of 8 bits; so have their greedy
texts. Of every text that the story model tells, in ONNX Runtime and in `run`, each token is the one that the reference
finds most likely at its place, unless the two highest logits are closer than rounding to 8 bits moves them. Exits with 1 if
a number or a token is another.
"""

import json
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from gguf import GGUFReader, quants
from safetensors.numpy import load_file
from sentencepiece import SentencePieceProcessor

from exports import Session, greedy, llamac, positions_of, read_json

sys.path.insert(0, "fixtures/scripts")
from make_gguf import fnv, forward, named  # noqa: E402
from quantized_stories import every  # noqa: E402

LLAMAC, *NAMES = sys.argv[1:]
FIXTURES = Path("fixtures")
TOLERANCE = 2e-4
# How much less than the highest logit that of a token may be: in single precision; where weights, or weights and activations,
# were rounded to 8 bits; and the same of weights of 2 and 3 bits, whose models are unsure.
EXACT, ROUNDED, ROUGH = 5e-4, 0.1, 0.5
FEW_BITS = ["gptq-2-v2", "gptq-3", "gguf-q2-k", "gguf-q3-k"]
EXPORTS = [("onnx", "f32"), ("onnx-ort", "as-is")]
# ONNX's own operators look up no rows of 4 bits.
OF_SMALL = [("onnx-std", "as-is,embed_tokens=q8")]
PROMPTS = ["Mia had a red kite.", "Tom went to the lake with his"]
STEPS = 60
EOS = 2


@dataclass
class Case:
    """A checkpoint, and what it stands for."""

    name: str
    path: Path
    # For `forward`: sizes, and tensors by the names of GGUF.
    sizes: dict
    tensors: dict
    # Those that become blocks of 8 bits.
    requantized: set
    # A text to compare all logits of, and beginnings of others.
    ids: list
    prompts: list
    eos: set
    # What `forward` takes, by how weights are stored.
    models: dict = field(default_factory=dict)

    def logits(self, ids, weights):
        """The logits of a text, with weights in f32 or as they are."""
        if weights not in self.models:
            rounded = set() if weights == "f32" else set(self.requantized)
            rounded |= {"token_embd.weight"} if "embed_tokens=q8" in weights else set()
            held = {name: blocks_of_8_bits(data) if name in rounded else data for name, data in self.tensors.items()}
            self.models[weights] = dict(self.sizes, tensors={k: v.astype(np.float64) for k, v in held.items()})
        return forward(self.models[weights], np.array(ids))

    def shortfall(self, prompt, tokens, weights):
        """How much less than the highest of its place the logit of a token is, at most."""
        places = self.logits([*prompt, *tokens], weights)[len(prompt) - 1:-1]
        return float((places.max(1) - places[np.arange(len(tokens)), tokens]).max())


def blocks_of_8_bits(matrix):
    """The numbers nearest to a matrix in blocks of 32 codes of 8 bits, with scales in half precision."""
    rows, columns = matrix.shape
    blocks = np.pad(matrix, ((0, 0), (0, -columns % 32))).reshape(rows, -1, 32)
    scales = (np.abs(blocks).max(2, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    codes = np.rint(blocks * np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0))
    return (np.clip(codes, -128, 127) * scales).reshape(rows, -1)[:, :columns]


def sizes_of(config):
    """What `forward` takes of a config.json."""
    return {"layers": config["num_hidden_layers"], "heads": config["num_attention_heads"],
            "kv_heads": config["num_key_value_heads"], "head_dim": config["head_dim"], "theta": config["rope_theta"],
            "ffn": config["intermediate_size"], "eps": config["rms_norm_eps"]}


def small_models(out):
    """The random models of the fixtures, and the part of the story model that is a GGUF file."""
    folders = [*(FIXTURES / "quantized").iterdir(), *(FIXTURES / "gguf").iterdir()]
    for folder in sorted(folder for folder in folders if (folder / "golden.json").exists()):
        gguf = sorted(folder.glob("*.gguf"))
        if folder.name.startswith("stories-"):
            continue
        golden, path = read_json(folder / "golden.json"), gguf[0] if gguf else folder
        llamac(LLAMAC, "convert", path, "-o", out / folder.name)
        sizes = sizes_of(read_json(out / folder.name / "config.json"))
        if gguf:
            stored = [tensor for file in gguf for tensor in GGUFReader(file).tensors]
            tensors = {t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in stored}
            plain = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
            requantized = {t.name for t in stored if t.tensor_type.name not in plain}
        else:
            weights = load_file(out / folder.name / "model.safetensors")
            assert {name: fnv(data) for name, data in weights.items()} == golden["weights"], f"weights of {folder.name}"
            packed = {name for name, data in weights.items() if data.ndim == 2 and "layers" in name}
            tensors = named(weights, sizes)
            requantized = set(named({name: weights[name] for name in packed - golden["carried"].keys()}, sizes))
        ids = load_file(folder / "golden.safetensors")["all/input_ids"][0].tolist()
        prompts = [generation["prompt"][0] for generation in golden["greedy"]]
        eos = {EOS} if folder.name == "stories" else set()
        yield Case(f"{folder.parent.name}/{folder.name}", path, sizes, tensors, requantized, ids, prompts, eos)


def stories(out):
    """The story model in every format."""
    pieces = SentencePieceProcessor(model_file=str(FIXTURES / "stories" / "tokenizer.model"))
    prompts = [[1, *pieces.encode(prompt)] for prompt in PROMPTS]
    ids = read_json(FIXTURES / "stories" / "golden.json")["greedy"][0]["prompt"][0][:24]
    for story in every(out):
        requantized = set(named({name: story.weights[name] for name in story.requantized}, story.sizes))
        tensors = named(story.weights, story.sizes)
        yield Case(f"story/{story.name}", story.path, story.sizes, tensors, requantized, ids, prompts, {EOS})


def bound(what, found, most):
    """Fails if a difference is larger than it may be."""
    if not found <= most:
        raise AssertionError(f"{what}: {found} instead of at most {most}")
    return found


def exported(case, profile, weights, out):
    """How far logits in ONNX Runtime are from those of the weights, and greedy tokens from the reference's."""
    llamac(LLAMAC, "compile", case.path, "--target", profile, "--weights", weights, "-o", out / profile)
    session = Session(out / profile / "model.onnx")
    ids = np.array([case.ids])
    found = session.forward(ids, np.ones_like(ids), positions_of(np.ones_like(ids)))["logits"][0]
    difference = bound(f"{profile}, logits", float(np.abs(found - case.logits(case.ids, weights)).max()), TOLERANCE)
    texts = [(prompt, greedy(session, [prompt], None, STEPS, case.eos)[0]) for prompt in case.prompts]
    for text in texts:
        bound(f"{profile}, a token of the weights as they are", case.shortfall(*text, weights), EXACT)
    return difference, max(case.shortfall(*text, "f32") for text in texts)


def told(case, weights, compute, out):
    """How far the tokens of `llamac run` are from the reference's."""
    model, missed = out / f"{weights}.llamac", []
    llamac(LLAMAC, "compile", case.path, "--weights", weights, "--compute", compute, "-o", model)
    for text, prompt in zip(PROMPTS, case.prompts, strict=True):
        lines = llamac(LLAMAC, "run", model, "-p", text, "-n", STEPS, "--temperature", 0, "--json").splitlines()
        done = json.loads(lines[-1])
        assert done["prompt_tokens"] == len(prompt), "the prompt has other tokens"
        missed.append(case.shortfall(prompt, done["tokens"], "f32"))
    return max(missed)


def measured(case, out):
    """[(what, how far logits are from those of the weights, how far tokens are from the reference's)]."""
    kind, name = case.name.split("/")
    exports = EXPORTS if kind == "story" else EXPORTS + OF_SMALL
    rows = [(f"{profile} {weights}", *exported(case, profile, weights, out)) for profile, weights in exports]
    if kind == "story":
        rows += [(f"run {weights}", 0.0, told(case, weights, compute, out))
                 for weights, compute in (("f32", "f32"), ("as-is", "auto"))]
        for what, _, tokens in rows:
            rounded = ROUGH if name in FEW_BITS else ROUNDED
            bound(f"{what}, a token", tokens, EXACT if what.endswith("f32") else rounded)
    return rows


def main():
    """Measures, prints the worst of each kind, and judges."""
    failures, worst, same = 0, {}, {}
    with TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "stories"
        small.mkdir()
        large.mkdir()
        for case in chain(small_models(small), stories(large)):
            if NAMES and not any(name in case.name for name in NAMES):
                continue
            with TemporaryDirectory() as out:
                try:
                    for what, *found in measured(case, Path(out)):
                        if NAMES:
                            print(f"{case.name} {what}: logits {found[0]:.1e}, tokens {found[1]:.1e}")
                        worst[what] = [max(pair) for pair in zip(found, worst.get(what, (0.0, 0.0)))]
                        same.setdefault(what, []).append(found[1] == 0)
                except Exception as error:  # every case is tried
                    failures += 1
                    print(f"FAILED {case.name}: {str(error)[:600]}")
    for what, (logits, _) in worst.items():
        texts = f"{sum(same[what])} of {len(same[what])} quantized models tell the reference's texts"
        print(f"{what}: {texts}" + ("" if what.startswith("run") else f"; logits differ by {logits:.1e}"))
    return failures


if __name__ == "__main__":
    sys.exit(main() > 0)
