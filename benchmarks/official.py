"""The official side in a process of its own, asked and answering in JSON lines over pipes."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file

from .cases import PROMPT, Case

ROOT = Path(__file__).resolve().parents[1]


class OfficialError(RuntimeError):
    """The official process did not start, or died; carries the end of its output."""


class Official:
    """The other side of a comparison, `measure` as in `ours.Ours`; made by `opened`."""

    def __init__(self, process: subprocess.Popen, log: IO[str], folder: Path) -> None:
        self._process, self._log, self._folder = process, log, folder

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one line, wait for one line."""
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise OfficialError("the official process ended:\n" + self._log.read()[-1500:])
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def measure(self, stage: str, **asked: Any) -> dict[str, Any]:
        """Time one stage; `missing` says why there is nothing to time."""
        into = self._folder / "official-ids.safetensors"
        answer = self.ask({"stage": stage, "into": str(into), **asked})
        if into.exists():
            answer["ids"] = load_file(into)["ids"]
            into.unlink()
        return answer


@contextmanager
def opened(
    case: Case,
    folder: Path,
    checkout: Path,
    python: str,
    device: str,
    precision: str,
    negative: str,
) -> Iterator[Official]:
    """Start `official_worker` on a checkpoint folder that also holds `inputs.safetensors`.

    Raises OfficialError with what the process said.
    """
    text = folder if case.text_encoders else ""
    if case.trained:
        text = ROOT / "editmgt_lib" / "toyworld" / "checkpoint"
    hello = {
        "checkout": str(checkout), "folder": str(folder), "precision": precision,
        "inputs": str(folder / "inputs.safetensors"), "text_folder": str(text), "device": device,
        "threads": torch.get_num_threads(), "has_vq": case.official_vq, "side": case.side,
        "factor": case.vq.factor, "stride": case.transformer.stride, "steps": case.steps,
        "codes": case.transformer.codebook_size, "mask_id": case.transformer.mask_token_id,
        "text_length": case.text_length, "guidance": case.guidance, "prompt": PROMPT,
        "negative": negative,
    }  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+", dir=folder) as log:
        process = subprocess.Popen(
            [python, "-m", "benchmarks.official_worker"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        side = Official(process, log, folder)
        try:
            side.ask(hello)
            yield side
        except BaseException:
            process.kill()  # it would go on computing
            raise
        finally:
            side.close()
