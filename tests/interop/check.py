"""Checks llamac against other tools: safetensors reads its artifacts, tokenizers and sentencepiece agree with its ids.

Usage: check.py LLAMAC
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

LLAMAC = sys.argv[1]
STORIES = Path("fixtures/stories")


def llamac(*args):
    done = subprocess.run([LLAMAC, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"llamac {args} failed with {done.returncode}:\n{done.stderr}")
    return done.stdout


def artifact_is_a_safetensors_file(folder):
    out = folder / "stories.llamac"
    llamac("compile", STORIES, "-o", out)
    with safe_open(out, "np") as file:
        names = list(file.keys())
        assert file.metadata()["format"] == "llamac"
        plan = json.loads(file.get_tensor("llamac.plan").tobytes())
        tokenizer = file.get_tensor("files/tokenizer.json").tobytes()
    assert tokenizer == (STORIES / "tokenizer.json").read_bytes()
    assert all(weight["tensor"] in names for weight in plan["weights"])
    print(f"safetensors lists the artifact's {len(names)} tensors")
    return out


def outputs_are_read_by_numpy(folder, artifact):
    inputs, results = folder / "in.safetensors", []
    save_file({"input_ids": np.array([[1, 300, 301, 302]], dtype=np.int64)}, inputs)
    for model, backend in [(artifact, "native"), (STORIES, "reference")]:
        out = folder / f"{backend}.safetensors"
        compute = ["--compute", "f32"] if backend == "native" else []
        llamac("eval", model, "--inputs", inputs, "--outputs", out, "--backend", backend, *compute)
        results.append(load_file(out)["logits"])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)
    print(f"native and reference logits {results[0].shape} agree")


def tokens_are_those_of_other_tokenizers():
    reference = Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(STORIES / "tokenizer.model"))
    lines = (STORIES / "heldout.txt").read_text().splitlines()[:40]
    lines += ["", " leading", "two  spaces", "naïve café", "日本語 and 🦙", "1234 56", "tab\tand\nnewline"]
    for line in lines:
        found = json.loads(llamac("tokenize", STORIES, "--json", "--", line))["ids"]
        assert found == reference.encode(line).ids, line
        assert found[1:] == pieces.encode(line), line
    print(f"{len(lines)} texts have the same ids in llamac, tokenizers and sentencepiece")


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    artifact = artifact_is_a_safetensors_file(folder)
    outputs_are_read_by_numpy(folder, artifact)
    tokens_are_those_of_other_tokenizers()
