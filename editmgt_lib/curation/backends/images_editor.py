"""An editor behind an OpenAI-compatible images/edits endpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...checks import require_number
from ...endpoints import Endpoint, Reply
from ...endpoints.pictures import encoded
from ...errors import InputError
from ..rows import Unavailable
from ..terms import Terms
from .asking import CODES
from .base import Edited, NoAnswer, Pixels, Size
from .multipart import form
from .results import decoded, edited
from .sizes import Sizing, place

_PATH = "/images/edits"
_LARGEST = 1 << 26  # bytes of an answer
_OWN = {"image", "prompt", "model", "n", "size", "seed"}


@dataclass(frozen=True)
class ImagesOptions:
    """url: as in "http://localhost:8000/v1". model: the server's name for it. Raises InputError.

    sizing: what it takes; hosted models have a few `sizes`. send_size, send_seed: whether the
    server knows these fields; OpenAI's has no seed. parameters: further fields. revision: recorded.
    """

    url: str
    model: str
    sizing: Sizing = Sizing(sizes=((1024, 1024), (1536, 1024), (1024, 1536)))
    revision: str = ""
    key_variable: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    send_size: bool = True
    send_seed: bool = False
    timeout: float = 300.0
    retries: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        for name in ("url", "model"):
            if not isinstance(value := getattr(self, name), str) or not value:
                raise InputError(f"{name} is {value!r}; give it as text")
        if not isinstance(self.parameters, Mapping):
            raise InputError(f"parameters is {self.parameters!r}; give names and values")
        if taken := _OWN & set(self.parameters):
            raise InputError(f"parameter {min(taken)!r} is not free; leave it out")
        require_number("timeout", self.timeout, 0.01, 3600)
        require_number("retries", self.retries, 0, 100, whole=True)
        require_number("backoff", self.backoff, 0, 600)


class ImagesEditor:
    """Sends the picture; takes the result from the answer itself, never from an address in it."""

    def __init__(self, name: str, options: ImagesOptions, terms: Terms | None = None) -> None:
        self.name, self.options = name, options
        self.terms, self.sizing = terms or Terms(), options.sizing
        self.revision = options.revision or options.model

    def check(self) -> None:
        """Raise InputError for an absent server or a bad key."""
        self._endpoint.probe()

    def describe(self) -> dict[str, Any]:
        """Model and parameters."""
        options = self.options
        return {
            "kind": "openai-images", "model": options.model, "revision": options.revision,
            "parameters": dict(options.parameters), "seeded": options.send_seed,
        }  # fmt: skip

    def edit(self, pixels: Pixels, instruction: str, seed: int, size: Size | None = None) -> Edited:
        """See `Editor`."""
        options = self.options
        placed = place((pixels.shape[1], pixels.shape[0]), self.sizing)
        fields = {"model": options.model, "prompt": instruction, "n": "1"}
        if options.send_size:
            fields["size"] = f"{placed.canvas[0]}x{placed.canvas[1]}"
        if options.send_seed:
            fields["seed"] = str(seed)
        fields |= {name: str(value) for name, value in options.parameters.items()}
        body, kind = form(fields, {"image": ("picture.png", encoded(placed.put(pixels)))})
        try:
            reply = self._endpoint.send(body, kind)
        except InputError as error:
            raise Unavailable(str(error)) from error
        if reply.kind != "ok":
            code, lasting = CODES[reply.kind]
            raise NoAnswer(code, f"{self.name}: {reply.reason}", lasting)
        facts = {
            "seed": seed, "seeded": options.send_seed, "tries": reply.tries,
            "seconds": reply.seconds, "usage": dict(reply.usage),
        }  # fmt: skip
        return edited(placed, decoded(reply.text, self.name), size, self.name, **facts)

    @cached_property
    def _endpoint(self) -> Endpoint:
        options = self.options
        return Endpoint.at(
            options.url, options.key_variable, f"editor {self.name!r}", _PATH,
            timeout=options.timeout, retries=options.retries, backoff=options.backoff,
            read=_read, largest=_LARGEST,
        )  # fmt: skip


def _read(text: str) -> Reply:
    """The picture in base64 as the reply's text."""
    try:
        content = json.loads(text)
        picture = content["data"][0]["b64_json"]
        usage = content.get("usage")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason = "the answer holds no b64_json; pictures at addresses are not fetched"
        return Reply("malformed", f"{reason}: {text[:100]!r}")
    return Reply("ok", text=str(picture), usage=usage if isinstance(usage, dict) else {})
