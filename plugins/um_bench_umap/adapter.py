"""The adapter `umap`: learn which weights to keep, with UM's loss, over frozen weights."""

from dataclasses import dataclass

from torch import nn

from um_bench.adapters import Loader, Plan
from um_bench.errors import UsageError
from um_bench_um import UM
from um_bench_um.masks import LearnedMask, bake, check_keep, mask_weights


@dataclass(frozen=True, kw_only=True)
class UMAP(UM):
    """Train a mask over every convolution and linear weight; the weights stay frozen.

    The classifier that comes out has the mask multiplied in. The one before is not lost: its
    weights lie below the mask unchanged (`um_bench_um.masks.unmask`), and its BatchNorm buffers
    in the base checkpoint.
    """

    keep: float = 0.8
    """Share of weights that the mask keeps (the authors' `prune_rate`, which is a keep rate)."""
    scope: str = "layer"
    """`layer`: every layer keeps this share; `model`: all layers together do."""
    subject: str = "scores"
    """What is ranked: learned `scores`, or the weights' own `magnitude`."""
    train_weights: bool = False
    """Train the weights too; the original classifier is then lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_keep(self.keep)
        if self.subject == "magnitude" and not self.train_weights:
            raise UsageError(
                "umap with subject=magnitude and frozen weights has nothing to train; add "
                "train_weights=true or take subject=scores"
            )

    def prepare(self, model: nn.Module, train: Loader) -> Plan:
        """Estimate the constraint, put masks on, and train their scores."""
        plan = super().prepare(model, train)
        model.requires_grad_(self.train_weights)
        mask_weights(model, self.keep, subject=self.subject, scope=self.scope)
        learned = [m for m in model.modules() if isinstance(m, LearnedMask)]
        notes = {**plan.notes, "masked_layers": float(len(learned))}
        return Plan(model=model, id_loss=plan.id_loss, finish=bake, notes=notes)
