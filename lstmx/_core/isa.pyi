"""The instruction set in use."""

from typing import Any

def describe() -> dict[str, Any]: ...
