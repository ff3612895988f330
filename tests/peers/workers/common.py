"""What the scripts that run a peer have in common: their arguments, the order of what they time, what they print.

Each prints {"pp": tokens a second of a prompt, "tg@DEPTH": tokens a second of new tokens behind DEPTH others}. Every
measurement runs once before it is timed, as `llama-bench` and `llamac bench` do. Tokens are random.
"""

import argparse
import json
import random
import time


def parse(*extra):
    """The arguments that every script takes, and the names of further ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, required=True)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--depths", type=lambda text: [int(n) for n in text.split(",")], required=True)
    for name in extra:
        parser.add_argument(name, required=True)
    return parser.parse_args()


def tokens(count):
    """Random ids that every vocabulary has."""
    return [random.randrange(3, 1000) for _ in range(count)]


def measure(args, start):
    """Times and prints. `start()` makes a context without tokens; its `forward(ids)` ends when there are logits."""
    speeds = {}
    if args.prompt > 0:
        start().forward(tokens(args.prompt))
        speeds["pp"] = timed(start(), [args.prompt])
    for depth in args.depths if args.new > 0 else []:
        context = start()
        # onnxruntime-genai's first new token is the prompt's; it costs no forward.
        for count in [max(depth, 1), 1]:
            context.forward(tokens(count))
        speeds[f"tg@{depth}"] = timed(context, [1] * args.new)
    print(json.dumps(speeds))


def timed(context, counts):
    """Tokens a second of forwards of these numbers of tokens."""
    forwards = [tokens(count) for count in counts]
    begin = time.perf_counter()
    for ids in forwards:
        context.forward(ids)
    return sum(counts) / (time.perf_counter() - begin)
