"""The dialplan, written from the configuration for each flavour of PBX."""

from __future__ import annotations

from .flavours import ABOUT, About, Flavour
from .rendering import Rendered, render

__all__ = ["ABOUT", "About", "Flavour", "Rendered", "render"]
