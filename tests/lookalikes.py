"""Benchmarks drawn here in the exact layouts their authors publish, counts and defects included.

No outside picture: each is a few coloured squares. `DRAWN` has them by name; each function writes
into a folder and returns the dataset that reads it, with the true counts or, if `small`, with a
few items of every task, for runs through all stages.
"""

import io
import json
import tarfile
from itertools import chain

import numpy as np
from PIL import Image

from editmgt_lib.evaluation.datasets.anybench import AnyBench
from editmgt_lib.evaluation.datasets.emu_edit import GENERATIONS, EmuEdit
from editmgt_lib.evaluation.datasets.gedit import COUNTS as GEDIT_COUNTS
from editmgt_lib.evaluation.datasets.gedit import GEdit
from editmgt_lib.evaluation.datasets.imgedit import COUNTS as IMGEDIT_COUNTS
from editmgt_lib.evaluation.datasets.imgedit import ImgEdit
from editmgt_lib.evaluation.datasets.magicbrush import MagicBrush
from editmgt_lib.evaluation.datasets.pie_bench import COUNTS as PIE_COUNTS
from editmgt_lib.evaluation.datasets.pie_bench import PieBench

UNCAPTIONED = ("style_change", "material_change", "movement", "outpaint", "resize",
               "rotation_change", "relation", "implicit_change")  # fmt: skip


def picture(number, side=8, format_="PNG"):
    """Bytes of a picture of its own for each number."""
    values = np.random.default_rng(number).integers(0, 256, (2, 2, 3), np.uint8)
    values[0, 0] = number >> 16 & 255, number >> 8 & 255, number & 255
    return encoded(Image.fromarray(values.repeat(side // 2, 0).repeat(side // 2, 1)), format_)


def encoded(image, format_="PNG"):
    file = io.BytesIO()
    image.save(file, format_)
    return file.getvalue()


def erased(number, side=8):
    """A MagicBrush mask: the picture with a region erased, the colours left under it."""
    with Image.open(io.BytesIO(picture(number, side))) as image:
        values = np.asarray(image.convert("RGBA")).copy()
    values[: side // 2, : side // 4, 3] = 0
    return encoded(Image.fromarray(values))


def cell(data):
    return {"bytes": data, "path": None}


def write_parquet(path, rows, group=100):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def write_arrow(path, rows, batch=100):
    """A stream of record batches, as `datasets` writes."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_file(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def shards(folder, split, rows, count, suffix="-{:016x}.parquet", write=write_parquet):
    """Cut rows into `count` numbered shards."""
    size = -(-len(rows) // count)
    for k in range(count):
        name = f"{split}-{k:05d}-of-{count:05d}{suffix.format(k + 77)}"
        write(folder / name, rows[k * size : (k + 1) * size])


def captions_of(number):
    """Captions, with the known defects on a few rows."""
    if number % 97 == 5:
        return "a train station in city", "A train station in city."
    before = f"a room with {number} chairs"
    return before, before if number % 53 == 7 else f"a red room with {number} chairs"


def emu_edit(folder, small=False, side=8, generations=True):
    count = 14 if small else 3589
    rows = []
    for n in range(count):
        before, after = captions_of(n)
        rows.append({
            "instruction": f"make it red, number {n}", "image": cell(picture(n // 2, side)),
            "task": EmuEdit.tasks[n % 7], "split": "test", "idx": n, "hash": f"{n * 7919:032x}",
            "input_caption": before, "output_caption": after,
        })  # fmt: skip
    other = [row | {"idx": row["idx"] + count} for row in rows[: count // 2]]
    shards(folder / "data", "test", rows, 3)
    shards(folder / "data", "validation", other, 2)
    if generations:  # in another order, under the other split's name
        own = [row | {"edited_image": cell(picture(n + 10_000, side)), "model": "emu"}
               for n, row in enumerate(rows)]  # fmt: skip
        shards(folder / GENERATIONS / "data", "validation", own[::-1], 4)
        shards(folder / GENERATIONS / "data", "test", own[: count // 2], 2)
    return EmuEdit(rows=count)


def lengths(turns, sessions):
    """How many turns each session has: three, or one, as far as it works out."""
    extra = turns - sessions
    return [3] * (extra // 2) + [2] * (extra % 2) + [1] * (sessions - extra // 2 - extra % 2)


def magicbrush(folder, small=False, side=8, dev=False):
    turns, sessions = (8, 4) if small else (528, 266) if dev else (1053, 535)
    rows, local, wide = {}, {}, {}
    for n, count in enumerate(lengths(turns, sessions)):
        name = str(242679 + 3 * n)
        pictures = ["input"] + [f"output{k + 1}" for k in range(count)]
        for k, kind in enumerate(pictures):
            write_file(folder / f"images/{name}/{name}-{kind}.png", picture(9 * n + k, side))
        for k in range(count):
            mask = erased(9 * n + k, side)
            write_file(folder / f"images/{name}/{name}-mask{k + 1}.png", mask)
        rows[name] = [
            {"input": f"{name}-{pictures[k]}.png", "mask": f"{name}-mask{k + 1}.png",
             "output": f"{name}-{pictures[k + 1]}.png", "instruction": f"add {k + 1} cats"}
            for k in range(count)
        ]  # fmt: skip
        local[name] = {f"{name}-{p}.png": f"a cat of {p}" for p in pictures[1:]}
        wide[name] = {f"{name}-{p}.png": f"a street, {p}" for p in pictures}
    write_json(folder / "edit_sessions.json", rows)
    write_json(folder / "edit_turns.json", list(chain.from_iterable(rows.values())))
    write_json(folder / "local_descriptions.json", local)
    write_json(folder / "global_descriptions.json", wide)
    return MagicBrush("magicbrush-dev" if dev else "magicbrush", turns, sessions)


def magicbrush_dev(folder, small=False, side=8):
    turns, sessions = (8, 4) if small else (528, 266)
    rows = []
    for n, count in enumerate(lengths(turns, sessions)):
        for k in range(count):
            rows.append({
                "img_id": str(242679 + 3 * n), "turn_index": k + 1,
                "source_img": cell(picture(9 * n + k, side)),
                "mask_img": cell(erased(9 * n + k, side)),
                "instruction": f"add {k + 1} cats",
                "target_img": cell(picture(9 * n + k + 1, side)),
            })  # fmt: skip
    shards(folder / "data", "dev", rows, 4)
    return MagicBrush("magicbrush-dev", turns, sessions)


def anybench(folder, small=False, side=8, inner="anybench/"):
    each = 2 if small else 50
    for number, task in enumerate(AnyBench.tasks):
        items = []
        for n in range(each):
            files = {"image_file": f"{task}/input/COCO_{n:06d}.jpg",
                     "edited_file": f"{task}/output/COCO_{n:06d}.png"}  # fmt: skip
            if task.startswith("visual_"):
                files["visual_input"] = f"{task}/visual/{n}.png"
            for k, name in enumerate(files.values()):
                format_ = "JPEG" if name.endswith("jpg") else "PNG"
                write_file(folder / inner / name, picture(number * 997 + 3 * n + k, side, format_))
            items.append({
                "edit": f"{task} the thing, {n}", "input": f"a thing {n}",
                **({} if task in UNCAPTIONED else {"output": f"another thing {n}"}),
                "edit_type": task, "visual_input": "None",
                **{kind: f"anybench/{name}" for kind, name in files.items()},
            })  # fmt: skip
        write_json(folder / inner / task / "edit_result.json", items)
    return AnyBench(each=each)


def gedit(folder, small=False, side=8):
    counts = dict.fromkeys(GEDIT_COUNTS, 2) if small else GEDIT_COUNTS
    rows = []
    for task, count in counts.items():
        for n in range(count):
            # Two keys stand for two items each.
            key = n - 30 if task == "subject-remove" and n in (31, 44) else n
            for language in ("en", "cn"):
                number = 1000 * list(counts).index(task) + n
                rows.append({
                    "task_type": task, "key": f"{list(counts).index(task):02x}{key:030x}",
                    "instruction": f"{language}: {task} {n}", "instruction_language": language,
                    "input_image": cell(picture(number, side)),
                    "input_image_raw": cell(picture(number, 2 * side)),
                    "Intersection_exist": n % 3 > 0,
                })  # fmt: skip
    shards(folder, "data", rows, 3, ".arrow", write_arrow)
    write_json(folder / "state.json", {"_split": "train"})
    return GEdit(counts=counts)


def pie_bench(folder, small=False, side=8):
    counts = dict.fromkeys(PIE_COUNTS, 2) if small else PIE_COUNTS
    rows = {}
    for kind, (task, count) in enumerate(counts.items()):
        for n in range(count):
            key = f"{kind}{n:011d}"
            path = f"{kind}_{task.replace('-', '_')}_{count}/{key}.jpg"
            data = picture(1000 * kind + n, side, "JPEG")
            write_file(folder / "annotation_images" / path, data)
            rows[key] = {
                "image_path": path, "original_prompt": f"a cat [on] {n} chairs",
                "editing_prompt": f"a [dog] on {n} chairs", "editing_type_id": str(kind),
                "editing_instruction": f"Change the cat to a dog, {n}", "blended_word": "cat dog",
                "mask": [0, 262144] if task == "style" else [131328, 40, 131840 + n, 40],
            }  # fmt: skip
    write_json(folder / "mapping_file.json", rows)
    return PieBench(counts=counts)


def imgedit_rows(counts):
    """The list: five pictures for all styles, twenty for all additions, few of any repeated."""
    rows, key = {}, 22
    for task, count in counts.items():
        for n in range(count):
            name = {"style": f"style/{n % 5:09d}.jpg", "add": f"for_add/{n % 20:09d}.jpg",
                    "compose": f"compose/human/{n}.jpg",
                    "extract": f"daily object/{n:09d}.jpg"}.get(
                        task, f"daily object/{122 - n:09d}.jpg")  # fmt: skip
            rows[str(key)] = {"id": name, "prompt": f"{task} it, {n}", "edit_type": task}
            key += 1 + (n % 7 == 0)
    return rows


def imgedit(folder, small=False, side=8, tar=False):
    counts = dict.fromkeys(IMGEDIT_COUNTS, 2) if small else IMGEDIT_COUNTS
    rows = imgedit_rows(counts)
    names = sorted({row["id"] for row in rows.values()})
    files = {f"Benchmark/singleturn/{name}": picture(n, side, "JPEG")
             for n, name in enumerate(names)}  # fmt: skip
    files["Benchmark/singleturn/singleturn.json"] = json.dumps(rows).encode()
    files["Benchmark/singleturn/judge_prompt.json"] = b"{}"
    if tar:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "Benchmark.tar", "w") as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            write_file(folder / name, data)
    return ImgEdit(counts=counts, pictures=len(names))


DRAWN = {
    "emu-edit": emu_edit,
    "magicbrush": magicbrush,
    "magicbrush-dev": magicbrush_dev,
    "anybench": anybench,
    "gedit-en": gedit,
    "pie-bench": pie_bench,
    "imgedit": imgedit,
}
