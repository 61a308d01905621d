"""Imports of libraries without what they import for things that we don't do.

A service that is restarted must be back soon, and small.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["later", "without"]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Who imports these modules meanwhile gets ImportError, and does without them. What is imported already stays."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in names if name not in modules]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del modules[name]


@contextmanager
def later(name: str) -> Iterator[None]:
    """Who imports this module meanwhile gets it when he uses it for the first time. If it is imported already, it stays."""
    if name in sys.modules:
        yield
        return
    module = ModuleType(name)
    vars(module)["__getattr__"] = lambda attribute: getattr(importlib.import_module(name), attribute)
    sys.modules[name] = module
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]
