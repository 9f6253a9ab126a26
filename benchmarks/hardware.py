"""What the pages of benchmarks call the machine, and how their files are named."""

import os
import platform
import re
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where the pages are."""


def device_name(device: str = "cpu") -> str:
    """Return the name of a GPU, or what the processor is called."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    named = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def described(device: str = "cpu") -> str:
    """Return the name of a GPU, or that of the CPU and how many threads of it torch uses."""
    if device.startswith("cuda"):
        return device_name(device)
    import torch

    return f"{device_name(device)}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def page_of(folder: Path, *words: str) -> Path:
    """Return the file of a page, named by words in small letters. The folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{re.sub(r'[^a-z0-9._]+', '-', '-'.join(words).lower()).strip('-')}.md"
