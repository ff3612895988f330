"""The examples of docs/onnx.md, as they are there: each tells the story that `llamac run` tells.

Usage: examples.py LLAMAC NODE_FOLDER RTEN_TARGET

Examples in Rust are built with what `tests/interop/rten` depends on, in the target folder RTEN_TARGET.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

LLAMAC, NODE, TARGET = (Path(argument).resolve() for argument in sys.argv[1:])
EXAMPLE = re.compile(r"^### ([^\n]+)\n(?:(?!^#)[^\n]*\n)*?```(python|js|rust,ignore)\n(.*?)```", re.M | re.S)
PROMPT = "Mia had a red kite."
SETUP = re.compile(r"^```sh\n(.*?)```", re.M | re.S)


def output(*command, folder):
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def program(language, code, folder):
    """The command that runs an example."""
    if language == "rust,ignore":
        project = shutil.copytree("tests/interop/rten", folder / "rten")
        for file in (project / "Cargo.toml", project / "Cargo.lock"):
            # A name of its own: programs of one name replace each other in the target folder.
            file.write_text(file.read_text().replace("llamac-rten", "llamac-example"))
        (project / "src" / "main.rs").write_text(code)
        manifest = ["--manifest-path", project / "Cargo.toml", "--target-dir", TARGET]
        return ["cargo", "run", "--release", "--locked", "--quiet", *manifest]
    script = folder / ("example.py" if language == "python" else "example.mjs")
    script.write_text(code)
    return [sys.executable if language == "python" else shutil.which("node"), script]


page = Path("docs/onnx.md").read_text()
examples = EXAMPLE.findall(page)
assert len(examples) >= 5, f"{len(examples)} examples"
# Node looks for packages beside the script, and above.
with TemporaryDirectory(dir=NODE) as name:
    folder = Path(name)
    (folder / "fixtures").symlink_to(Path("fixtures").resolve())
    os.environ["PATH"] = f"{LLAMAC.parent}{os.pathsep}{os.environ['PATH']}"
    output("bash", "-euc", SETUP.search(page).group(1), folder=folder)
    story = output(LLAMAC, "run", "fixtures/stories", "-p", PROMPT, "--compute", "f32", folder=folder).strip()
    assert story.startswith(PROMPT) and len(story) > 2 * len(PROMPT), story
    for runtime, language, code in examples:
        found = output(*program(language, code, folder), folder=folder).strip()
        assert story in found, f"{runtime} tells\n{found}\ninstead of\n{story}"
        print(f"the example of {runtime} tells llamac's story")
