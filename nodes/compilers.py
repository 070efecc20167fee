"""What `torch.compile` needs, by device."""

import importlib.util
import os
import shutil

CPP = ("g++", "clang++", "c++", "cl")


def missing_compiler(device: str) -> str:
    """What torch's own compiler lacks on this type of device; empty if nothing."""
    if device in ("cuda", "xpu"):
        return "" if importlib.util.find_spec("triton") else "the Python package triton"
    if device == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), *CPP))):
        return "a C++ compiler (g++, clang++ or cl)"
    return ""
