"""Measures memory and time of compiling and running a checkpoint. Needs python3 on Linux, nothing else.

    python3 tests/memory/measure.py LLAMAC CHECKPOINT WORK [--rounds N] [--prompt N] [--target TARGET]

WORK is a folder on the checkpoint's disk with room for two copies of it; what is written there is removed again.
Compiling and copying (`cp`, all files of the checkpoint; of an export those that were written, and WORK has room for two of it)
take turns; times are medians. `synced` is until the bytes are on the disk, which compiling always waits for; `cp` alone
leaves them to the system. Private memory is RssAnon and RssShmem of /proc/PID/status, sampled every 5 ms while the process
lives; VmHWM, its peak with mapped files, is what the kernel has counted. Exits with 1 if a bound is not held:

    compile: at most 300 MiB private, at most twice the time of copying (both synced)
    run: at most 64 MiB private beside the cache, and mapped pages no more than the artifact has
"""

import argparse
import json
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

MIB = 1 << 20
# The command and its libraries, which are mapped, too.
PROGRAM = 32 * MIB


def status(pid):
    """The sizes in /proc/PID/status, in bytes; none once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def watched(command):
    """Runs a command; its seconds and the peaks of its private memory, mapped pages and VmHWM."""
    peak = {"private": 0, "mapped": 0, "hwm": 0}
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        now = status(process.pid)
        if "RssAnon" in now:
            peak["private"] = max(peak["private"], now["RssAnon"] + now["RssShmem"])
            peak["mapped"] = max(peak["mapped"], now["RssFile"])
            peak["hwm"] = max(peak["hwm"], now["VmHWM"])
        time.sleep(0.005)
    seconds = time.monotonic() - start
    if process.returncode != 0:
        sys.exit(f"{command[0]} failed with {process.returncode}")
    return seconds, peak


def copied(files, folder):
    """Seconds of copying files, and of copying them until they are on the disk."""
    folder.mkdir()
    start = time.monotonic()
    subprocess.run(["cp", *files, folder], check=True)
    seconds = time.monotonic() - start
    subprocess.run(["sync", *folder.iterdir()], check=True)
    synced = time.monotonic() - start
    subprocess.run(["rm", "-r", folder], check=True)
    return seconds, synced


def files_of(folder):
    """The files of a checkpoint or an export."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def cache_bytes(artifact, tokens):
    """Bytes of the cache of a sequence: f32 keys and values of every layer, in blocks of 64 tokens."""
    tokens = (tokens + 63) // 64 * 64
    with artifact.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start, end = header["llamac.plan"]["data_offsets"]
        file.seek(start, 1)
        shape = json.loads(file.read(end - start))["shape"]
    return 2 * 4 * tokens * shape["layers"] * shape["kv_heads"] * shape["head_dim"]


def main():
    """Measures, prints a table and judges it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llamac", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt of a run")
    parser.add_argument("--target", default="native", help="what to compile to; an export is not run")
    args = parser.parse_args()
    exported = args.target != "native"
    files = files_of(args.checkpoint)
    size = sum(path.stat().st_size for path in files)
    artifact, copy = args.work / "measured.llamac", args.work / "measured-copy"
    compiles, copies, syncs, peaks = [], [], [], []
    for _ in range(args.rounds):
        subprocess.run(["rm", "-rf", artifact], check=True)
        command = ["compile", args.checkpoint, "--target", args.target, "-o", artifact, "--quiet"]
        seconds, peak = watched([args.llamac, *command])
        compiles.append(seconds)
        peaks.append(peak)
        seconds, synced = copied(files_of(artifact) if exported else files, copy)
        copies.append(seconds)
        syncs.append(synced)
    private = max(peak["private"] for peak in peaks)
    hwm = max(peak["hwm"] for peak in peaks)
    compiled, synced = statistics.median(compiles), statistics.median(syncs)
    print(f"{args.checkpoint.name}: {size / 1e9:.2f} GB")
    print(f"  copy      {statistics.median(copies):7.1f} s, synced {synced:.1f} s   {[round(s, 1) for s in syncs]}")
    print(f"  compile   {compiled:7.1f} s, {compiled / synced:.2f} of copying   {[round(s, 1) for s in compiles]}")
    print(f"            {private / MIB:7.1f} MiB private, {hwm / MIB:.0f} MiB VmHWM")
    bounds = {
        "private memory of compiling": private <= 300 * MIB,
        "time of compiling": compiled <= 2 * synced,
    }
    bounds |= {} if exported else run(args, artifact)
    subprocess.run(["rm", "-r", artifact], check=True)
    missed = [name for name, held in bounds.items() if not held]
    if missed:
        sys.exit(f"  not held: {', '.join(missed)}")


def run(args, artifact):
    """Measures a run of the artifact; which bounds it holds."""
    new, prompt = 8, ",".join(str(3 + i % 1000) for i in range(args.prompt))
    command = [args.llamac, "run", artifact, "--ids", prompt, "-n", str(new), "--temperature", "0", "--json"]
    seconds, peak = watched(command)
    cache = cache_bytes(artifact, args.prompt + new)
    beside = peak["private"] - cache
    length = artifact.stat().st_size
    print(f"  run       {seconds:7.1f} s, {args.prompt} + {new} tokens, a cache of {cache / MIB:.1f} MiB")
    print(f"            {peak['private'] / MIB:7.1f} MiB private: {beside / MIB:.1f} MiB beside the cache")
    print(f"            {peak['mapped'] / MIB:7.1f} MiB mapped, of an artifact of {length / MIB:.1f} MiB")
    return {
        "private memory of running": beside <= 64 * MIB,
        "mapped pages of running": peak["mapped"] <= length + PROGRAM,
    }


if __name__ == "__main__":
    main()
