"""`editmgt info MODEL`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError
from .options import add_common_options, add_json_option, find_folder
from .outputs import Outputs, Records

if TYPE_CHECKING:
    from ..checkpoints import FolderReport, PartReport
    from ..settings import Settings

FLOAT32_ALWAYS = "vqvae"  # lower precision changes token assignments
LANGUAGE_MODEL = "llm_encoder"
TEXT = ("text_encoder", LANGUAGE_MODEL)
_BYTES = {"float32": 4, "bfloat16": 2}


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("info", help="what a checkpoint holds")
    parser.add_argument(
        "model", nargs="?", default="toyworld", metavar="MODEL",
        help="toyworld, a folder, a file, or a downloaded owner/name (default: toyworld)",
    )  # fmt: skip
    add_json_option(parser, "the same as JSON, to FILE or the screen")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE if it exists (default: refuse)"
    )
    add_common_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the parts. Raises CheckpointError, after printing, when one cannot be used."""
    from ..checkpoints import describe
    from ..settings import Settings

    records = Records(args.json, Outputs([], args.overwrite))
    report = describe(find_folder(args.model))
    settings = Settings.read(report.folder)
    if not records.printing:
        _print_table(report, settings)
    records.add(_as_json(report, settings))
    records.write()
    if problems := [f"{p.part.name}: {p.problem}" for p in report.parts if p.problem]:
        raise CheckpointError(f"{report.folder} cannot be used: {'; '.join(problems)}")
    return 0


def memory(report: "FolderReport") -> dict[str, dict[str, int]]:
    """Bytes of weights on the device at a time, by number format; activations are extra.

    Of all parts ("all"; an upper bound, for the language model's last layer is in the files but not
    loaded), of those left once the text is encoded ("without_text"), and the most there is at a
    time with offload "stages" and "layers".
    """
    layers = _language_layers(report)

    exempt = _float32_parameters(report)

    def size(part: "PartReport", bytes_each: int) -> int:
        exact = exempt.get(part.part.name, 0)
        return exact * 4 + (part.parameters - exact) * bytes_each

    def most(bytes_each: int, language_model: int) -> int:
        whole = [size(p, bytes_each) for p in report.parts if p.part.name != LANGUAGE_MODEL]
        return max(*whole, bytes_each * language_model)

    return {
        dtype: {
            "all": sum(size(p, each) for p in report.parts),
            "without_text": sum(size(p, each) for p in report.parts if p.part.name not in TEXT),
            "stages": most(each, sum(layers)),
            "layers": most(each, max(layers, default=0)),
        }
        for dtype, each in _BYTES.items()
    }


def _float32_parameters(report: "FolderReport") -> dict[str, int]:
    """By part, how many parameters are float32 whatever the dtype."""
    from ..checkpoints import layout_of, read_headers
    from ..models.config import FLOAT32_WEIGHTS

    transformer = layout_of(report.folder).transformer

    exempt = {p.part.name: p.parameters for p in report.parts if p.part.name == FLOAT32_ALWAYS}
    for part in report.parts:
        if part.part.name == transformer and part.present and not part.problem:
            headers = read_headers(Path(report.folder) / transformer)
            exempt[transformer] = sum(headers[n].elements for n in FLOAT32_WEIGHTS if n in headers)
    return exempt


def _language_layers(report: "FolderReport") -> list[int]:
    """Parameters of each layer of the language model that is used: of all but the last."""
    from ..checkpoints import read_config, read_headers
    from ..checkpoints.fp8 import SCALE

    if not any(p.part.name == LANGUAGE_MODEL and not p.problem for p in report.parts):
        return []
    layers: dict[int, int] = {}
    folder = Path(report.folder) / LANGUAGE_MODEL
    for name, info in read_headers(folder).items():
        _, found, rest = name.partition("layers.")
        if found and not name.endswith(SCALE):
            number = int(rest.split(".")[0])
            layers[number] = layers.get(number, 0) + info.elements
    last = read_config(folder).get("num_hidden_layers", len(layers)) - 1
    return [layers[number] for number in sorted(layers) if number != last]


def _print_table(report: "FolderReport", settings: "Settings") -> None:
    print(report.folder)
    rows = [("part", "what", "parameters", "dtype", "files", "size", "")]
    rows += [_row(part) for part in report.parts]
    rows.append(("all", "", count(report.parameters), "", "", size(report.file_bytes), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if place in (2, 4, 5) else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join(cells).rstrip())
    for dtype, needed in memory(report).items():
        print(
            f"  weights in memory as {dtype}: {size(needed['all'])}; "
            f"{size(needed['without_text'])} once the text is encoded"
        )
        print(
            f"    with offload stages {size(needed['stages'])} at a time, "
            f"layers {size(needed['layers'])}"
        )
    print("    (counted from the parameters, not measured; activations are extra)")
    side = settings.resolution
    print(f"  made for {side}x{side} pixels and {settings.text_length} text rows")


def _row(part: "PartReport") -> tuple[str, ...]:
    return (
        part.part.name,
        part.part.role,
        count(part.parameters) if part.parameters else "",
        ", ".join(sorted(part.dtypes)),
        str(len(part.files)),
        size(part.file_bytes),
        "cannot be used" if part.problem else "",
    )


def _as_json(report: "FolderReport", settings: "Settings") -> dict[str, Any]:
    parts = {
        p.part.name: {
            "role": p.part.role,
            "present": p.present,
            "problem": p.problem,
            "parameters": p.parameters,
            "dtypes": p.dtypes,
            "files": p.files,
        }
        for p in report.parts
    }
    return {
        "folder": str(Path(report.folder).absolute()),
        "complete": report.complete,
        "parameters": report.parameters,
        "file_bytes": report.file_bytes,
        "memory_bytes": memory(report),
        "settings": settings.to_dict(),
        "parts": parts,
    }


def count(number: int) -> str:
    """A number in thousands, millions or billions."""
    return _scaled(number, ("", " k", " M", " B"))


def size(number: int) -> str:
    """Bytes in a readable unit (powers of 1000)."""
    return _scaled(number, (" B", " kB", " MB", " GB"))


def _scaled(number: int, units: tuple[str, ...]) -> str:
    power = min((len(str(number)) - 1) // 3, len(units) - 1)
    return f"{number / 1000**power:.2f}{units[power]}" if power else f"{number}{units[0]}"
