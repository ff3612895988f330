"""Times a directory of ONNX in OpenVINO, which keeps keys and values itself."""

import numpy as np
import openvino
from openvino._offline_transformations import apply_make_stateful_transformation

import common

args = common.parse("--precision")
core = openvino.Core()
model = core.read_model(f"{args.model}/model.onnx")
# A state begins with no positions of one sequence.
shapes = {i.any_name: i.partial_shape for i in model.inputs}
for shape in shapes.values():
    shape[0] = 1
model.reshape(shapes)
past = [name for name in shapes if name.startswith("past_key_values.")]
apply_make_stateful_transformation(model, {name: name.replace("past_key_values", "present") for name in past})
hints = {
    "INFERENCE_NUM_THREADS": args.threads,
    "INFERENCE_PRECISION_HINT": args.precision,
    # 8 bits unless it is told.
    "KV_CACHE_PRECISION": args.precision,
    "PERFORMANCE_HINT": "LATENCY",
}
compiled = core.compile_model(model, "CPU", hints)


class Context:
    """Tokens that were read; keys and values are the request's state."""

    def __init__(self):
        self.done = 0
        self.request = compiled.create_infer_request()

    def forward(self, ids):
        total = self.done + len(ids)
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self.done, total, dtype=np.int64)[None],
        }
        self.request.infer(feeds, share_inputs=True, share_outputs=True)
        assert self.request.get_tensor("logits").shape[1] == 1, "logits of the last token only"
        self.done = total


common.measure(args, Context)
