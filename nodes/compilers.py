"""What `torch.compile` needs, by device."""

import importlib.util
import shutil

CPP = ("g++", "clang++", "c++", "cl")


def missing_compiler(device: str) -> str:
    """What torch's own compiler lacks on this type of device; empty if nothing."""
    if device == "cpu":
        return "" if any(map(shutil.which, CPP)) else "a C++ compiler (g++, clang++ or cl)"
    if device == "mps" or importlib.util.find_spec("triton"):
        return ""
    return "the Python package triton"
