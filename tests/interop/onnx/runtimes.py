"""The story model's exports in other people's runtimes: the same tokens as `llamac run`, the same scores as `classify`.

Usage: runtimes.py LLAMAC NODE_FOLDER RTEN

ONNX Runtime, onnxruntime-genai and OpenVINO here; transformers.js in `generate.mjs`, from a folder in which it is
installed; rten in the program RTEN, which is `tests/interop/rten`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import openvino
import sentencepiece
from tokenizers import Tokenizer

from exports import Session, greedy, llamac, read_json

LLAMAC, NODE, RTEN = sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3]
STORIES, CLASSIFIER = Path("fixtures/stories"), Path("fixtures/stories-classifier")
PROFILES = ["onnx", "onnx-std", "onnx-ort"]
PROMPTS = ["Mia had a red kite.", "Tom and Ben went to the"]
STEPS = 40
# The exports compute in f32, whatever the weights are stored in.
EXACT = ["--compute", "f32"]


def run(prompt):
    """Prompt and new tokens of `llamac run`."""
    ids = json.loads(llamac(LLAMAC, "tokenize", STORIES, "--json", "--", prompt))["ids"]
    lines = llamac(
        LLAMAC, "run", STORIES, "--ids", ",".join(map(str, ids)), "-n", STEPS, "--temperature", 0, "--json", *EXACT
    ).splitlines()
    tokens = [json.loads(line) for line in lines]
    return ids, [token["id"] for token in tokens if token["type"] == "token"]


def export(folder, source, profile, *options):
    # transformers.js takes no names with two hyphens in a row.
    out = folder / "-".join([source.name, profile, *(o.strip("-") for o in options)])
    llamac(LLAMAC, "compile", source, "--target", profile, "-o", out, *options)
    return out


def in_onnx_runtime(model, runs):
    session = Session(model / "model.onnx")
    eos = {read_json(model / "config.json")["eos_token_id"]}
    for ids, expected in runs:
        assert greedy(session, [ids], None, STEPS, eos) == [expected], "ONNX Runtime"
    # The prompts as one batch, the shorter one padded on the left.
    longest = max(len(ids) for ids, _ in runs)
    prompt = [[0] * (longest - len(ids)) + ids for ids, _ in runs]
    mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in runs]
    assert greedy(session, prompt, mask, STEPS, eos) == [tokens for _, tokens in runs], "a padded batch"


def in_genai(model, runs, share):
    config = read_json(model / "genai_config.json")
    config["search"]["past_present_share_buffer"] = share
    (model / "genai_config.json").write_text(json.dumps(config))
    loaded = genai.Model(str(model))
    tokenizer = genai.Tokenizer(loaded)
    eos = config["model"]["eos_token_id"]
    for ids, expected in runs:
        parameters = genai.GeneratorParams(loaded)
        parameters.set_search_options(max_length=len(ids) + STEPS, do_sample=False)
        generator = genai.Generator(loaded, parameters)
        generator.append_tokens(np.array(ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = [int(token) for token in generator.get_sequence(0)][len(ids) :]
        stops = eos if isinstance(eos, list) else [eos]
        # It leaves the token out that ends a text.
        assert found == expected or found + [expected[-1]] == expected and expected[-1] in stops, (found, expected)
        assert tokenizer.decode(np.array(found[:5], np.int32))


def in_openvino(model, runs):
    compiled = openvino.Core().compile_model(
        str(model / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    shapes = {name: port.get_partial_shape() for port in compiled.inputs for name in port.get_names()}
    eos = read_json(model / "config.json")["eos_token_id"]
    for ids, expected in runs:
        past = {
            name: np.zeros((1, shape[1].get_length(), 0, shape[3].get_length()), np.float32)
            for name, shape in shapes.items()
            if name.startswith("past_key_values.")
        }
        new, total, found = np.array([ids], np.int64), 0, []
        while len(found) < STEPS and found[-1:] != [eos]:
            start, total = total, total + new.shape[1]
            feeds = {
                "input_ids": new,
                "attention_mask": np.ones((1, total), np.int64),
                "position_ids": np.arange(start, total, dtype=np.int64)[None],
            }
            results = compiled({**feeds, **past})
            past = {name: results[name.replace("past_key_values", "present")] for name in past}
            found.append(int(results["logits"][0, -1].argmax()))
            new = np.array([[found[-1]]], np.int64)
        assert found == expected, (found, expected)


def classified(model, texts):
    session = Session(model / "model.onnx")
    assert "position_ids" not in session.inputs
    lines = llamac(LLAMAC, "classify", CLASSIFIER, "--json", *EXACT, "--", *texts).splitlines()
    expected = [json.loads(line) for line in lines]
    labels = read_json(model / "config.json")["id2label"]
    rows = [json.loads(llamac(LLAMAC, "tokenize", CLASSIFIER, "--json", "--", text))["ids"] for text in texts]
    width = max(map(len, rows))
    pad = read_json(model / "config.json")["pad_token_id"]
    for left in (True, False):
        fill = [[pad] * (width - len(row)) for row in rows]
        ids = np.array([f + r if left else r + f for r, f in zip(rows, fill)], np.int64)
        mask = np.array([[0] * len(f) + [1] * len(r) if left else [1] * len(r) + [0] * len(f) for r, f in zip(rows, fill)])
        logits = session.forward(ids, mask.astype(np.int64), None)["logits"]
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        for score, answer in zip(scores, expected, strict=True):
            assert len(answer["scores"]) == len(labels) == len(score), (labels, answer)
            for entry in answer["scores"]:
                index = next(int(i) for i, label in labels.items() if label == entry["label"])
                assert abs(score[index] - entry["score"]) <= 1e-4, (score, answer)


def output(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def in_transformers_js(model, runs, *dtype):
    # Node looks for packages beside the script.
    script = shutil.copy("tests/interop/onnx/generate.mjs", NODE)
    found = json.loads(output("node", script, model.resolve(), json.dumps(PROMPTS), STEPS, *dtype).splitlines()[-1])
    assert found == [ids + expected for ids, expected in runs], (found, runs)


def in_rten(model, runs):
    found = json.loads(output(RTEN, model / "model.onnx", json.dumps([ids for ids, _ in runs]), STEPS))
    for tokens, (_, expected) in zip(found, runs, strict=True):
        # It goes on behind the end of a text.
        assert tokens[: len(expected)] == expected, (tokens, expected)


def without_tokenizer_json(folder):
    """The story model with a SentencePiece model for a tokenizer and nothing else."""
    checkpoint = folder / "sentencepiece"
    checkpoint.mkdir()
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.model"]:
        shutil.copy(STORIES / name, checkpoint)
    return checkpoint


def tokenized(model):
    """The tokenizer of an export gives the ids of the SentencePiece model that it is made of."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(STORIES / "tokenizer.model"))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = (STORIES / "heldout.txt").read_text().splitlines()[:40]
    for line in [*lines, "", " leading", "two  spaces", "naïve café", "日本語 and 🦙", "1234 56", "tab\tand\nnewline"]:
        ids = tokenizer.encode(line).ids
        assert ids == [pieces.bos_id(), *pieces.encode(line)], line
        assert tokenizer.decode(ids) == pieces.decode(ids), line


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    runs = [run(prompt) for prompt in PROMPTS]
    for profile in PROFILES:
        model = export(folder, STORIES, profile)
        in_onnx_runtime(model, runs)
        print(f"{profile}: ONNX Runtime generates what llamac does, alone and in a padded batch")
        in_genai(model, runs, False)
        if profile == "onnx-ort":
            in_genai(model, runs, True)
        print(f"{profile}: onnxruntime-genai generates what llamac does")
        if profile == "onnx":
            in_openvino(model, runs)
            print(f"{profile}: OpenVINO generates what llamac does")
        in_rten(model, runs)
        print(f"{profile}: rten generates what llamac does")
        texts = ["Mia was sad. She lost her kite.", "Tom was happy. He found his ball. They played all day."]
        classified(export(folder, CLASSIFIER, profile), texts)
        print(f"{profile}: the classifier's scores are those of llamac, padded on either side")
    pieces = without_tokenizer_json(folder)
    model = export(folder, pieces, "onnx")
    tokenized(model)
    in_genai(model, runs, False)
    model = export(folder, pieces, "onnx", "--layout", "transformers.js")
    in_transformers_js(model, runs, "fp32")
    print("onnx: transformers.js generates what llamac does, with a tokenizer.json that llamac made")
    for profile, weights, dtype, name in [
        ("onnx", "f16", "fp16", "model_fp16"),
        ("onnx-ort", "q8", "q8", "model_quantized"),
        ("onnx-ort", "q4", "q4", "model_q4"),
    ]:
        model = export(folder, STORIES, profile, "--layout", "transformers.js", "--weights", weights)
        session = Session(model / "onnx" / f"{name}.onnx")
        eos = {read_json(model / "config.json")["eos_token_id"]}
        expected = [(ids, greedy(session, [ids], None, STEPS, eos)[0]) for ids, _ in runs]
        in_transformers_js(model, expected, dtype)
        in_transformers_js(model, expected)
        print(f"{profile}, {weights}: transformers.js finds {name} and generates what ONNX Runtime does")
    # What ONNX Runtime makes of quantized weights is compared with the reference in formats.py.
    for weights in ["q8", "q4", "q4a"]:
        model = export(folder, STORIES, "onnx-ort", "--weights", weights)
        session = Session(model / "model.onnx")
        eos = {read_json(model / "config.json")["eos_token_id"]}
        quantized = [(ids, greedy(session, [ids], None, STEPS, eos)[0]) for ids, _ in runs]
        in_genai(model, quantized, True)
        print(f"onnx-ort, {weights}: onnxruntime-genai generates what ONNX Runtime does")
