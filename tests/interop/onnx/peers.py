"""llamac's exports beside those of optimum and of onnxruntime-genai's builder: time, memory, and speed in ONNX Runtime.

Usage: peers.py WHAT LLAMAC WORK [--rounds N]

WHAT is one of
    exports  a checkpoint of SmolLM-135M's shape to f32: seconds and peak resident memory of each exporter, with what it
             does by default (optimum compares its export with the original)
    speed    prefill and decoding of these exports in ONNX Runtime, then in onnxruntime-genai; after `exports`
    loads    optimum's own classes run llamac's directories: the tokens of `llamac run`, the scores of `classify`

Needs python3 with venv, and 15 GB under WORK, where it installs what it needs (torch is most of it). Exporters and
models take turns, so that other work on the machine meets all of them; figures are medians. `exports` exits with 1 if
llamac is not 20 times as fast as optimum in at most an eighth of its memory, and faster than the builder; `speed` if a
model of llamac's is slower than its peers by more than the measurement can tell (3 %).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = [
    "onnx==1.23.2",
    # The builder needs it and does not say so.
    "onnx-ir==1.1.0",
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.32.0",
    "optimum-onnx==0.1.0",
    "optimum==2.1.0",
    "torch==2.8.0",
    "transformers==4.57.6",
]
# The builder takes transformers 5, optimum takes transformers 4.
BUILDER_PACKAGES = [
    "anyio",
    "click",
    "h11",
    "httpcore",
    "httpx",
    "huggingface-hub>=1.3,<2",
    "markdown-it-py",
    "mdurl",
    "pygments",
    "rich",
    "shellingham",
    "tokenizers==0.23.3",
    "transformers==5.23.0",
    "typer",
]
PROFILES = ["onnx", "onnx-std", "onnx-ort"]
PROMPT, NEW, THREADS = 128, 32, 2
HEAD = 64
MIB = 1 << 20


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["exports", "speed", "loads"])
    parser.add_argument("llamac", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def inside(work):
    """Goes on in an environment under `work` that has the peers."""
    python = work / "venv" / "bin" / "python"
    if Path(sys.prefix) == work / "venv":
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *PACKAGES], check=True)
        subprocess.run([*install, "--no-deps", "--target", work / "builder", *BUILDER_PACKAGES], check=True)
    os.execv(python, [python, *sys.argv])


def checkpoint(work):
    """A random checkpoint of SmolLM-135M's shape in bf16, with a tokenizer, for the builder wants one."""
    folder = work / "checkpoint"
    if not folder.exists():
        script = "fixtures/scripts/random_checkpoint.py"
        subprocess.run([sys.executable, script, "smollm-135m", folder, "--dtype", "bf16"], check=True)
        for name in ["tokenizer.json", "tokenizer_config.json"]:
            (folder / name).write_bytes((Path("fixtures/stories") / name).read_bytes())
    return folder


def exporters(args):
    """Name → command and output folder."""
    source, out = checkpoint(args.work), args.work / "exports"
    out.mkdir(exist_ok=True)
    llamac = {
        profile: [args.llamac, "compile", source, "--target", profile, "--weights", "f32", "-o", out / profile, "-q"]
        for profile in PROFILES
    }
    optimum = "from optimum.exporters.onnx import main_export as export; import sys; " + (
        "export(sys.argv[1], sys.argv[2], task='text-generation-with-past', dtype='fp32')"
    )
    builder = ["-m", "onnxruntime_genai.models.builder", "-i", source, "-p", "fp32", "-e", "cpu"]
    path = f"PYTHONPATH={args.work / 'builder'}"
    peers = {
        "optimum": [sys.executable, "-c", optimum, source, out / "optimum"],
        "builder": ["env", path, sys.executable, *builder, "-o", out / "builder", "-c", args.work / "cache"],
    }
    return {**llamac, **peers}


def measured(command, log):
    """Seconds and peak resident memory of a command."""
    start = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status != 0:
        raise SystemExit(f"{command[0]} failed: see {log.name}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def exports(args):
    commands = exporters(args)
    runs = {name: [] for name in commands}
    with (args.work / "exports.log").open("w") as log:
        for _ in range(args.rounds):
            for name, command in commands.items():
                subprocess.run(["rm", "-rf", args.work / "exports" / name], check=True)
                runs[name].append(measured(command, log))
    medians = {name: [statistics.median(values) for values in zip(*runs[name])] for name in runs}
    print(f"{'':10} {'seconds':>8} {'of CPUs':>8} {'peak MiB':>9}")
    for name, (seconds, cpu, peak) in medians.items():
        print(f"{name:10} {seconds:8.2f} {cpu:8.2f} {peak / MIB:9.0f}")
    missed = []
    for profile in PROFILES:
        seconds, _, peak = medians[profile]
        if 20 * seconds > medians["optimum"][0] or 8 * peak > medians["optimum"][2]:
            missed.append(f"{profile} beside optimum")
        if seconds >= medians["builder"][0]:
            missed.append(f"{profile} beside the builder")
    if missed:
        raise SystemExit(f"not held: {', '.join(missed)}")


class Decoder:
    """A model in ONNX Runtime, without copies of its caches."""

    def __init__(self, folder):
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
        self.inputs = {i.name: i.shape for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, ids):
        """Seconds of the prompt, and of a new token; then there are `logits` of the last one."""
        import numpy as np
        from onnxruntime import OrtValue

        value = OrtValue.ortvalue_from_numpy
        past = {
            name: value(np.zeros((1, shape[1], 0, HEAD), np.float32))
            for name, shape in self.inputs.items()
            if name.startswith("past_key_values.")
        }
        seconds, done = [], 0
        for new in [ids[:PROMPT], *([token] for token in ids[PROMPT:])]:
            total = done + len(new)
            feeds = {
                "input_ids": value(np.array([new], np.int64)),
                "attention_mask": value(np.ones((1, total), np.int64)),
                "position_ids": value(np.arange(done, total, dtype=np.int64)[None]),
                **past,
            }
            feeds = {name: feed for name, feed in feeds.items() if name in self.inputs}
            start = time.perf_counter()
            results = dict(zip(self.outputs, self.session.run_with_ort_values(self.outputs, feeds)))
            seconds.append(time.perf_counter() - start)
            past = {name: results[name.replace("past_key_values", "present")] for name in past}
            done = total
        self.logits = results["logits"].numpy()[0, -1]
        return seconds[0], statistics.median(seconds[1:])


class Generator:
    """A model in onnxruntime-genai, with one buffer for past and present where the model allows it."""

    def __init__(self, folder, share):
        import onnxruntime_genai as genai

        config = json.loads((folder / "genai_config.json").read_text())
        config["search"]["past_present_share_buffer"] = share
        config["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = THREADS
        config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1
        (folder / "genai_config.json").write_text(json.dumps(config))
        self.genai, self.model = genai, genai.Model(str(folder))

    def run(self, ids):
        """Seconds of the prompt with the first token, and of a new token."""
        import numpy as np

        parameters = self.genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=PROMPT + NEW, do_sample=False)
        generator = self.genai.Generator(self.model, parameters)
        start = time.perf_counter()
        generator.append_tokens(np.array(ids[:PROMPT], np.int32))
        generator.generate_next_token()
        prompt, seconds = time.perf_counter() - start, []
        for _ in range(NEW - 1):
            start = time.perf_counter()
            generator.generate_next_token()
            seconds.append(time.perf_counter() - start)
        return prompt, statistics.median(seconds)


def compared(models, ids, rounds, slower):
    """Medians of each model, which take turns in another order each time; what is slower than those in `slower`."""
    runs, order = {name: [] for name in models}, list(models)
    for number in range(rounds + 1):
        for name in order:
            seconds = models[name].run(ids)
            # The first round warms up.
            if number > 0:
                runs[name].append(seconds)
        order = order[1:] + order[:1]
    medians = {name: [statistics.median(values) for values in zip(*runs[name])] for name in runs}
    for name, (prompt, token) in medians.items():
        print(f"{name:10} {PROMPT / prompt:8.1f} tok/s of {PROMPT}   {1 / token:8.1f} tok/s one by one")
    missed = []
    for name, peers in slower.items():
        for peer in peers:
            pairs = zip(medians[name], medians[peer], ["prefill", "decoding"])
            missed += [f"{name} beside {peer} in {what}" for ours, theirs, what in pairs if ours > 1.03 * theirs]
    return missed


def speed(args):
    import numpy as np

    out = args.work / "exports"
    ids = np.random.default_rng(0).integers(3, 2000, PROMPT + NEW).tolist()
    print("ONNX Runtime")
    models = {name: Decoder(out / name) for name in [*PROFILES, "optimum", "builder"]}
    missed = compared(models, ids, args.rounds, {p: ["optimum"] for p in PROFILES} | {"onnx-ort": ["optimum", "builder"]})
    expected = models["optimum"].logits
    for name, model in models.items():
        difference = np.abs(model.logits - expected).max()
        assert difference <= 1e-3 * np.abs(expected).max(), f"{name} differs from optimum by {difference}"
    models.clear()
    print("onnxruntime-genai")
    models = {name: Generator(out / name, True) for name in ["onnx-ort", "builder"]}
    missed += compared(models, ids, args.rounds, {"onnx-ort": ["builder"]})
    if missed:
        raise SystemExit(f"slower: {', '.join(missed)}")


def loads(args):
    import numpy as np
    import torch
    from optimum.onnxruntime import (
        ORTModelForCausalLM,
        ORTModelForFeatureExtraction,
        ORTModelForSequenceClassification,
    )
    from transformers import AutoTokenizer

    def llamac(*command):
        done = subprocess.run([args.llamac, *map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]

    stories, classifier = "fixtures/stories", "fixtures/stories-classifier"
    prompts = ["Mia had a red kite.", "Tom and Ben went to the"]
    for profile in PROFILES:
        out = args.work / "loads" / profile
        out.mkdir(parents=True, exist_ok=True)
        for source, name, head in [(stories, "decoder", "causal-lm"), (stories, "base", "base"), (classifier, "classes", "auto")]:
            llamac("compile", source, "--head", head, "--target", profile, "-o", out / name, "-q")
        tokenizer = AutoTokenizer.from_pretrained(out / "decoder")
        model = ORTModelForCausalLM.from_pretrained(out / "decoder")
        for prompt in prompts:
            ids = llamac("tokenize", stories, "--json", "--", prompt)[0]["ids"]
            lines = llamac("run", stories, "--ids", ",".join(map(str, ids)), "-n", 60, "--temperature", 0, "--compute", "f32", "--json")
            expected = [line["id"] for line in lines if line["type"] == "token"]
            inputs = tokenizer(prompt, return_tensors="pt")
            assert inputs["input_ids"][0].tolist() == ids
            found = model.generate(**inputs, max_new_tokens=60, do_sample=False)[0].tolist()
            assert found[len(ids) :] == expected, (profile, found, expected)
        print(f"{profile}: ORTModelForCausalLM generates what llamac does")
        model = ORTModelForSequenceClassification.from_pretrained(out / "classes")
        tokenizer = AutoTokenizer.from_pretrained(out / "classes")
        texts = ["Mia was sad. She lost her kite.", "Tom was happy. He found his ball. They played all day."]
        scores = torch.softmax(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits, -1)
        labels = {label: int(index) for index, label in model.config.id2label.items()}
        for row, answer in zip(scores, llamac("classify", classifier, "--compute", "f32", "--json", "--", *texts)):
            for entry in answer["scores"]:
                assert abs(float(row[labels[entry["label"]]]) - entry["score"]) <= 1e-4, (profile, row, answer)
        print(f"{profile}: ORTModelForSequenceClassification gives llamac's scores")
        model = ORTModelForFeatureExtraction.from_pretrained(out / "base")
        tokenizer = AutoTokenizer.from_pretrained(out / "base")
        rows = model(**tokenizer(prompts[0], return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        (vector,) = llamac("embed", stories, "--compute", "f32", "--json", "--", prompts[0])
        difference = np.abs(rows - np.array(vector["embedding"])).max()
        assert difference <= 1e-4, (profile, difference)
        print(f"{profile}: ORTModelForFeatureExtraction gives llamac's hidden states")


arguments = parse()
arguments.work = arguments.work.resolve()
arguments.llamac = arguments.llamac.resolve()
arguments.work.mkdir(parents=True, exist_ok=True)
inside(arguments.work)
{"exports": exports, "speed": speed, "loads": loads}[arguments.what](arguments)
