"""How far weights of 8 and 4 bits take a model from itself: llamac's formats beside llama.cpp's, by the same judge.

Usage: accuracy.py LLAMAC WORK [--write FILE]

The story model's weights, as llama-quantize stores them, are read back into a checkpoint in f32 with the gguf package.
llamac scores held-out stories, line by line, with it and with its own formats, against the original, everything
computed in f32, so that weights alone differ. Once more with activations of 8 bits: llamac's by llamac, llama.cpp's by
its own perplexity tool, which scores the second halves of windows of 512 tokens over the ends of stories; so those two
columns are on different tokens, and llamac's formats are in both ways.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import tables
from installed import HERE, Installed, done

STORIES = HERE.parents[1] / "fixtures" / "stories"
TEXT = STORIES / "heldout.txt"
# llama.cpp keeps some matrices wider unless it is told not to.
KINDS = [("Q8_0", []), ("Q4_0", []), ("Q4_0", ["--pure"]), ("Q4_1", []), ("Q4_1", ["--pure"])]
FORMATS = ["q8", "q4", "q4,embed_tokens=q4,lm_head=q4", "q4a", "q4a,embed_tokens=q4a,lm_head=q4a"]
WINDOW = 512


class Judge:
    """Scores models against the story model."""

    def __init__(self, llamac, installed):
        self.llamac, self.programs = llamac, installed.llama_cpp()
        self.folder, self.log = installed.work / "accuracy", installed.work / "accuracy.log"
        self.folder.mkdir(exist_ok=True)
        self.original = self.compiled("original", "f32")

    def compiled(self, name, weights):
        """The story model as llamac stores it."""
        path = self.folder / f"{name}.llamac"
        path.unlink(missing_ok=True)
        done([self.llamac, "compile", STORIES, "--weights", weights, "-o", path, "-q"], self.log)
        return path

    def scored(self, model, compute, *how):
        """llamac's scores, of lines or windows."""
        options = ["--against", self.original, "--compute", compute, "--json", "-q", *how]
        command = [self.llamac, "perplexity", model, TEXT, *options]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["against"]

    def columns(self, model):
        """Scores of a model's weights."""
        lines = self.scored(model, "f32", "--lines")
        windows = self.scored(model, "f32", "--context", str(WINDOW))
        agreement = f"{100 * lines['top1_agreement']:.2f} %"
        divergences = [f"{scores['kl_divergence']:.3g}" for scores in (lines, windows)]
        return [f"{lines['perplexity_ratio']:.5f}", agreement, *divergences]

    def own(self, weights):
        """The row of a format of llamac's."""
        model = self.compiled("own", weights)
        command = [self.llamac, "inspect", model, "--json"]
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        matrices = [entry for entry in report["weights"] if entry["dtype"] != "f32"]
        bits = 8 * sum(entry["bytes"] for entry in matrices) / sum(entry["elements"] for entry in matrices)
        narrow = self.scored(model, "auto", "--context", str(WINDOW))["kl_divergence"]
        return [f"llamac `{weights}`", f"{bits:.2f}", *self.columns(model), f"{narrow:.3g}"]

    def theirs(self, kind, options):
        """The row of a format of llama.cpp's."""
        import checkpoints
        import gguf_files

        path = self.folder / f"{kind}{''.join(options)}.gguf"
        done([self.programs / "llama-quantize", *options, self.wide(), path, kind, "2"], self.log)
        config = checkpoints.config_of(STORIES)
        names = [name for name, _ in checkpoints.tensors_of(STORIES)]
        tensors, bits = gguf_files.read(path, names, config)
        back = self.folder / "back"
        checkpoints.write(back, config, tensors)
        for name in ["tokenizer.json", "tokenizer_config.json"]:
            (back / name).write_bytes((STORIES / name).read_bytes())
        label = " ".join([kind.lower(), *options])
        return [f"llama.cpp `{label}`", f"{bits:.2f}", *self.columns(back), self.by_itself(path)]

    def wide(self):
        """The story model in GGUF in f32."""
        path = self.folder / "F32.gguf"
        if not path.exists():
            done([sys.executable, HERE / "gguf_files.py", STORIES, path], self.log)
        return path

    def by_itself(self, model):
        """The divergence that llama.cpp's own tool finds."""
        base = self.folder / "F32.logits"
        command = [self.programs / "llama-perplexity", "-f", TEXT, "-c", str(WINDOW), "-t", "2"]
        if not base.exists():
            done([*command, "--kl-divergence-base", base, "-m", self.wide()], self.log)
        command += ["--kl-divergence-base", base, "--kl-divergence", "-m", model]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self.log.open("a") as log:
            log.write(result.stdout)
        found = re.search(r"Mean\s+KLD:\s+([0-9.e+-]+)", result.stdout)
        if result.returncode != 0 or not found:
            return f"not measured: it ended with {result.returncode}"
        return f"{float(found[1]):.3g}"


def main():
    """Prints the table, and writes it where it is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llamac", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    installed = Installed(args.work.resolve())
    if Path(sys.prefix) != installed.work / "venv":
        python = installed.python()
        os.execv(python, [python, *sys.argv])
    judge = Judge(args.llamac.resolve(), installed)
    rows = [judge.own(weights) for weights in FORMATS] + [judge.theirs(*kind) for kind in KINDS]
    rows.sort(key=lambda row: -float(row[1]))
    head = ["weights", "bits a number", "perplexity to f32's", "same likeliest token", "KL divergence, lines"]
    text = tables.table([*head, "windows", "with 8-bit activations"], rows)
    print(text, end="")
    if args.write:
        tables.write(args.write, "accuracy", text)


if __name__ == "__main__":
    main()
