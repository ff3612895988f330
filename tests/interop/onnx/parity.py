"""Every fixture × profile in ONNX Runtime against the recorded outputs of transformers.

Usage: parity.py LLAMAC [NAME …]

Prefill, decoding through the exported cache, padding on both sides, and greedy tokens, also as optimum feeds an export;
for some fixtures the options that change what a model takes, gives or is stored in. Exits with 1 if a number is farther
from its reference than TOLERANCE or a token differs.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import load_file

from exports import Optimum, Session, greedy, llamac, read_json

LLAMAC, *NAMES = sys.argv[1:]
TINY = Path("fixtures/tiny")
TOLERANCE = 2e-4
PROFILES = ["onnx", "onnx-std", "onnx-ort"]
OUTPUTS = ["logits", "last_hidden_state", "start_logits", "end_logits"]
# ONNX Runtime's grouped attention takes several new positions behind a cache in one row only.
ONE_ROW = "onnx-ort"
# Every head, biases, tied tables, shards, each dtype, and frequencies that follow the length.
OPTIONED = ["gqa-f32", "all-bias-f16", "gqa3-bf16", "tied-embed-only", "sharded-bf16", "rope-dynamic-new",
            "head-dim-narrow", "base-bare", "seqcls-pad", "tokcls-bias", "qa-transformer"]
# Options, and the numbers of positions that logits are asked for; 0 is all.
STORED = [(["--external-data", "copy"], [0]), (["--external-data", "reference"], [0])]
DECODER = [(["--no-cache"], [0]), (["--logits", "last"], [1]), (["--logits", "keep"], [0, 1, 3])]


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

    def difference(self, found, last=0):
        """The largest difference at real positions; `found` has the `last` ones only, if that is not 0."""
        worst = 0.0
        for name, expected in self.expected.items():
            ours, real = found[name], ...
            if expected.ndim == 3 or name in ("start_logits", "end_logits"):
                columns = np.arange(self.length)
                if self.keep:
                    columns = columns[-self.keep :]
                elif self.rows is not None:
                    columns = self.rows
                if last:
                    columns, expected = columns[-last:], expected[:, -last:]
                else:
                    ours = ours[:, columns]
                real = self.mask[:, columns] != 0
            assert ours.shape == expected.shape, f"{name}: {ours.shape} instead of {expected.shape}"
            # NaN is the largest of all; Python's max would lose it.
            worst = float(np.maximum(worst, np.abs(ours - expected)[real].max(initial=0.0)))
        return worst


def follows_length(config):
    """Frequencies that depend on the length: transformers' single forward differs from steps beyond the threshold."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return rope.get("rope_type", rope.get("type")) in ("dynamic", "longrope")


def recorded(folder):
    """What transformers did with a fixture, and its forwards."""
    golden, tensors = read_json(folder / "golden.json"), load_file(folder / "golden.safetensors")
    return golden, [Case(entry, tensors) for entry in golden["cases"]]


def agree(difference, what):
    if not difference <= TOLERANCE:
        raise AssertionError(f"{what}: differs by {difference}")


def check_generations(session, golden, config):
    eos = config.get("eos_token_id", 2)
    eos = set(eos if isinstance(eos, list) else [eos])
    for entry in golden["greedy"]:
        tokens = greedy(session, entry["prompt"], entry["attention_mask"], entry["max_new_tokens"], eos)
        if tokens != entry["tokens"]:
            raise AssertionError(f"greedy {entry['name']}: {tokens} instead of {entry['tokens']}")


def check(folder, profile, out):
    config = read_json(folder / "config.json")
    golden, cases = recorded(folder)
    decoder = golden["head"] == "causal-lm"
    head = ["--head", golden["head"]]
    llamac(LLAMAC, "compile", folder, *head, "--target", profile, "-o", out / "ids")
    model = out / "ids" / "model.onnx"
    if profile != "onnx-ort":
        onnx.checker.check_model(str(model), full_check=True)
    session, optimum, worst, forwards = Session(model), Optimum(out / "ids"), 0.0, 0
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
            agree(difference, f"{case.name} in {len(sizes)} parts")
        if case.ids is not None:
            agree(case.difference(case.chunks(optimum, runs[0])), f"{case.name}, fed as optimum does")
    check_generations(session, golden, config)
    check_generations(optimum, golden, config)
    nodes = len(onnx.load(model, load_external_data=False).graph.node)
    return worst, forwards, len(golden["greedy"]), nodes


def check_options(folder, profile, out):
    """The largest difference of exports that are made with an option each."""
    golden, cases = recorded(folder)
    decoder = golden["head"] == "causal-lm"
    whole = lambda case: case.ids is not None and not (case.cached or case.keep) and case.rows is None
    cases = [case for case in cases if whole(case) and (decoder or case.given_positions is None)]
    assert cases, "no forward of a whole text"
    worst = 0.0
    for options, counts in STORED + (DECODER if decoder else []):
        checkpoint, path = folder, out / options[-1]
        if options[-1] == "reference":
            checkpoint = shutil.copytree(folder, path)
        llamac(LLAMAC, "compile", checkpoint, "--target", profile, *options, "-o", path)
        session = Session(path / "model.onnx")
        for case in cases:
            for count in counts:
                session.reset()
                found = session.forward(case.tokens, case.mask, case.positions, count)
                difference = case.difference(found, count)
                agree(difference, f"{' '.join(options)}, {case.name}, {count} positions")
                worst = max(worst, difference)
        if options[-1] != "--no-cache":
            check_generations(session, golden, read_json(folder / "config.json"))
    return worst


failures = 0
largest = {profile: 0.0 for profile in PROFILES}
for folder in sorted(TINY.iterdir()):
    if NAMES and folder.name not in NAMES:
        continue
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as out:
            try:
                worst, forwards, generations, nodes = check(folder, profile, Path(out))
                if folder.name in OPTIONED:
                    worst = max(worst, check_options(folder, profile, Path(out)))
                largest[profile] = max(largest[profile], worst)
                if NAMES:
                    print(f"{folder.name} {profile}: {worst:.1e} over {forwards} runs, {generations} generations, {nodes} nodes")
            except Exception as error:  # every fixture is tried
                failures += 1
                print(f"FAILED {folder.name} {profile}: {str(error)[:600]}")
for profile, worst in largest.items():
    print(f"{profile}: largest difference from transformers in ONNX Runtime {worst:.1e}")
sys.exit(failures > 0)
