"""What a record is made with: versions, device, platform."""

import datetime
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch

from um_bench.records import Provenance

DISTRIBUTIONS = ("um-bench", "torch", "torchvision", "timm", "pytorch-ood", "numpy", "scikit-learn")


def provenance(device: str, plugins: Iterable[str], *, deterministic: bool) -> Provenance:
    """Return where and with what records are being made.

    Args:
        device: as torch names it.
        plugins: distributions of the adapters and detectors in use.
        deterministic: whether kernels are held to be deterministic.
    """
    versions = {"python": platform.python_version()}
    for name in sorted({*DISTRIBUTIONS, *plugins}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a distribution"
    on_gpu = torch.device(device).type == "cuda"
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
        platform=f"{platform.system()} {platform.machine()}",
        versions=versions,
        deterministic=deterministic or not on_gpu,
    )
