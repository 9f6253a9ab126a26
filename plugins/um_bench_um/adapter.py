"""The adapter `um`: fine-tune the whole classifier with UM's loss."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from um_bench.adapters import Adapter, Loader, Paper, Plan
from um_bench.training import mean_loss
from um_bench_um.constraint import estimate_constraint
from um_bench_um.loss import check_constraint, um_loss
from um_bench_um.masks import check_keep


@dataclass(frozen=True, kw_only=True)
class UM(Adapter):
    """Fine-tune every parameter with |beta * CE - c| + c."""

    sets_id_loss: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Unleashing Mask: Explore the Intrinsic Out-of-Distribution Detection Capability",
        "ICML",
        2023,
        "https://arxiv.org/abs/2306.03715",
    )

    constraint: float | None = None
    """c in nats; None = estimated before training. The authors' one configuration with UM on has
    0.15 for CIFAR-10."""
    estimate_keep: float = 0.965
    """Share of weights that the masks of the estimate keep."""
    estimate_masks: int = 5
    """Random masks of the estimate, seeds 0, 1, ...; mean and SD are in every record."""
    beta: float = 1.0
    """Weight of the cross-entropy before it is compared with c."""

    def __post_init__(self) -> None:
        if self.constraint is not None:
            check_constraint(self.constraint)
        check_keep(self.estimate_keep)

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Estimate the constraint if none is given, and train every parameter.

        The notes have `starting_loss` too: the mean training loss in nats of the classifier as it
        is given. A constraint that is not above it has nothing to forget.
        """
        notes = {**self.constraint_notes(model, train), "starting_loss": mean_loss(model, train)}
        loss = partial(um_loss, constraint=notes["constraint"], beta=self.beta)
        return Plan(model=model, id_loss=loss, notes=notes)

    def constraint_notes(self, model: nn.Module, train: Loader) -> dict[str, float]:
        """Return the constraint in nats and, where it was estimated, its SD over masks."""
        if self.constraint is not None:
            return {"constraint": self.constraint}
        estimate = estimate_constraint(
            model, train, keep=self.estimate_keep, masks=self.estimate_masks
        )
        return {
            "constraint": estimate.mean,
            "constraint_sd": estimate.sd,
            "constraint_masks": float(len(estimate.losses)),
        }
