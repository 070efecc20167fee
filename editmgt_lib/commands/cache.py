"""`editmgt cache DATA --out DIR`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .console import progress_bar, say, show
from .interrupts import working
from .options import add_common_options, add_device_option, path_of

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..data.cache import CacheProgress
    from ..data.rows import Reader

SECONDS = 60  # between two lines of progress


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("cache", help="encode pairs to tokens once, for training")
    parser.add_argument(
        "data", metavar="DATA",
        help="a list, parquet file, folder, hf:owner/name or toyworld:N; with --info a cache",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", metavar="DIR",
        help="folder of the cache; resumed if one is begun there (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--info", action="store_true", help="describe the cache DATA instead (default: no)"
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="with --info: check, and remove what is damaged (default: no)",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="MODEL", default="toyworld",
        help="whose tokenizer and CLIP encode (default: toyworld)",
    )  # fmt: skip
    _add_encoding_options(parser)
    _add_data_options(parser)
    add_device_option(parser)
    add_common_options(parser)
    parser.set_defaults(run=run)


def _add_encoding_options(parser: Any) -> None:
    parser.add_argument(
        "--size", type=int, metavar="N", help="picture side in pixels (default: the checkpoint's)"
    )
    parser.add_argument(
        "--crops", type=int, default=1, metavar="N", help="crops of each pair, 1..64 (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of crops (default: 0)")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N",
        help="threads that read pictures, 1..256 (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--max-aspect", type=float, default=0.05, metavar="X",
        help="skip pairs whose aspects differ by more (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--max-skipped", type=float, default=0.05, metavar="X",
        help="fail if more than this fraction cannot be used, 0..1 (default: 0.05)",
    )  # fmt: skip


def _add_data_options(parser: Any) -> None:
    parser.add_argument(
        "--files", default="*", metavar="PATTERN", help="only these parquet files (default: all)"
    )
    parser.add_argument(
        "--revision", metavar="REV", help="of hf:owner/name (default: main, kept on resuming)"
    )
    parser.add_argument(
        "--captions", action="store_true",
        help="hf: and toyworld: hold captioned pictures (default: pairs)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Encode this process's share, or describe a cache. Raises EditMGTError."""
    if args.info:
        return _describe(path_of(args.data), args.verify)
    if args.out is None:
        raise InputError("--out is missing; name the folder of the cache, or use --info")
    from ..checkpoints import resolve
    from ..data.cache import CacheOptions, build_cache
    from ..data.encoding import Encoder, EncodingOptions
    from ..data.processes import this_process
    from ..loader import choose_device, load_tokenizer
    from ..settings import Settings
    from ..text.pooled import PooledText

    process = this_process()
    options = CacheOptions(process.rank, process.world, args.workers, args.max_skipped)
    model, folder = resolve(args.model), path_of(args.out)
    device = choose_device(process.device(args.device))
    size = args.size or Settings.read(model).resolution
    encoding = EncodingOptions(size, args.crops, args.seed, args.max_aspect)
    reader = _reader(args, folder, size)
    for note in reader.notes:
        say(f"note: {note}")
    # Neither the transformer nor Gemma, by far the largest parts.
    vq, text = load_tokenizer(model / "vqvae", device), PooledText.from_folder(model, device)
    encoder = Encoder(encoding, vq, text)
    working()
    with progress_bar(None, f"encoding {process.rank + 1}/{process.world}", unit="row") as bar:
        finished = build_cache(reader, encoder, folder, options, _Shown(bar).show)
    if finished:
        return _describe(folder)
    show(
        f"{folder}: this process is done; the last of the {process.world} to end finishes the cache"
    )
    return 0


class _Shown:
    """Progress on a bar, or in a line a minute where there is none, as in the log of a cluster."""

    def __init__(self, bar: "tqdm") -> None:
        self.bar, self.said = bar, 0.0

    def show(self, progress: "CacheProgress") -> None:
        """As `build_cache` asks."""
        if not self.bar.disable:
            self.bar.total, self.bar.initial = progress.total, progress.rows - progress.new
            self.bar.update(progress.rows - self.bar.n)
        elif progress.seconds - self.said >= SECONDS:
            self.said = progress.seconds
            say(str(progress))


def _reader(args: argparse.Namespace, folder: Path, size: int) -> "Reader":
    from ..data.opening import open_reader
    from ..data.shards import read_settings

    revision = args.revision
    if revision is None:  # a branch may have moved since the cache was begun
        revision = (read_settings(folder) or {}).get("commit")
    return open_reader(
        args.data, files=args.files, revision=revision, size=size, edits=not args.captions,
        work=folder,
    )  # fmt: skip


def _describe(folder: Path, verify: bool = False) -> int:
    """Print what a cache holds; 2 if some of it is damaged."""
    from ..data.index import damaged_shards, read_index, remove_shards

    index = read_index(folder)
    damaged = damaged_shards(folder, index) if verify else []
    show(index.summary())
    if damaged:
        remove_shards(folder, damaged)
        raise InputError(
            f"{folder}: {len(damaged)} of {len(index.shards)} shards were damaged and removed "
            f"({', '.join(damaged[:3])}); run the command that made the cache again"
        )
    return 0
