"""What is asked of which judge, and the name of the column that results."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checks import require_choice, require_number
from ...endpoints import Endpoint
from ...errors import InputError
from ..manifest import digest_of_texts
from ..pacing import MAX_FAILED
from .pictures import ENCODINGS, RESIZES
from .prompts import Prompts

DEFAULT_RESIZE = {"gedit": "output-to-source", "imgedit": "native"}
PROTOCOLS = tuple(DEFAULT_RESIZE)
ORDERS = ("text-first", "images-first")
PARAMETERS: Mapping[str, Any] = {"temperature": 0, "seed": 42, "max_tokens": 1400}
_RESERVED = {"model", "messages", "stream", "n"}


@dataclass(frozen=True)
class JudgeOptions:
    """How results are judged. Raises InputError.

    Attributes:
        url: of an OpenAI-compatible server, as in "http://localhost:8000/v1".
        model: its name for the judge; prefer a dated snapshot to an alias, which drifts.
        protocol: "gedit" (SC, PQ, O from 0 to 10) or "imgedit" (three criteria from 1 to 5).
        prompts: checkout of the benchmark, or the file of its prompts; None is our own rubric,
            whose scores are not comparable with published ones.
        resize: what the judge sees, one of RESIZES; None is what the benchmark's script does.
        encoding: "png"; "jpeg75" only to repeat old tables.
        order: "text-first" as the vendors' scripts; "images-first" as the script for Qwen.
        repeat: times every question is asked, with the seeds that follow each other.
        parameters: added to PARAMETERS in the request; None takes one out, which some servers
            refuse.
        key_variable: environment variable that holds the API key; None sends none.
        threads: requests at a time. timeout: seconds per request. retries: further tries after
            429, 5xx and timeouts. backoff: seconds before the first of them; it doubles.
        max_failed: share of failed items above which judging stops, 0 to 1.
        reuse: folders of other runs whose answers to the same questions serve.
    """

    url: str
    model: str
    protocol: str = "gedit"
    prompts: Path | None = None
    resize: str | None = None
    encoding: str = "png"
    order: str = "text-first"
    repeat: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    key_variable: str | None = None
    threads: int = 8
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    max_failed: float = MAX_FAILED
    reuse: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("url", "model"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise InputError(f"the judge's {name} is {value!r}; give it as text")
        if not isinstance(self.key_variable or "", str):
            raise InputError(f"key_variable is {self.key_variable!r}; name a variable")
        if not isinstance(self.parameters, Mapping):
            raise InputError(f"parameters is {self.parameters!r}; give names and values")
        require_choice("protocol", self.protocol, PROTOCOLS)
        require_choice("resize", self.resize or "native", RESIZES)
        require_choice("encoding", self.encoding, ENCODINGS)
        require_choice("order", self.order, ORDERS)
        require_number("repeat", self.repeat, 1, 100, whole=True)
        require_number("threads", self.threads, 1, 256, whole=True)
        require_number("timeout", self.timeout, 0.01, 3600)
        require_number("retries", self.retries, 0, 100, whole=True)
        require_number("backoff", self.backoff, 0, 600)
        require_number("max_failed", self.max_failed, 0, 1)
        if taken := sorted(_RESERVED & set(self.parameters)):
            raise InputError(f"judge parameter {taken[0]!r} is not free; leave it out")
        try:
            json.dumps(dict(self.parameters), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"judge parameters are no JSON: {error}; use plain values") from error

    def endpoint(self) -> Endpoint:
        """The judge's server. Raises InputError for a bad address or a missing key."""
        tries = {"timeout": self.timeout, "retries": self.retries, "backoff": self.backoff}
        return Endpoint.at(self.url, self.key_variable, "the judge", **tries)

    def request(self, repeat: int = 0) -> dict[str, Any]:
        """Parameters of a request besides model and messages."""
        merged = {**PARAMETERS, **self.parameters}
        found = {name: value for name, value in merged.items() if value is not None}
        if isinstance(seed := found.get("seed"), int):
            found["seed"] = seed + repeat
        return found


@dataclass(frozen=True)
class Column:
    """One way of judging; two that differ never share a column of a table."""

    options: JudgeOptions
    prompts: Prompts

    @property
    def resize(self) -> str:
        """One of RESIZES."""
        return self.options.resize or DEFAULT_RESIZE[self.options.protocol]

    def described(self) -> dict[str, Any]:
        """All that decides the scores, as plain data."""
        options = self.options
        return {
            "protocol": options.protocol,
            "model": options.model,
            "rubric": self.prompts.rubric,
            "prompts": self.prompts.digest,
            "resize": self.resize,
            "encoding": options.encoding,
            "order": options.order,
            "parameters": options.request(),
            "repeat": options.repeat,
        }

    @property
    def id(self) -> str:
        """Short fingerprint of `described`."""
        return digest_of_texts([json.dumps(self.described(), sort_keys=True)])

    def metric(self, criterion: str, returned: str) -> str:
        """Name of a metric, given the model that the server says has answered."""
        options, parts = self.options, []
        if options.encoding != "png":
            parts.append(options.encoding)
        if options.order != "text-first":
            parts.append(options.order)
        if options.request() != PARAMETERS:
            stated = json.dumps(options.request(), sort_keys=True)
            parts.append(f"settings-{digest_of_texts([stated])[:8]}")
        if options.repeat > 1:
            parts.append(f"mean-of-{options.repeat}")
        judge = re.sub(r"[^a-z0-9.+_-]+", "_", returned.lower())
        rubric = f"{self.prompts.rubric}-{self.prompts.digest[:8]}"
        return "/".join((options.protocol, criterion, judge, rubric, self.resize, *parts))
