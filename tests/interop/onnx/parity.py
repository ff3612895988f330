"""Every fixture × profile in ONNX Runtime against the recorded outputs of transformers.

Usage: parity.py LLAMAC [NAME …]

Prefill, decoding through the exported cache, padding on both sides, and greedy tokens. Exits with 1 if a number is
farther from its reference than TOLERANCE or a token differs.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file

from exports import Session, greedy, llamac, read_json

LLAMAC, *NAMES = sys.argv[1:]
TINY = Path("fixtures/tiny")
TOLERANCE = 2e-4
PROFILES = ["onnx", "onnx-std", "onnx-ort"]
OUTPUTS = ["logits", "last_hidden_state", "start_logits", "end_logits"]
# ONNX Runtime's grouped attention takes several new positions behind a cache in one row only.
ONE_ROW = "onnx-ort"


class Case:
    def __init__(self, entry, tensors):
        self.name, self.keep, self.cached = entry["name"], entry["keep"], entry["cached"] or 0
        part = lambda name: tensors.get(f"{self.name}/{name}")
        self.ids, self.embeds = part("input_ids"), part("inputs_embeds")
        self.tokens = self.embeds if self.ids is None else self.ids
        self.batch, self.length = self.tokens.shape[:2]
        self.given_mask, self.given_positions = part("attention_mask"), part("position_ids")
        self.mask = np.ones((self.batch, self.length), np.int64)
        if self.given_mask is not None:
            self.mask = self.given_mask
        self.positions = np.tile(np.arange(self.length, dtype=np.int64), (self.batch, 1))
        if self.given_positions is not None:
            self.positions = self.given_positions
        self.rows = part("rows")
        self.expected = {name: part(name) for name in OUTPUTS if part(name) is not None}

    def chunks(self, session, sizes):
        """The outputs of consecutive forwards, one behind the other."""
        session.reset()
        start, parts = 0, []
        for size in sizes:
            end = start + size
            parts.append(
                session.forward(
                    self.tokens[:, start:end], self.mask[:, :end], self.positions[:, start:end]
                )
            )
            start = end
        names = parts[0].keys()
        return {n: np.concatenate([p[n] for p in parts], 1) if len(parts) > 1 else parts[0][n] for n in names}

    def difference(self, found):
        """The largest difference at real positions."""
        worst = 0.0
        for name, expected in self.expected.items():
            ours, columns = found[name], np.arange(self.length)
            if ours.ndim >= 2 and ours.shape[1] == self.length and name != "pooled":
                per_token = expected.ndim == 3 or name in ("start_logits", "end_logits")
                if per_token:
                    if self.keep:
                        columns = columns[-self.keep :]
                    elif self.rows is not None:
                        columns = self.rows
                    real = self.mask[:, columns] != 0
                    worst = max(worst, np.abs(ours[:, columns] - expected)[real].max(initial=0.0))
                    continue
            worst = max(worst, np.abs(ours - expected).max())
        return worst


def follows_length(config):
    """Frequencies that depend on the length: transformers' single forward differs from steps beyond the threshold."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope")


def check(folder, profile, out):
    golden, config = read_json(folder / "golden.json"), read_json(folder / "config.json")
    cases = [Case(entry, TENSORS) for TENSORS in [load_file(folder / "golden.safetensors")] for entry in golden["cases"]]
    decoder = golden["head"] == "causal-lm"
    head = ["--head", golden["head"]]
    llamac(LLAMAC, "compile", folder, *head, "--target", profile, "-o", out / "ids")
    model = out / "ids" / "model.onnx"
    if profile != "onnx-ort":
        onnx.checker.check_model(str(model), full_check=True)
    session, worst, forwards = Session(model), 0.0, 0
    embeds = None
    for case in cases:
        runs = [[case.length]]
        if case.cached:
            runs = [[case.length - case.cached] + [1] * case.cached]
        elif decoder and 1 < case.length <= 24 and not follows_length(config):
            runs.append([case.length // 2] + [1] * (case.length - case.length // 2))
            if profile != ONE_ROW or case.batch == 1:
                runs.append([2, case.length - 2] if case.length > 2 else [1, 1])
        if case.cached and not decoder:
            continue
        if case.given_positions is not None and not decoder:
            continue
        target = session
        if case.ids is None:
            if embeds is None:
                llamac(LLAMAC, "compile", folder, *head, "--target", profile, "--inputs", "embeds", "-o", out / "embeds")
                embeds = Session(out / "embeds" / "model.onnx")
            target = embeds
        for sizes in runs:
            difference = case.difference(case.chunks(target, sizes))
            worst, forwards = max(worst, difference), forwards + 1
            if not difference <= TOLERANCE:
                raise AssertionError(f"{case.name} in {len(sizes)} parts: differs by {difference}")
    eos = config.get("eos_token_id", 2)
    eos = set(eos if isinstance(eos, list) else [eos])
    for entry in golden["greedy"]:
        tokens = greedy(session, entry["prompt"], entry["attention_mask"], entry["max_new_tokens"], eos)
        if tokens != entry["tokens"]:
            raise AssertionError(f"greedy {entry['name']}: {tokens} instead of {entry['tokens']}")
    nodes = len(onnx.load(model, load_external_data=False).graph.node)
    return worst, forwards, len(golden["greedy"]), nodes


failures = 0
largest = {profile: 0.0 for profile in PROFILES}
for folder in sorted(TINY.iterdir()):
    if NAMES and folder.name not in NAMES:
        continue
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as out:
            try:
                worst, forwards, generations, nodes = check(folder, profile, Path(out))
                largest[profile] = max(largest[profile], worst)
                if NAMES:
                    print(f"{folder.name} {profile}: {worst:.1e} over {forwards} runs, {generations} generations, {nodes} nodes")
            except Exception as error:  # every fixture is tried
                failures += 1
                print(f"FAILED {folder.name} {profile}: {str(error)[:600]}")
for profile, worst in largest.items():
    print(f"{profile}: largest difference from transformers in ONNX Runtime {worst:.1e}")
sys.exit(failures > 0)
