"""Servers the user names: OpenAI-compatible models and ComfyUI; door to the room.

transport (the network) -> endpoint (retries) -> replies (what was said)
"""

from .endpoint import Endpoint
from .pictures import data_uri, fingerprint
from .replies import KINDS, Reply, is_refusal, unreadable

__all__ = ["KINDS", "Endpoint", "Reply", "data_uri", "fingerprint", "is_refusal", "unreadable"]
