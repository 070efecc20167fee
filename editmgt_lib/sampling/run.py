"""One sampling run: from tokens and what to hold by to new tokens."""

import torch
from torch import Tensor

from ..localization.maps import Localization, LocalizationOptions
from ..models.transformer import MaskedTransformer
from ..offload import workplace
from ..pictures.canvas import Tokens
from ..text.instruction import Instruction
from .loop import Callback, SampleResult, sample_tokens
from .noise import ItemNoise, SharedNoise
from .options import SamplingOptions
from .predictor import Predictor
from .reuse import ReusingPredictor


def run_sampling(
    transformer: MaskedTransformer,
    tokens: Tokens,
    instruction: Instruction,
    options: SamplingOptions,
    hold_by: Localization | LocalizationOptions | None,
    noise: ItemNoise | SharedNoise,
    *,
    region: Tensor | None = None,
    combine: str = "intersection",
    callback: Callback | None = None,
) -> SampleResult:
    """Sample the pictures of `tokens` together; arguments as `EditMGT.sample`.

    region: tokens that may change, bool [B, rows, cols].
    """
    device, mask_id = workplace(transformer)[0], transformer.config.mask_token_id
    ids, source, never_held = tokens.ids.to(device), None, None
    if tokens.source_ids is not None:
        source, changeable = ids, tokens.canvas.covered.to(device)
        region = None if region is None else region.to(device)
        if region is not None and combine == "union" and options.threshold > 0:
            never_held = region
        elif region is not None:
            changeable = changeable & region
        region = changeable
    kind = Predictor if options.reuse == "none" else ReusingPredictor
    return sample_tokens(
        kind(transformer, tokens, instruction, options, hold_by),
        torch.full_like(ids, mask_id),
        options=options,
        noise=noise,
        mask_id=mask_id,
        source=source,
        region=region,
        never_held=never_held,
        callback=callback,
    )
