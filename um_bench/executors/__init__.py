"""Where jobs run: here, in several processes, on a cluster. Any function of this shape may say."""

from um_bench.executors.crew import processes
from um_bench.executors.here import local
from um_bench.executors.nodes import cluster
from um_bench.executors.work import Executor, Memory, Work

__all__ = ["Executor", "Memory", "Work", "cluster", "local", "processes"]
