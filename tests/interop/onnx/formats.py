"""Exports with weights that are not f32 in ONNX Runtime, against llamac's reference evaluator on the same weights.

Usage: formats.py LLAMAC [NAME …]

Whole texts, padding on both sides, decoding through the exported cache, and tokens: what ONNX Runtime generates
greedily is what the reference finds most likely at each position. Exits with 1 if a number is farther from the reference
than TOLERANCE or a token differs.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

from exports import Session, greedy, llamac, positions_of, read_json

LLAMAC, *NAMES = sys.argv[1:]
FIXTURES = Path("fixtures")
TOLERANCE = 2e-4
# Of each kind: grouped heads, biases, sizes that are no multiple of a block, tied tables, classifiers, trained weights.
CHECKPOINTS = ["tiny/gqa-f32", "tiny/all-bias-f16", "tiny/odd-sizes", "tiny/tied-embed-only", "tiny/seqcls-pad",
               "tiny/qa-transformer", "stories", "stories-classifier"]
QUANTIZED = ["q8", "q4", "q4a", "q4,down_proj=q4a,layers.0=q8"]
FORMATS = {
    "onnx": ["f16", "bf16"],
    "onnx-std": QUANTIZED + ["bf16"],
    "onnx-ort": QUANTIZED + ["q4,embed_tokens=q4,lm_head=q4", "q4a,embed_tokens=q4a", "f16"],
}
STEPS = 24
OUTPUTS = ["logits", "last_hidden_state", "start_logits", "end_logits"]


def reference(folder, decoder, weights, ids, mask, out):
    """The outputs of a forward of the reference evaluator. What is no decoder counts positions itself."""
    inputs = {"input_ids": ids, "attention_mask": mask}
    if decoder:
        inputs["position_ids"] = positions_of(mask)
    save_file(inputs, out / "in.safetensors")
    llamac(LLAMAC, "eval", folder, "--backend", "reference", "--weights", weights,
           "--inputs", out / "in.safetensors", "--outputs", out / "out.safetensors")
    return load_file(out / "out.safetensors")


def check(folder, profile, weights, out):
    config = read_json(folder / "config.json")
    decoder = config["architectures"][0].endswith("ForCausalLM")
    if not decoder:
        weights = ",".join(entry for entry in weights.split(",") if not entry.startswith("lm_head"))
    llamac(LLAMAC, "compile", folder, "--target", profile, "--weights", weights, "-o", out / "model")
    model = out / "model" / "model.onnx"
    if profile != "onnx-ort":
        onnx.checker.check_model(str(model), full_check=True)
    session = Session(model)
    random = np.random.default_rng(5)
    ids = random.integers(3, config["vocab_size"], (3, 17))
    mask = np.ones_like(ids)
    mask[1, :6], mask[2, 11:] = 0, 0
    expected = reference(folder, decoder, weights, ids, mask, out)
    worst = 0.0
    for sizes in [[17]] + ([[9] + [1] * 8] if decoder else []):
        session.reset()
        parts, start = [], 0
        for size in sizes:
            end = start + size
            parts.append(session.forward(ids[:, start:end], mask[:, :end], positions_of(mask)[:, start:end]))
            start = end
        for name in OUTPUTS:
            if name not in expected:
                continue
            found = np.concatenate([part[name] for part in parts], 1) if len(parts) > 1 else parts[0][name]
            per_token = found.shape[:2] == mask.shape
            real = (lambda values: values[mask != 0]) if per_token else (lambda values: values)
            # NaN is the largest of all; Python's max would lose it.
            worst = float(np.maximum(worst, np.abs(real(found) - real(expected[name])).max()))
    if not worst <= TOLERANCE:
        raise AssertionError(f"differs by {worst}")
    if decoder:
        prompt = ids[:1, :5]
        tokens = greedy(session, prompt, None, STEPS, set())[0]
        text = np.concatenate([prompt, np.array([tokens])], 1)
        logits = reference(folder, decoder, weights, text, np.ones_like(text), out)["logits"]
        likely = logits[0, 4:-1].argmax(-1).tolist()
        if tokens != likely:
            raise AssertionError(f"greedy: {tokens} instead of {likely}")
    return worst


failures, worst = 0, {}
for name in CHECKPOINTS:
    for profile, formats in FORMATS.items():
        for weights in formats:
            if NAMES and not any(wanted in f"{name} {profile} {weights}" for wanted in NAMES):
                continue
            with tempfile.TemporaryDirectory() as out:
                try:
                    difference = check(FIXTURES / name, profile, weights, Path(out))
                    worst[profile, weights] = max(worst.get((profile, weights), 0.0), difference)
                except Exception as error:  # every case is tried
                    failures += 1
                    print(f"FAILED {name} {profile} {weights}: {str(error)[:600]}")
for (profile, weights), difference in worst.items():
    print(f"{profile} {weights}: largest difference from the reference in ONNX Runtime {difference:.1e}")
sys.exit(failures > 0)
