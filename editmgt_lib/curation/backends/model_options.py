"""Which model answers, behind which OpenAI-compatible server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...checks import require_choice, require_number
from ...errors import InputError

STRUCTURES = ("json_schema", "json_object", "none")


@dataclass(frozen=True)
class ModelOptions:
    """A model behind an OpenAI-compatible server. Raises InputError.

    Attributes:
        url: as in "http://localhost:8000/v1". model: the server's name for it.
        revision: recorded, and part of what an answer is kept under.
        key_variable: environment variable with the API key; None sends none.
        parameters: of the request, besides temperature 0; None takes one out.
        structure: how the schema is sent, of STRUCTURES; answers are checked in any case.
        side: longest side of pictures as sent, pixels.
        cache: folder that keeps answers; None keeps none.
        timeout, retries, backoff: as of `Endpoint`.
    """

    url: str
    model: str
    revision: str = ""
    key_variable: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    structure: str = "json_schema"
    side: int = 1024
    cache: str | None = None
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        for name in ("url", "model"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise InputError(f"{name} is {value!r}; give it as text")
        require_choice("structure", self.structure, STRUCTURES)
        require_number("side", self.side, 64, 8192, whole=True)
        require_number("timeout", self.timeout, 0.01, 3600)
        require_number("retries", self.retries, 0, 100, whole=True)
        require_number("backoff", self.backoff, 0, 600)
        if not isinstance(self.parameters, Mapping):
            raise InputError(f"parameters is {self.parameters!r}; give names and values")
        if taken := {"messages", "model", "n", "response_format", "stream"} & set(self.parameters):
            raise InputError(f"parameter {min(taken)!r} is not free; leave it out")
