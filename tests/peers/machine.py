"""What kind of machine this is, as Linux tells."""

from pathlib import Path

# Instructions that matter to products of matrices.
FLAGS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8"]
FLAGS += ["asimd", "asimddp", "i8mm", "bf16", "sve"]


def facts():
    """Its processor, caches and memory, in a sentence."""
    lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    cpu = {key.strip(): value.strip() for key, value in reversed(lines)}
    cores = sum(key.strip() == "processor" for key, _ in lines)
    flags = (cpu.get("flags") or cpu.get("Features", "")).split()
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    family = ", ".join(f"{key} {cpu[key]}" for key in ("cpu family", "model") if key in cpu)
    name = cpu.get("model name", "unknown processor")
    return (
        f"{cores} cores of {name} ({family}; {' '.join(flag for flag in FLAGS if flag in flags)}; "
        f"{', '.join(caches())}), {memory:.0f} GiB of memory"
    )


def caches():
    """The caches of the first core: level, size."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            yield f"L{(index / 'level').read_text().strip()} {(index / 'size').read_text().strip()}"
