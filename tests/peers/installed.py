"""Installs the peers under a folder: a Python environment, llama.cpp, programs in Rust, each when it is first asked for.

Everything comes from the package registries. Builds have a low priority, so that they disturb nobody.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The source of this package holds that of llama.cpp.
LLAMA_CPP = "llama-cpp-python==0.3.36"
# 6 GB: installed when asked for.
TORCH = ["torch==2.8.0", "transformers==5.23.0"]
TARGETS = ["llama-bench", "llama-quantize", "llama-perplexity"]


class NotMeasured(Exception):
    """Why a peer cannot be measured."""


def done(command, log, **options):
    """Runs a command, its output into a log; what failed is not measured."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        command = ["nice", "-n", "5", *(str(part) for part in command)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, **options).returncode
    if code != 0:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].replace(str(log.parent), "WORK") if lines else "no output"
        raise NotMeasured(f"{Path(command[3]).name} ended with {code}: {last}")


class Installed:
    """What is installed under `work`."""

    def __init__(self, work):
        self.work = work
        self.log = work / "install.log"

    def python(self):
        """Python with the packages of requirements.txt."""
        ready = self.work / "venv" / "ready"
        if not ready.exists():
            done([sys.executable, "-m", "venv", self.work / "venv"], self.log)
            self.pip("-r", HERE / "requirements.txt")
            ready.touch()
        return self.work / "venv" / "bin" / "python"

    def torch(self):
        """Python with torch, too."""
        python = self.python()
        if subprocess.run([python, "-c", "import torch, transformers"], stderr=subprocess.DEVNULL).returncode != 0:
            self.pip(*TORCH)
        return python

    def pip(self, *arguments):
        done([self.work / "venv/bin/python", "-m", "pip", "install", "--quiet", *arguments], self.log)

    def llama_cpp(self):
        """The folder of llama.cpp's programs, built for this processor."""
        build = self.work / "llama.cpp-build"
        programs = build / "bin"
        if not all((programs / target).exists() for target in TARGETS):
            bin = self.python().parent
            source = self.llama_cpp_source()
            options = [
                "-DCMAKE_BUILD_TYPE=Release",
                "-DGGML_NATIVE=ON",
                "-DBUILD_SHARED_LIBS=OFF",
                "-DLLAMA_CURL=OFF",
                "-DLLAMA_OPENSSL=OFF",
                "-DLLAMA_BUILD_TESTS=OFF",
                "-DLLAMA_BUILD_EXAMPLES=OFF",
                "-DLLAMA_BUILD_SERVER=OFF",
                "-DLLAMA_BUILD_APP=OFF",
                f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={HERE / 'tile_config.cmake'}",
                "-G",
                "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={bin / 'ninja'}",
            ]
            done([bin / "cmake", "-S", source, "-B", build, *options], self.log)
            done([bin / "cmake", "--build", build, "-j2", "--target", *TARGETS], self.log)
        return programs

    def llama_cpp_source(self):
        """The folder of llama.cpp's source."""
        folder = self.work / "sdist"
        found = list(folder.glob("*/vendor/llama.cpp"))
        if not found:
            pip = [self.python(), "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python"]
            done([*pip, LLAMA_CPP, "-d", folder], self.log)
            (archive,) = folder.glob("*.tar.gz")
            done(["tar", "-xf", archive, "-C", folder], self.log)
            found = list(folder.glob("*/vendor/llama.cpp"))
        return found[0]

    def crate(self, name):
        """A program of the folder `crates`, built for this processor."""
        target = self.work / "crates-target"
        command = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", name, "--target-dir", target]
        manifest = ["--manifest-path", HERE / "crates" / "Cargo.toml"]
        done([*command, *manifest], self.log, env={**os.environ, "RUSTFLAGS": "-C target-cpu=native"})
        return target / "release" / name
