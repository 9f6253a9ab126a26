"""What a record is made with: versions, device, platform."""

import datetime
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch

from um_bench import distributed
from um_bench.records import Provenance

TINY = 16
"""Pixels: images up to this size are computed on one thread."""
DISTRIBUTIONS = ("um-bench", "torch", "torchvision", "timm", "pytorch-ood", "numpy", "scikit-learn")


def threads_for(size: int) -> int:
    """Return on how many threads of the CPU images of this size are computed.

    Measured with ResNet-20 on 8x8 pixels, 2 cores: a second thread gains 15 % while both cores are
    free, and makes training 40 times slower while one is not, because threads wait by spinning.
    """
    return 1 if size <= TINY else torch.get_num_threads()


def provenance(
    device: str, plugins: Iterable[str], *, deterministic: bool, threads: int
) -> Provenance:
    """Return where and with what records are being made.

    Args:
        device: as torch names it.
        plugins: distributions of the adapters and detectors in use.
        deterministic: whether kernels are held to be deterministic.
        threads: of torch on the CPU.
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
        threads=threads,
        processes=distributed.team().size,
    )
