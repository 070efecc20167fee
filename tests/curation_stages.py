"""Stages for tests of the executor; worker processes import this module."""

import os
import time
from dataclasses import dataclass
from types import SimpleNamespace

from editmgt_lib.curation.backends.base import Edited, NoAnswer
from editmgt_lib.curation.backends.sizes import Sizing
from editmgt_lib.curation.rows import Failure, Found, Unavailable
from editmgt_lib.curation.terms import Terms


@dataclass(frozen=True)
class Numbered:
    """Scores a row by its key, and does what the key says."""

    name: str = "images"
    batch: int = 1
    settings = {}
    missing = ()

    def __call__(self, rows):
        return [self.one(row.origin.key) for row in rows]

    def one(self, key):
        word = key.split("-")[0]
        if word == "crash":
            os._exit(3)
        if word == "error":
            raise ZeroDivisionError("a defect")
        if word == "nan":
            return Found({"score": float("nan")})
        if word == "down":
            raise Unavailable("the server is gone")
        if word == "refused":
            error = ValueError("no")
            error.failure = Failure("refused", "the model said no", lasting=False)
            raise error
        if word == "slow":
            time.sleep(0.05)
        if word == "picture":
            return Found({"score": 1}, {"made": b"\x89PNG\r\n\x1a\n" + key.encode()})
        if word == "split":
            return Found(parts=tuple(Found({"score": n}, {"made": b"%d" % n}) for n in range(3)))
        return Found({"score": len(key)})


class Aesthetic:
    """A scorer that counts its calls."""

    name, gives = "mean", ("aesthetic",)

    def __init__(self):
        self.calls = 0

    def check(self):
        pass

    def describe(self):
        return {"version": 1}

    def score(self, pixels):
        self.calls += 1
        return SimpleNamespace(values={"aesthetic": float(pixels.mean()) / 12}, raw={})


class Inverting:
    """An editor that inverts pictures, and does what the instruction says."""

    name, revision, terms, sizing = "inverting", "1", Terms("own", ("train",)), Sizing()

    def __init__(self, seconds=0.0):
        self.seconds, self.calls = seconds, 0

    def describe(self):
        return {"version": 1}

    def edit(self, pixels, instruction, seed, size=None):
        self.calls += 1
        time.sleep(self.seconds)
        if instruction == "refuse":
            raise NoAnswer("refused", "it will not")
        if instruction == "later":
            raise NoAnswer("busy", "ask again", lasting=False)
        if instruction == "crash":
            os._exit(3)
        return Edited(255 - pixels, {"seed": seed})
