"""`um-bench estimate`: the loss constraint, mask by mask."""

from pathlib import Path
from typing import Any

import click

from um_bench.cli.choice import choose
from um_bench.cli.options import (
    OK,
    data_option,
    device_option,
    reports_errors,
    results_option,
    suite_option,
    with_model_options,
)
from um_bench.errors import UmBenchError


@click.command()
@suite_option
@with_model_options
@click.option(
    "--keep", default=0.965, show_default=True, help="Share of weights that a mask keeps."
)
@click.option("--masks", default=5, show_default=True, help="How many random masks.")
@device_option
@data_option
@results_option
@reports_errors
def estimate(
    suite: str | None,
    keep: float,
    masks: int,
    device: str,
    data_dir: Path,
    results: Path,
    **choices: Any,
) -> int:
    """Estimate the loss constraint of a suite's base classifier: the loss under random masks."""
    chosen = choose(suite, **choices)
    from um_bench.data import Loader
    from um_bench.models import base_model
    from um_bench.sweep import choose_device, open_sets
    from um_bench.training import mean_loss
    from um_bench_um import estimate_constraint

    device = choose_device(device)
    sets = open_sets(chosen.replace(ood=chosen.ood[:1]), data_dir, auxiliary=False)
    if isinstance(sets, UmBenchError):
        raise sets
    for seed in chosen.seeds:
        base = base_model(
            chosen, seed, sets.train, results / "models", device=device, on_epoch=lambda _: None
        )
        train = Loader(
            sets.train,
            batch_size=chosen.recipe.batch_size,
            device=device,
            augmentation=chosen.recipe.augmentation,
            seed=seed,
        )
        model = base.classifier.to(device)
        click.echo(f"seed {seed}: training loss {mean_loss(model, train):.4f} nats")
        found = estimate_constraint(model, train, keep=keep, masks=masks)
        for number, loss in enumerate(found.losses):
            click.echo(f"  mask {number}, keep {keep:g}: {loss:.4f} nats")
        click.echo(f"  constraint: {found.mean:.4f} nats, SD over masks {found.sd:.4f}")
    return OK
