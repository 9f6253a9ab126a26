"""Where jobs run: in this process, or in several. An executor is any function of this shape."""

from um_bench.executors.crew import processes
from um_bench.executors.here import local
from um_bench.executors.work import Executor, Memory, Work

__all__ = ["Executor", "Memory", "Work", "local", "processes"]
