"""Markdown from results: ratios of medians with the range of the rounds' own ratios, goals, what was not measured."""

import statistics

from programs import DEPTHS, NEW, PROMPT, TESTS

SHAPES = {"smollm": "SmolLM-135M", "tinyllama": "TinyLlama-1.1B"}
# What llamac is to reach, as a multiple of the peer's speed: prompt, new tokens, new tokens behind a long context.
LLAMA_CPP = {
    ("smollm", "f32"): (1.7, 1.3, 1.3),
    ("smollm", "bf16"): (1.7, 1.3, 1.3),
    ("smollm", "q8"): (2.5, 1.3, 1.3),
    ("smollm", "q4"): (2.5, 1.3, 1.3),
    ("tinyllama", "f32"): (1.3, 1.0, 1.6),
    ("tinyllama", "bf16"): (1.3, 1.0, 1.6),
    ("tinyllama", "q8"): (2.5, 1.15, 1.6),
    ("tinyllama", "q4"): (2.0, 1.1, 1.6),
}
# Other formats of four bits than the one like llamac's.
MIXED = (1.6, 1.1, 1.6)
OTHERS = {"smollm": (1.3, 1.5, 1.5), "tinyllama": (1.0, 1.0, 1.0)}


def medians(samples):
    """The median of each test."""
    return {test: statistics.median(sample[test] for sample in samples) for test in TESTS}


def goals(entry, name):
    """What is to be reached beside a variant of a peer."""
    if entry["peer"] != "llama.cpp":
        return OTHERS[entry["shape"]]
    return MIXED if "K_M" in name else LLAMA_CPP[entry["shape"], entry["weights"]]


def ratio(entry, name, test, goal):
    """A cell: llamac's speed by the peer's, lowest and highest of a round, both speeds, and the goal if it is missed."""
    own, other = entry["runs"]["llamac"], entry["runs"][name]
    ours, theirs = medians(own)[test], medians(other)[test]
    rounds = [a[test] / b[test] for a, b in zip(own, other)]
    missed = f", **missed: {goal}**" if ours < goal * theirs else ""
    return f"{ours / theirs:.2f} ({min(rounds):.2f}–{max(rounds):.2f}), {ours:.4g} : {theirs:.4g}{missed}"


def table(head, rows):
    """Rows of cells as a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def ordered(results):
    """By shape and peer as they are listed, by format from wide to narrow."""
    formats = ["f32", "bf16", "q8", "q4"]
    peers = list(dict.fromkeys(entry["peer"] for entry in results))
    key = lambda entry: (entry["shape"], peers.index(entry["peer"]), formats.index(entry["weights"]))
    return sorted(results, key=key)


def beside(results, shape):
    """llamac beside its peers on one shape."""
    rows = []
    for entry in results:
        for name in entry["runs"]:
            if entry["shape"] == shape and name != "llamac" and "llamac" in entry["runs"]:
                cells = [ratio(entry, name, *pair) for pair in zip(TESTS, goals(entry, name))]
                sizes = [f"{entry['bytes'][one] / 1e6:.0f}" for one in ("llamac", name)]
                rows.append([name, f"{entry['weights']}, {' : '.join(sizes)} MB", *cells])
    tests = [f"prompt of {PROMPT}", *(f"{NEW} tokens behind {depth}" for depth in DEPTHS)]
    head = ["peer", "llamac's weights, sizes", *tests]
    return f"\n### {SHAPES[shape]}'s shape\n\n{table(head, rows)}" if rows else ""


def limits(results):
    """llamac's fractions of the machine's limits in these runs."""
    rows = []
    for shape in SHAPES:
        for weights in ["f32", "bf16", "q8", "q4"]:
            entries = [entry for entry in results if (entry["shape"], entry["weights"]) == (shape, weights)]
            samples = [sample for entry in entries for sample in entry["runs"].get("llamac", [])]
            if samples:
                median = lambda value: statistics.median(value(sample) for sample in samples)
                fractions = [f"{100 * median(lambda s: s['fractions'][test]):.0f} %" for test in TESTS]
                read = f"{median(lambda s: s['limits']['read_gb_s']):.1f} GB/s"
                rows.append([SHAPES[shape], weights, *fractions, read, len(samples)])
    head = ["shape", "weights", f"prompt of {PROMPT}", *(f"behind {depth}" for depth in DEPTHS), "reading", "runs"]
    about = "What llamac reaches of what it measures beside each run (`llamac bench`): medians of all its runs above."
    return f"\n### Of the machine's limits\n\n{about}\n\n{table(head, rows)}" if rows else ""


def refused(results):
    """What was not measured, and why."""
    reasons = {}
    for entry in results:
        for name, reason in entry["refused"].items():
            reasons.setdefault((name, reason), []).append(f"{SHAPES[entry['shape']]} {entry['weights']}")
    lines = [f"- {name} ({', '.join(where)}): {reason}\n" for (name, reason), where in reasons.items()]
    return f"\n### Not measured\n\n{''.join(lines)}" if lines else ""


def speeds(results):
    """All tables of speeds."""
    results = ordered(results)
    run = [entry for entry in results if entry["runs"]]
    about = {}
    for entry in run:
        facts = f"{entry['machine']}; {entry['threads']} threads"
        facts += f", under `{entry['before']}`" if entry["before"] else ""
        about.setdefault(facts, set()).add(entry["date"])
    text = "".join(f"On {facts}; {', '.join(sorted(dates))}.\n" for facts, dates in about.items())
    counts = sorted({len(samples) for entry in run for samples in entry["runs"].values()})
    text += f"Rounds of a contest: {', '.join(map(str, counts))}.\n"
    return text + "".join(beside(run, shape) for shape in SHAPES) + limits(run) + refused(results)


def write(path, name, text):
    """Puts text between the marks `<!-- NAME -->` and `<!-- /NAME -->` of a file."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, rest = path.read_text().split(begin)
    path.write_text(before + begin + text + end + rest.split(end)[1])
