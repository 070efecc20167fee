"""From tensors to a ready network: checked first, built without memory, cast one by one."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, EditMGTError, OutOfMemory, is_out_of_memory
from .fp8 import dequantise, split_scales

Net = TypeVar("Net", bound=nn.Module)
LISTED = 12


def load_module(
    build: Callable[[], Net],
    state_dict: Mapping[str, Tensor],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    float32: Collection[str] = (),
    widen: bool = True,
    ignore: Iterable[str] = (),
    fill: Callable[[Net], object] | None = None,
    where: str = "the checkpoint",
) -> Net:
    """Build a network on the meta device and give it `state_dict`, strictly.

    build: makes the module; called under `torch.device("meta")`, so it costs no memory.
    dtype: for floating tensors; None keeps what the file has. Other tensors are never cast.
    float32: names of tensors that are float32 whatever `dtype` says.
    ignore: name patterns (`*.position_ids`) of tensors in the file that the network may lack.
    8-bit weights with scales (`fp8`) are multiplied by them; `dtype` None makes them float32.
    widen: False keeps those 8-bit weights, and gives their layers the scales as `row_scale`; for
        layers that multiply by it, which torch's own do not.
    fill: called with the loaded module to compute buffers that no file stores, such as the rotary
        tables of a text encoder.
    where: what the messages call the source, normally its folder.

    Tensors tied in the module need to be in the file once, and stay tied. A tensor that needs no
    change of type or device is used as it is and shares memory with `state_dict`; beyond that about
    one copy of the weights is made. The module comes back in inference mode, no gradients required.

    Raises CheckpointError when the network cannot be built from its config, one that lists missing
    names, surplus names and both shapes of contradicting ones before anything is copied, or names
    what has no value after loading; OutOfMemory when the device is full.
    """
    module = _build(build, where)
    wanted = module.state_dict()
    tied = _tied_names(module)
    weights, scales = split_scales(state_dict, where)
    given = _complete_ties(_without_ignored(weights, wanted, tuple(ignore)), tied)
    _check(wanted, given, where)
    _check_ties(tied, given, where)
    with _room_on(device, where):
        kinds = {n: torch.float32 if n in float32 else dtype for n in wanted}
        kept = {} if widen else scales
        state = {
            n: given[n].to(device)
            if n in kept
            else _converted(given[n], scales.get(n), device, kinds[n])
            for n in wanted
        }
        module.load_state_dict(state, assign=True)
        _attach_scales(module, kept, device)
        _retie(module, tied)
        if fill is not None:
            fill(module)
        _check_filled(module, where)
        module.to(device)
    return module.train(False).requires_grad_(False)


@contextmanager
def _room_on(device: torch.device | str, where: str) -> Iterator[None]:
    """Translate out-of-memory errors into `OutOfMemory` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"no room on {device} for {where}; load with offload 'stages' or 'layers', a smaller "
            "dtype, or on another device"
        ) from error


def _build(build: Callable[[], Net], where: str) -> Net:
    try:
        with torch.device("meta"):
            return build()
    except EditMGTError:
        raise
    except Exception as error:  # a value nobody checked can fail anywhere in the network's code
        raise CheckpointError(
            f"{where}: no network can be built from config.json ({type(error).__name__}: {error}); "
            "use the config saved with the weights"
        ) from error


def _without_ignored(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], ignore: tuple[str, ...]
) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in given.items()
        if name in wanted or not any(fnmatchcase(name, pattern) for pattern in ignore)
    }


def _tied_names(module: nn.Module) -> list[list[str]]:
    """Groups of names under which the module holds one and the same parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _complete_ties(given: dict[str, Tensor], tied: list[list[str]]) -> dict[str, Tensor]:
    """Give every name of a tied group the tensor that the file has under one of them."""
    for names in tied:
        source = next((given[n] for n in names if n in given), None)
        if source is not None:
            given.update({n: source for n in names if n not in given})
    return given


def _attach_scales(
    module: nn.Module, scales: Mapping[str, Tensor], device: torch.device | str
) -> None:
    """Give the layers of 8-bit weights their scales as `row_scale`."""
    for name, scale in scales.items():
        layer = module.get_submodule(name.rpartition(".")[0])
        layer.register_buffer("row_scale", scale.to(device), persistent=False)


def _retie(module: nn.Module, tied: list[list[str]]) -> None:
    # Assigning gives every name a parameter of its own, so the sharing has to be made again.
    for first, *others in tied:
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(first))


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Names, shapes and kinds; everything that is wrong is listed in one error."""
    both = [(n, wanted[n], given[n]) for n in wanted if n in given]
    shapes = [
        f"{n}: config says {list(ours.shape)}, file has {list(theirs.shape)}"
        for n, ours, theirs in both
        if ours.shape != theirs.shape
    ]
    kinds = [
        f"{n}: config says {ours.dtype}, file has {theirs.dtype}"
        for n, ours, theirs in both
        if ours.is_floating_point() != theirs.is_floating_point()
    ]
    problems = [
        _listing("missing tensors", [n for n in wanted if n not in given]),
        _listing("surplus tensors", [n for n in given if n not in wanted]),
        _listing("contradicting shapes", shapes),
        _listing("contradicting types", kinds),
    ]
    if any(problems):
        raise CheckpointError(
            f"{where} does not fit the network that its config describes; "
            "use the config saved with the weights\n" + "\n".join(filter(None, problems))
        )


def _check_ties(tied: list[list[str]], given: Mapping[str, Tensor], where: str) -> None:
    for first, *others in tied:
        for name in others:
            if given[name] is not given[first] and not torch.equal(given[name], given[first]):
                raise CheckpointError(
                    f"{where} has different values for {first} and {name}, which are one tensor in "
                    "the network that its config describes"
                )


def _listing(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    lines = [f"{title} ({len(entries)}):", *(f"  {e}" for e in entries[:LISTED])]
    if len(entries) > LISTED:
        lines.append(f"  and {len(entries) - LISTED} more")
    return "\n".join(lines)


def _converted(
    tensor: Tensor, scale: Tensor | None, device: torch.device | str, dtype: torch.dtype | None
) -> Tensor:
    if scale is not None:  # on the CPU: not every device knows 8-bit numbers
        tensor = dequantise(tensor, scale)
    # Detached, so that freezing the module leaves a caller's own parameters alone.
    kind = dtype if tensor.is_floating_point() else None
    return tensor.detach().to(device=device, dtype=kind or tensor.dtype)


def _check_filled(module: nn.Module, where: str) -> None:
    # Buffers that are not saved are still on the meta device here, unless `fill` computed them.
    tensors = (*module.named_parameters(), *module.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise CheckpointError(
            f"{where} leaves parts of the network without values\n{_listing('empty', empty)}"
        )
