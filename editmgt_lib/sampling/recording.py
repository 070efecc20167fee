"""Steps recorded as a CUDA graph: one launch where there are more than a thousand.

Exact: the kernels of a step run again, on inputs copied to where they lay when it was recorded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .predictor import Look, Predictor


class CudaGraph:
    """Records the kernels of a call; `result` stays where it is and changes with every replay."""

    def __init__(self, call: Callable[[], Any]) -> None:
        if not torch.cuda.is_available():
            raise InputError("steps can be recorded on a CUDA device only; do without")
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.result = call()

    def replay(self) -> None:
        """Run the kernels again."""
        self._graph.replay()


class Recorded(NamedTuple):
    """A graph and its inputs: token ids, and the modulations of one timestep."""

    graph: CudaGraph
    ids: Tensor
    modulations: Tensor


class RecordingPredictor(Predictor):
    """A `Predictor` that records its steps at the second call, with and without guidance, each.

    What a call returns is overwritten by the next one.
    """

    graph = CudaGraph

    def __init__(self, *args, **named) -> None:
        super().__init__(*args, **named)
        self.timesteps = self.conditioning.timesteps()
        self.recorded: dict[bool, Recorded | None] = {}

    def look(self, ids: Tensor, step: int) -> Look:
        """As the base."""
        guided = self.options.guided_at(step)
        if guided not in self.recorded:
            self.recorded[guided] = None  # this one compiles and picks kernels, as no graph can
            return super().look(ids, step)
        recorded = self.recorded[guided] or self._record(ids, step)
        self.recorded[guided] = recorded
        recorded.ids.copy_(ids)
        recorded.modulations.copy_(self.timesteps[step])
        recorded.graph.replay()
        return recorded.graph.result

    def _record(self, ids: Tensor, step: int) -> Recorded:
        ids, modulations = ids.clone(), self.timesteps[step].clone()
        now, guided = self.conditioning.at(modulations), self.options.guided_at(step)
        graph = self.graph(lambda: self.looked(self.run(ids, 0, now, guided)))
        return Recorded(graph, ids, modulations)
