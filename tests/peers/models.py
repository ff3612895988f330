"""The same weights for everybody: a random checkpoint in bf16, and what each program reads of it, made when needed."""

import json
import subprocess

from installed import HERE, NotMeasured, done

SHAPES = {"smollm": "smollm-135m", "tinyllama": "tinyllama-1.1b"}


class Models:
    """Models under `work`."""

    def __init__(self, installed, llamac):
        self.installed, self.llamac = installed, llamac
        self.folder = installed.work / "models"
        self.log = installed.work / "models.log"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.new = set()

    def made(self, name, make):
        """A file or folder that `make(path)` writes, under another name until it is whole."""
        path = self.folder / name
        if not path.exists():
            part = self.folder / f"part-{name}"
            subprocess.run(["rm", "-rf", part], check=True)
            make(part)
            part.rename(path)
        return path

    def checkpoint(self, shape):
        """A checkpoint whose context has room for all that is measured."""
        script = HERE.parents[1] / "fixtures" / "scripts" / "random_checkpoint.py"

        def make(path):
            done([self.installed.python(), script, SHAPES[shape], path, "--dtype", "bf16"], self.log)
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))

        return self.made(f"{shape}-checkpoint", make)

    def compiled(self, shape, target, weights):
        """What llamac compiles: `native`, or ONNX that gives the logits of the last token, with activations as narrow
        as llamac's. Anew in each run of this script: the command may be another than the last time."""
        path = self.folder / f"{shape}-{target}-{weights}"
        if path not in self.new:
            subprocess.run(["rm", "-rf", path], check=True)
            command = [self.llamac, "compile", self.checkpoint(shape), "--target", target, "--weights", weights]
            logits = [] if target == "native" else ["--logits", "last"]
            done([*command, *logits, "-o", path, "-q"], self.log)
            if target == "onnx-ort" and weights in ("q8", "q4"):
                narrow = HERE / "workers" / "narrow_activations.py"
                done([self.installed.python(), narrow, path], self.log)
            self.new.add(path)
        return path

    def gguf(self, shape, kind):
        """A file of GGUF: F32, or what llama-quantize makes of that."""
        if kind == "F32":
            source = self.checkpoint(shape)
            command = [self.installed.python(), HERE / "gguf_files.py", source]
            return self.made(f"{shape}-F32.gguf", lambda path: done([*command, path], self.log))
        quantize, source = self.installed.llama_cpp() / "llama-quantize", self.gguf(shape, "F32")
        path = self.made(f"{shape}-{kind}.gguf", lambda path: done([quantize, source, path, kind, "2"], self.log))
        return path


def size(path):
    """Bytes of a file, or of the weights in a folder."""
    if path.is_file():
        return path.stat().st_size
    weights = [*path.glob("*.safetensors"), *path.glob("*.data"), *path.glob("*.onnx")]
    if not weights:
        raise NotMeasured(f"no weights in {path}")
    return sum(file.stat().st_size for file in weights)
