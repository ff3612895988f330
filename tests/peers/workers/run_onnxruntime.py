"""Times a directory of ONNX in ONNX Runtime: `present` becomes `past_key_values` of the next call without a copy."""

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

import common

args = common.parse()
onnxruntime.set_default_logger_severity(3)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = args.threads
session = onnxruntime.InferenceSession(f"{args.model}/model.onnx", options, providers=["CPUExecutionProvider"])
OUTPUTS = [output.name for output in session.get_outputs()]
CACHES = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past_key_values.")}
NAMES = {i.name for i in session.get_inputs()}


class Context:
    """Tokens that were read, and their keys and values."""

    def __init__(self):
        empty = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in CACHES.items()}
        self.done = 0
        self.past = {name: OrtValue.ortvalue_from_numpy(values) for name, values in empty.items()}

    def forward(self, ids):
        total = self.done + len(ids)
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self.done, total, dtype=np.int64)[None],
        }
        feeds = {name: OrtValue.ortvalue_from_numpy(feed) for name, feed in feeds.items() if name in NAMES}
        results = dict(zip(OUTPUTS, session.run_with_ort_values(OUTPUTS, {**feeds, **self.past})))
        assert results["logits"].shape()[1] == 1, "logits of the last token only"
        self.past = {name: results[name.replace("past_key_values", "present")] for name in CACHES}
        self.done = total


common.measure(args, Context)
