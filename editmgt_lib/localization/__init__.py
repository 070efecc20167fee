"""Where an instruction acts: relevance maps read off the attention, and their filters."""

from .maps import Localization, LocalizationOptions

__all__ = ["Localization", "LocalizationOptions"]
