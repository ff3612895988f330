"""Exports of llamac in ONNX Runtime: making them, and forwards with the rules of their inputs and outputs."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(3)


def llamac(binary, *args):
    """What the command prints; its message is the error."""
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"llamac {' '.join(map(str, args))}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout


class Session:
    """A graph in ONNX Runtime. A decoder keeps its cache from one forward to the next."""

    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Products with the standard's quantized matrices would round activations to 8 bits.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        self.session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.past = [name for name in self.inputs if name.startswith("past_key_values.")]
        self.cache = {}

    def reset(self):
        self.cache = {}

    def forward(self, tokens, mask, positions, keep=0):
        """The outputs for `tokens` (ids or embeddings) behind the cache; `mask` is of all positions so far."""
        feeds = {"attention_mask": mask, "position_ids": positions, "num_logits_to_keep": np.array(keep)}
        feeds["input_ids" if tokens.ndim == 2 else "inputs_embeds"] = tokens
        for name in self.past:
            _, heads, _, size = self.inputs[name].shape
            empty = np.zeros((tokens.shape[0], heads, 0, size), np.float32)
            feeds[name] = self.cache.get(name, empty)
        feeds = {name: value for name, value in feeds.items() if name in self.inputs}
        results = dict(zip(self.outputs, self.session.run(None, feeds)))
        for name in self.past:
            self.cache[name] = results.pop(name.replace("past_key_values", "present"))
        return results


class Optimum(Session):
    """The same, fed and read by the rules of optimum's classes.

    Keys and values are what is called so, in the order of the session, and a past is the present of its place. Empty ones
    are as large as config.json says. Nothing but a decoder gets positions or a cache, and an input that is not fed is an
    error.
    """

    def __init__(self, folder):
        super().__init__(folder / "model.onnx")
        config = read_json(folder / "config.json")
        caches = lambda names: [name for name in names if ".key" in name or ".value" in name]
        self.past, self.present = caches(self.inputs), caches(self.outputs)
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or config["hidden_size"] // heads
        self.empty = (config.get("num_key_value_heads") or heads, 0, size)
        self.decoder = config["architectures"][0].endswith("ForCausalLM")
        assert bool(self.past) == (self.decoder and config.get("use_cache", True)), "use_cache"

    def forward(self, tokens, mask, positions):
        feeds = {"input_ids": tokens, "attention_mask": mask}
        if self.decoder:
            feeds["position_ids"] = positions
        caches = self.cache or [np.zeros((tokens.shape[0], *self.empty), np.float32)] * len(self.past)
        feeds |= zip(self.past, caches, strict=True)
        results = dict(zip(self.outputs, self.session.run(None, feeds)))
        self.cache = [results.pop(name) for name in self.present]
        return results


def read_json(path):
    return json.loads(Path(path).read_text())


def positions_of(mask):
    """The positions that generation derives from a mask."""
    return np.clip(mask.cumsum(1) - 1, 0, None)


def greedy(session, prompt, mask, steps, eos):
    """The most likely continuation of each row, up to and with the first token of `eos`."""
    session.reset()
    tokens = np.array(prompt, np.int64)
    mask = np.ones_like(tokens) if mask is None else np.array(mask, np.int64)
    rows = [[] for _ in tokens]
    done = [False] * len(rows)
    new = tokens
    for _ in range(steps):
        positions = positions_of(mask)[:, -new.shape[1] :]
        logits = session.forward(new, mask, positions)["logits"]
        chosen = logits[:, -1].argmax(-1)
        for row, token in enumerate(chosen):
            if not done[row]:
                rows[row].append(int(token))
                done[row] = int(token) in eos
        if all(done):
            break
        new = chosen[:, None].astype(np.int64)
        mask = np.concatenate([mask, np.ones_like(new)], 1)
    return rows
