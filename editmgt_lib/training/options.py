"""Options of a stage's loop, of the machinery below it, and of adapters."""

from dataclasses import dataclass

from ..checks import require_choice, require_number
from .optimizers import OptimizerOptions
from .parallel import PARALLEL

PRECISIONS = ("bfloat16", "float32")


@dataclass(frozen=True)
class LoopOptions:
    """Optimization of one stage. Raises InputError.

    Attributes:
        steps: optimizer steps in all, 1 or more.
        batch: samples per step, over all processes, 1 or more.
        optimizer: rates, decay and clipping.
        micro_batch: samples that one process computes at a time; 0 is all of its share. Smaller
            ones save memory and change no result but by rounding.
        warmup, cooldown: steps of linear rise and fall of the learning rate.
        average: decay of the moving average of the weights, 0..1, which is exported.
        gate: stop when the mean loss of 50 logged steps exceeds the lowest such mean by this
            factor; 0 never stops.
        checkpoint_every, sheet_every, validate_every, log_every: steps between saved states,
            pictures, validations and log lines.
        keep_last, keep_every: states to keep: the last so many, and every one whose step is a
            multiple (0: none).
    """

    steps: int
    batch: int
    optimizer: OptimizerOptions
    micro_batch: int = 0
    warmup: int = 100
    cooldown: int = 0
    average: float = 0.999
    gate: float = 0.0
    checkpoint_every: int = 500
    sheet_every: int = 500
    validate_every: int = 500
    log_every: int = 10
    keep_last: int = 2
    keep_every: int = 0

    def __post_init__(self) -> None:
        every = [f"{name}_every" for name in ("checkpoint", "sheet", "validate", "log")]
        for name in ("steps", "batch", "keep_last", *every):
            require_number(name, getattr(self, name), 1, whole=True)
        for name in ("warmup", "cooldown", "micro_batch", "keep_every"):
            require_number(name, getattr(self, name), 0, whole=True)
        require_number("average", self.average, 0, 1)
        require_number("gate", self.gate, 0)

    def schedule(self, step: int) -> float:
        """Factor on the learning rates at a step, 0..1."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1, self.cooldown))
        return min(rise, fall)


@dataclass(frozen=True)
class EngineOptions:
    """How a run is computed: speed and memory, not what is learnt. Raises InputError.

    Attributes:
        precision: of products; weights, optimizer and loss are always float32.
        parallel: "ddp" copies the networks to every process, "fsdp" spreads them.
        recompute: recompute each block's activations in the backward pass instead of keeping them:
            a third more time, a fraction of the memory.
        compiled: run blocks through torch.compile.
        tensorboard: write its files beside the log.
    """

    precision: str = "bfloat16"
    parallel: str = "ddp"
    recompute: bool = False
    compiled: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("parallel", self.parallel, PARALLEL)


@dataclass(frozen=True)
class LoraOptions:
    """Train an adapter instead of the network, see `training.lora`. Raises InputError.

    Attributes:
        rank, alpha: of the added product; its scale is alpha / rank.
        targets: names of layers, their ends, or patterns.
        scope: "both" adapts all image tokens, "reference" those of the picture to edit alone.
        trigger: words that the samples were described with; written into the file.
        start: file of an adapter to continue, which has its own rank, alpha, targets and scope.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v")
    scope: str = "both"
    trigger: str = ""
    start: str = ""

    def __post_init__(self) -> None:
        require_number("rank", self.rank, 1, whole=True)
        require_number("alpha", self.alpha, 1e-6)
