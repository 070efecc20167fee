"""The official training step, as its `train/train.py` takes it with the options of `train.sh`.

Runs beside `official_worker`; imports nothing of the library.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F

RATE, DECAY, CLIP = 1e-4, 1e-2, 10.0  # published; Adam's betas are torch's own


class TrainingStep:
    """One step after another on the weights of an `Official`.

    official: the worker, whose networks and inputs are used.
    """

    def __init__(self, official: Any) -> None:
        self.official, self.model = official, official.pipe.transformer
        self.model.train().requires_grad_(True)
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)

    def __call__(self, batch: int, encoders: bool) -> None:
        """Train once; `encoders`: from pictures and prompts."""
        o, side = self.official, self.official.asked["side"]
        with torch.no_grad():
            tokens, reference = (self._tokens(batch, encoders) for _ in range(2))
            ratio = torch.cos(torch.rand(batch, device=tokens.device) * math.pi * 0.5)
            count = (tokens.shape[1] * ratio).round().clamp(min=1)
            order = torch.rand(tokens.shape, device=tokens.device).argsort(dim=-1)
            masked = order < count[:, None]
            ids = torch.where(masked, o.asked["mask_id"], tokens).reshape(batch, side, side)
            labels = torch.where(masked, tokens, -100)
            for _ in range(2):  # it encodes text twice
                states, pooled = self._text(batch, encoders)
        with torch.enable_grad():
            loss = F.cross_entropy(
                self._logits(ids, states, pooled, ratio, reference), labels.view(-1),
                ignore_index=-100,
            )  # fmt: skip
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _tokens(self, batch: int, encoders: bool) -> torch.Tensor:
        o = self.official
        if not encoders:
            return o.inputs["reference"].expand(batch, -1, -1).reshape(batch, -1)
        picture = o.inputs["picture"].expand(batch, -1, -1, -1)
        return o.encode_picture(None, picture, o.pipe.vqvae)

    def _text(self, batch: int, encoders: bool) -> tuple[torch.Tensor, torch.Tensor]:
        o = self.official
        if not encoders:
            return tuple(o.inputs[k].expand(batch, *o.inputs[k].shape[1:])
                         for k in ("states", "pooled"))  # fmt: skip
        return o.encoded([o.asked["prompt"]] * batch)

    def _logits(self, ids, states, pooled, ratio, reference) -> torch.Tensor:
        """Logits [tokens, codes] of every token, masked or not."""
        o, (batch, side, _) = self.official, ids.shape
        grid = o.src.pipeline._prepare_latent_image_ids(side, side, ids.device, ids.dtype)
        pixels = float(side * o.asked["factor"])
        micro = torch.tensor([[pixels, pixels, 0.0, 0.0, 6.0]], device=ids.device)
        logits = self.model(
            hidden_states=ids, encoder_hidden_states=states, pooled_projections=pooled,
            micro_conds=micro.expand(batch, -1), timestep=ratio * 1000,
            img_ids=grid, txt_ids=torch.zeros(states.shape[1], 3).to(ids), reference_image_ids=grid,
            reference_image_hidden_states=reference.reshape(ids.shape), lora_part_enable=True,
        )  # fmt: skip
        return logits.reshape(batch, o.asked["codes"], -1).permute(0, 2, 1).flatten(0, 1)
