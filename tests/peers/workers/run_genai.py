"""Times a directory of ONNX in onnxruntime-genai, which keeps one buffer for past and present. Its tokens are its own
choice, the likeliest; choosing is a part of a forward."""

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

import common

args = common.parse()
path = Path(args.model) / "genai_config.json"
config = json.loads(path.read_text())
config["search"]["past_present_share_buffer"] = True
config["model"]["decoder"].setdefault("session_options", {})["intra_op_num_threads"] = args.threads
path.write_text(json.dumps(config))
MODEL = genai.Model(args.model)


class Context:
    """Tokens that were read or generated."""

    def __init__(self):
        parameters = genai.GeneratorParams(MODEL)
        length = max([args.prompt, *(depth + args.new + 2 for depth in args.depths)])
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        self.generator = genai.Generator(MODEL, parameters)
        self.started = False

    def forward(self, ids):
        if len(ids) > 1 or not self.started:
            self.generator.append_tokens(np.array(ids, np.int32))
            self.started = True
        else:
            self.generator.generate_next_token()


common.measure(args, Context)
