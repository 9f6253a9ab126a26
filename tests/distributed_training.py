"""Nets, sets and plans that one process and two train, and the way to start the two."""

import contextlib
import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from small_net import trained as classifier
from torch import nn

from um_bench import cli, distributed, training
from um_bench.adapters import Adapter, create
from um_bench.data import ImageSet, fingerprint
from um_bench.distributed import ALONE, Team
from um_bench.interim import Interim
from um_bench.suite import Recipe, parse_adapter
from um_bench.training import Adapted, EpochDone, adapt

RECIPE = Recipe(epochs=3, batch_size=9, lr=0.1, augmentation="crop-flip", nesterov=True)
COUNT = 37
"""Four batches of nine, which two processes halve unevenly, and one of a single image."""
CASES = {
    "plain um": "um@constraint=1.07",
    "norm um": "um@constraint=1.0",
    "dropout um": "um@constraint=1.07",
    "plain oe+um": "oe+um@constraint=1.07",
    "norm oe+um": "oe+um@constraint=1.0",
    "dropout oe+um": "oe+um@constraint=1.07",
    "norm energy": "energy",
    "norm umap": "umap",
}
"""A net and an adapter. The constraints are in the midst of the batches' losses: at many steps one
process's part of the batch is above and the other's below."""


def images(*, ood: bool = False) -> ImageSet:
    """Return images of noise with three classes, or outliers."""
    generator = torch.Generator().manual_seed(int(ood))
    pixels = torch.randint(0, 256, (COUNT, 3, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.full((COUNT,), -1) if ood else torch.arange(COUNT) % 3
    return ImageSet("planted", pixels, labels, fingerprint(pixels, labels), classes=3)


class Double(nn.Module):
    """In float64 the sums of one process and of two come to the same; in float32 BatchNorm and a
    few steps make a difference of any size of what rounding begins."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.double()


def net(kind: str) -> nn.Sequential:
    """Return a net: `plain`, with BatchNorm (`norm`), or with Dropout of maps and features."""
    torch.manual_seed(1)
    between: dict[str, list[nn.Module]] = {
        "plain": [nn.ReLU()],
        "norm": [nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
        "dropout": [nn.Dropout(0.3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5)],
    }
    layers = [
        Double(),
        nn.Conv2d(3, 4, 3, stride=2),
        *between[kind],
        nn.Flatten(),
        nn.Linear(16, 3),
    ]
    return nn.Sequential(*layers).double().eval()


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """Let what names no type be float64 within the block: losses of pytorch-ood add up in it."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(
    case: str,
    team: Team = ALONE,
    interim: Interim | None = None,
    on_epoch: EpochDone = lambda _: None,
) -> Adapted:
    """Return what comes of a case."""
    adapter, start, outliers = adapter_of(CASES[case]), net(case.split()[0]), images(ood=True)
    with in_double():
        return adapt(
            *(adapter, start, images(), RECIPE),
            seed=5,
            team=team,
            auxiliary=outliers,
            interim=interim,
            on_epoch=on_epoch,
        )


def adapter_of(label: str) -> Adapter:
    """Return an adapter by its label."""
    return create(parse_adapter(label))


def refusal(label: str, team: Team) -> str:
    """Return why an adapter is not trained by a team."""
    outliers = images(ood=True)
    try:
        adapt(
            adapter_of(label), classifier(), images(), RECIPE, seed=5, team=team, auxiliary=outliers
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def in_two(work: Callable[..., None], *args: object) -> tuple[int | None, ...]:
    """Run a function in two processes, as torchrun does; return their exit codes, first rank first.

    They are forked where that is possible, as a start of torch takes ten times as long as a test.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    team = [context.Process(target=_as, args=(rank, port, work, args)) for rank in (0, 1)]
    with warnings.catch_warnings():
        # From Python 3.12 on, for torch's own threads.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        for process in team:
            process.start()
    for process in team:
        process.join(60)
    codes = tuple(process.exitcode for process in team)
    for process in team:
        process.kill()
    return codes


def _as(rank: int, port: int, work: Callable[..., None], args: tuple[object, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    work(*args)


def write_all(folder: Path) -> None:
    """Write what this process has of every case."""
    team = distributed.join()
    cases = {}
    for case in CASES:
        made = trained(case, team)
        cases[case] = (made.losses, made.model.state_dict(), dict(made.notes))
    refused = {label: refusal(label, team) for label in ("poem", "doe", "loss:VOSReg")}
    torch.save({"cases": cases, "refused": refused}, folder / f"{team.rank}.pt")


def resume(kept: Path, case: str) -> None:
    """Go on with a training that is kept in a file, which the first process alone reads."""
    team = distributed.join()
    interim = Interim(kept) if team.rank == 0 else None
    torch.save(trained(case, team, interim).model.state_dict(), f"{kept}.{team.rank}")


def command(folder: Path, *arguments: str, dies: int | None = None) -> None:
    """Run the command line, and write what it prints.

    Args:
        folder: of what is printed.
        arguments: of `um-bench`.
        dies: a process that ends in its second epoch, without a word.
    """
    if dies == int(os.environ["RANK"]):
        planted = iter((training._train_epoch, lambda *_: os._exit(9)))
        training._train_epoch = lambda *given: next(planted)(*given)
    with (folder / f"{os.environ['RANK']}.txt").open("w") as printed:
        sys.stdout = sys.stderr = printed
        cli.main(arguments)
