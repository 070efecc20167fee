"""The benchmarks by name: what each is, its terms, and where it comes from."""

from dataclasses import dataclass

from ...checks import require_choice
from ..items import Dataset
from .anybench import AnyBench
from .emu_edit import GENERATIONS, EmuEdit
from .gedit import GEdit
from .imgedit import ImgEdit
from .magicbrush import MagicBrush
from .pie_bench import PieBench


@dataclass(frozen=True)
class Repository:
    """Files of a data set on the hub.

    Attributes:
        revision: the commit that is known to hold all counts; None takes the newest one, whose
            commit is then recorded.
        files: pattern of whole names; never one that leaves the folder.
        into: sub-folder of the data.
    """

    repo: str
    revision: str | None
    files: str
    into: str = ""


@dataclass(frozen=True)
class Entry:
    """A benchmark.

    Attributes:
        about: one line. size: on disk. terms: licence, and what it forbids. where: how the user
            gets it.
        hub: what `fetching` can bring; empty where the user must fetch it.
    """

    dataset: Dataset
    about: str
    size: str
    terms: str
    where: str
    hub: tuple[Repository, ...] = ()


_TEST_SET, _OUTPUTS = "facebook/emu_edit_test_set", "facebook/emu_edit_test_set_generations"


def _emu(split: str, swapped: str) -> tuple[Repository, ...]:
    """Both sets of Emu Edit, in which a split's name stands for the other one's rows."""
    pins = ("b31936a0b6c267e87d373014034cd8fb44ced2fb", "845ce023c31edc7631f45a08f84d798c07a6aed6")
    pattern = r"data/{}-\d+-of-\d+(-\w+)?\.parquet"
    return (
        Repository(_TEST_SET, pins[0], pattern.format(split)),
        Repository(_OUTPUTS, pins[1], pattern.format(swapped), GENERATIONS),
    )


_EMU_TERMS = "CC-BY-NC 4.0: no commercial use"
ENTRIES = {
    entry.dataset.name: entry
    for entry in (
        Entry(
            EmuEdit(),
            "3,589 instructions with captions in 7 tasks, no targets",
            "1.3 GB, with Emu Edit's own outputs about 2.5 GB",
            _EMU_TERMS,
            f"hub: {_TEST_SET}; Emu Edit's outputs, optional: {_OUTPUTS}",
            _emu("test", "validation"),
        ),
        Entry(
            EmuEdit("emu-edit-validation", 2022),
            "the other split of Emu Edit's test set: 2,022 instructions",
            "0.7 GB, with Emu Edit's own outputs about 1.3 GB",
            _EMU_TERMS,
            f"hub: {_TEST_SET}; Emu Edit's outputs, optional: {_OUTPUTS}",
            _emu("validation", "test"),
        ),
        Entry(
            MagicBrush(),
            "1,053 turns of 535 sessions with targets, masks and captions",
            "about 2.5 GB unzipped",
            "CC-BY-4.0; the authors ask not to spread the unzipped test set",
            "a protected zip; link and password are in the README of OSU-NLP-Group/MagicBrush",
        ),
        Entry(
            MagicBrush("magicbrush-dev", 528, 266),
            "528 turns of 266 sessions with targets and masks; captions only in the authors' zip",
            "about 1.2 GB",
            "CC-BY-4.0",
            "hub: osunlp/MagicBrush",
            (Repository("osunlp/MagicBrush", None, r"data/dev-\d+-of-\d+(-\w+)?\.parquet"),),
        ),
        Entry(
            AnyBench(),
            "1,250 instructions in 25 types with machine-made targets (AnyEdit-Test)",
            "not stated by the authors",
            "no licence of its own; the training data it was drawn from is CC-BY-4.0",
            "AnyEdit-Test.zip; the link is in the README of weichow23/AnySD",
        ),
        Entry(
            GEdit(),
            "606 English instructions of users in 11 tasks, for a judge",
            "about 1 GB",
            "MIT",
            "hub: stepfun-ai/GEdit-Bench",
            (Repository("stepfun-ai/GEdit-Bench", None, r"([\w-]+/)?[\w-]+\.(arrow|parquet)"),),
        ),
        Entry(
            PieBench(),
            "700 instructions of ten kinds with masks and captions",
            "about 0.2 GB",
            "none stated, so do not spread it",
            "a form; its link is in the README of cure-lab/PnPInversion",
        ),
        Entry(
            ImgEdit(),
            "737 instructions in nine types on 171 pictures, for a judge",
            "not stated by the authors",
            "not stated for this repository (its sibling is MIT)",
            "hub: sysuyy/ImgEdit, Benchmark.tar",
            (Repository("sysuyy/ImgEdit", None, r"Benchmark\.tar"),),
        ),
    )
}


def find(name: str) -> Entry:
    """The benchmark of that name. Raises InputError listing the names."""
    require_choice("benchmark", name, tuple(ENTRIES))
    return ENTRIES[name]
