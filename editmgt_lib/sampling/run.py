"""One run of the network on pictures that go through it together: a map, or new tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..localization.maps import Localization, LocalizationOptions
from ..models.transformer import MaskedTransformer
from ..offload import execution_device
from ..pictures.canvas import Tokens
from ..pictures.compositing import project_mask
from ..text.instruction import Instruction
from .loop import Callback, SampleResult, StepEvent, of_item, report, sample_tokens
from .noise import ItemNoise, SharedNoise
from .options import SamplingOptions
from .predictor import Predictor, fitting
from .recording import RecordingPredictor
from .reuse import ReusingPredictor


def one_by_one(tokens: Tokens, instruction: Instruction) -> list[tuple[Tokens, Instruction]]:
    """Split a batch into pictures with their prompts, so that none affects another's rounding."""
    batch = tokens.canvas.batch
    expanded = instruction.expand(batch)
    return [(tokens.item(k), expanded.item(k)) for k in range(batch)]


def on_tokens(
    tokens: Tokens,
    options: SamplingOptions,
    localization: Localization | LocalizationOptions | None,
    region: Tensor | None,
) -> tuple[Localization | LocalizationOptions | None, Tensor | None]:
    """Check what a run is to hold by, and bring a map and a region of pixels to the tokens.

    Raises InputError: there is no picture to hold, or a map or region is of another one.
    """
    if tokens.source_ids is None and (options.threshold > 0 or region is not None):
        raise InputError(
            "threshold and region hold parts of a picture, and there is none here; "
            "use threshold 0 and no region"
        )
    canvas = tokens.canvas
    if isinstance(localization, Localization):
        localization = fitting(localization, canvas.batch, (canvas.rows, canvas.cols))
    return localization, None if region is None else project_mask(region, canvas, required=True)


def joined(maps: Sequence[Localization]) -> Localization:
    """Join maps of single pictures into one of the batch."""
    return replace(maps[0], relevance=torch.cat([m.relevance for m in maps]))


def read_map(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    reading: LocalizationOptions,
    sampling: SamplingOptions,
) -> Localization:
    """Read a map in one forward pass; arguments as `EditMGT.localize`."""
    ids, step = tokens.ids.to(execution_device(transformer)), sampling.steps - 1
    if reading.state == "masked":
        ids, step = torch.full_like(ids, transformer.config.mask_token_id), 0
    conditional = replace(sampling, guidance=1.0)  # the half a map is read from
    return Predictor(transformer, tokens, instruction, conditional, reading).read(ids, step)


def read_maps(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    reading: LocalizationOptions,
    sampling: SamplingOptions,
    callback: Callback | None,
) -> Localization:
    """Read a map picture by picture; arguments as `EditMGT.localize`."""
    items, maps = one_by_one(tokens, instruction), []
    for k, (item, prompt) in enumerate(items):
        maps.append(read_map(transformer, item, prompt, reading, sampling))
        pending = torch.zeros_like(item.ids, dtype=torch.bool)
        report(StepEvent(0, 1, item.ids, item.ids, None, pending, k, len(items)), callback)
    return joined(maps)


def sample_batch(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    options: SamplingOptions,
    localization: Localization | LocalizationOptions | None,
    region: Tensor | None,
    combine: str,
    noise: ItemNoise | SharedNoise | None,
    batched: bool,
    callback: Callback | None,
) -> SampleResult:
    """Sample picture by picture, or all together; arguments as `EditMGT.sample`.

    region: tokens that may change, bool [B, rows, cols]; localization: a map is of the batch.
    """
    seeds = options.seeds(tokens.canvas.batch)
    if batched or noise is not None:
        noise = noise or ItemNoise(seeds, options.draw)
        return _sample(transformer, tokens, instruction, options, localization, region, combine,
                       noise, callback)  # fmt: skip
    results, items = [], one_by_one(tokens, instruction)
    for k, (item, prompt) in enumerate(items):
        hold_by = localization.item(k) if isinstance(localization, Localization) else localization
        results.append(
            _sample(
                transformer, item, prompt, options, hold_by,
                None if region is None else region[k : k + 1], combine,
                ItemNoise(seeds[k : k + 1], options.draw), of_item(callback, k, len(items)),
            )
        )  # fmt: skip
    maps = [r.localization for r in results if r.localization is not None]
    return SampleResult(torch.cat([r.ids for r in results]), joined(maps) if maps else None)


def _sample(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    options: SamplingOptions,
    localization: Localization | LocalizationOptions | None,
    region: Tensor | None,
    combine: str,
    noise: ItemNoise | SharedNoise,
    callback: Callback | None,
) -> SampleResult:
    """Sample pictures that go through the network together."""
    device, mask_id = execution_device(transformer), transformer.config.mask_token_id
    ids, source, never_held = tokens.ids.to(device), None, None
    if tokens.source_ids is not None:
        source, changeable = ids, tokens.canvas.covered.to(device)
        region = None if region is None else region.to(device)
        if region is not None and combine == "union" and options.threshold > 0:
            never_held = region
        elif region is not None:
            changeable = changeable & region
        region = changeable
    hold_by = _hold_by(transformer, tokens, instruction, options, localization)
    kind = RecordingPredictor if transformer.records else Predictor
    kind = kind if options.reuse == "none" else ReusingPredictor
    return sample_tokens(
        kind(transformer, tokens, instruction, options, hold_by),
        torch.full_like(ids, mask_id),
        options=options,
        noise=noise,
        mask_id=mask_id,
        codes=transformer.config.codebook_size,
        source=source,
        region=region,
        never_held=never_held,
        callback=callback,
    )


def _hold_by(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    options: SamplingOptions,
    given: Localization | LocalizationOptions | None,
) -> Localization | LocalizationOptions | None:
    """A map for all steps, options to read one at every step, or None."""
    if given is None:
        return None
    reading = given.options if isinstance(given, Localization) else given
    if options.threshold > 0 and reading.update == "step":
        return reading
    if isinstance(given, Localization):
        return given
    return read_map(transformer, tokens, instruction, given, options)
