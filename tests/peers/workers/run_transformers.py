"""Times a checkpoint in transformers with torch."""

import torch
from transformers import AutoModelForCausalLM, DynamicCache

import common

args = common.parse("--precision")
torch.set_num_threads(args.threads)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.precision]
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
model.eval()


class Context:
    """Tokens that were read, and their keys and values."""

    def __init__(self):
        self.cache = DynamicCache(config=model.config)

    def forward(self, ids):
        with torch.inference_mode():
            model(torch.tensor([ids]), past_key_values=self.cache, logits_to_keep=1)


common.measure(args, Context)
