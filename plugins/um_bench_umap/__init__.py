"""UMAP, "UM Adopts Pruning" (Zhu et al., ICML 2023): UM's loss on a mask over frozen weights."""

from um_bench_umap.adapter import UMAP

__all__ = ["UMAP"]
