"""The node pack as far as it goes without ComfyUI; tests/comfy runs it in real servers."""

import ast
import importlib
import importlib.util
import inspect
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
NODES = sorted((ROOT / "nodes").glob("*.py"))
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server"}
# Modules that may touch ComfyUI's insides, beyond the node API.
BOUNDARY = {
    "memory.py",
    "progress.py",
    "paths.py",
    "networks.py",
    "errors.py",
    "cards.py",
    "load_folder.py",
}
STAGES = {"Load", "LoadLora", "CompileModel", "ToyPicture", "EncodeTokens", "EmptyTokens",
          "EncodeInstruction",
          "ConsolidateAttention", "RegionHoldSampler", "EditRegions", "Decode", "ListOfValues",
          "ComparePictures", "LoadFolder"}  # fmt: skip


@pytest.fixture(scope="module")
def pack():
    """The checkout, imported the way ComfyUI does it under a folder name of its own."""
    name = "/comfy/custom_nodes/Some Pack-1_x_2"  # a path whose dots ComfyUI has replaced
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [m for m in sys.modules if m.startswith(name)]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def part(pack):
    """A module of the pack by its name."""
    return lambda name: importlib.import_module(f"{pack.__name__}.{name}")


def trees():
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in NODES]


# ---- the package


def test_the_package_imports_without_comfyui_and_has_one_entry_point(pack):
    assert inspect.iscoroutinefunction(pack.comfy_entrypoint)
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")
    assert (ROOT / pack.WEB_DIRECTORY).is_relative_to(ROOT)
    assert not HOST & {m.split(".")[0] for m in sys.modules}


def test_the_library_is_the_checkouts_own(part):
    assert Path(part("editmgt_lib").__file__).parent == ROOT / "editmgt_lib"
    assert part("nodes.previews").Canvas is part("editmgt_lib.pictures.canvas").Canvas


def test_comfyui_is_touched_in_the_boundary_alone():
    for path, tree in trees():
        named = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import)
                 for a in n.names}  # fmt: skip
        named |= {n.module.split(".")[0] for n in ast.walk(tree)
                  if isinstance(n, ast.ImportFrom) and not n.level}  # fmt: skip
        if path.name not in BOUNDARY:
            assert not named & (HOST - {"comfy_api"}), path.name
        assert "editmgt_lib" not in named, f"{path.name}: import it relatively"


def test_ids_are_literal_prefixed_and_unlike():
    ids = [
        keyword.value.value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
    ]
    assert sorted(ids) == sorted(f"EditMGT_{stage}" for stage in STAGES)


def test_no_device_is_named_and_every_input_has_a_tooltip():
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                assert node.value != "cuda", path.name
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("Input", "Output"):
                assert "tooltip" in {k.arg for k in node.keywords}, ast.unparse(node)


def test_a_missing_compiler_is_named(part, monkeypatch):
    compilers = part("nodes.compilers")
    monkeypatch.setattr(compilers.shutil, "which", lambda name: None)
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)
    assert "C++" in compilers.missing_compiler("cpu")
    assert "triton" in compilers.missing_compiler("a card")
    assert not compilers.missing_compiler("mps")
    monkeypatch.setattr(compilers.shutil, "which", lambda name: name == "clang++")
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: object())
    assert not compilers.missing_compiler("cpu") and not compilers.missing_compiler("a card")


# ---- batches


@pytest.fixture(params=["native"])
def tokens(part, request):
    """Three pictures of 60 x 100 pixels on a canvas of their own shape, or padded to a square."""
    geometry = part("editmgt_lib.pictures.fitting")
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 60, 100, 3, generator=generator)
    _, canvas = geometry.fit(pictures, geometry.FitOptions(request.param, resolution=128))
    ids = torch.randint(0, 9, (3, canvas.rows, canvas.cols), generator=generator)
    return geometry.Tokens(ids, canvas, ids + 1)


class Away(torch.Tensor):
    """Stands for a tensor on a card."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_results_rest_on_the_cpu(part, tokens):
    maps = part("editmgt_lib.localization.maps")
    rest = part("nodes.batches").at_rest
    edited = rest(tokens.with_ids(tokens.ids.as_subclass(Away)))
    assert type(edited.ids) is torch.Tensor and torch.equal(edited.ids, tokens.ids)
    assert edited.canvas is tokens.canvas and torch.equal(edited.source_ids, tokens.source_ids)
    found = maps.Localization(torch.rand(3, 4, 5).as_subclass(Away), maps.LocalizationOptions())
    assert type(rest(found).relevance) is torch.Tensor and rest(found).options is found.options


def test_masks_are_brought_to_the_pictures_size(part):
    fitted, mask = part("nodes.batches").region_masks, torch.rand(3, 4, 5)
    assert fitted(None, 4, 5) == (None, ())
    same, notes = fitted(mask, 4, 5)
    assert torch.equal(same, mask) and not notes
    for shape in ((4, 5), (1, 4, 5), (1, 1, 4, 5)):  # some nodes leave the batch out, or add one
        assert torch.equal(fitted(mask[0].reshape(shape), 4, 5)[0], mask[:1])
    half = torch.zeros(2, 10, 20)
    half[:, :, :10] = 1
    large, notes = fitted(half, 40, 60)
    assert large.shape == (2, 40, 60) and "20x10" in notes[0] and "60x40" in notes[0]
    assert (large[:, :, :28] > 0.5).all() and (large[:, :, 32:] < 0.5).all()


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (3, 8, 9)])
def test_a_blank_mask_is_no_region(part, shape):
    fitted = part("nodes.batches").region_masks
    for value in (0.0, 0.5):
        for every in (False, True):
            masks, notes = fitted(torch.full(shape, value), 8, 9, every=every)
            assert masks is None and len(notes) == 1 and "blank" in notes[0]


def test_some_blank_masks_of_a_batch(part):
    fitted, masks = part("nodes.batches").region_masks, torch.zeros(3, 8, 9)
    masks[1, 2:4, 2:4] = 1
    filled, notes = fitted(masks, 8, 9)
    assert torch.equal(filled[1], masks[1]) and (filled[[0, 2]] == 1).all()
    assert len(notes) == 1 and "picture 0, 2" in notes[0]
    assert not masks[0].any(), "the given mask stays"
    with pytest.raises(ValueError, match="picture 0, 2.*union"):
        fitted(masks, 8, 9, every=True)


def test_masks_of_several_inputs_are_regions_one_by_one(part):
    single = part("nodes.batches").single_masks
    pair, one, plain = torch.rand(2, 4, 5), torch.rand(1, 6, 7), torch.rand(8, 9)
    found = single([pair, None, one, plain])
    assert [tuple(mask.shape) for mask in found] == [(1, 4, 5), (1, 4, 5), (1, 6, 7), (1, 8, 9)]
    assert torch.equal(torch.cat(found[:2]), pair) and torch.equal(found[3][0], plain)


def test_what_is_no_blank_mask_stays_an_error_of_the_library(part, tokens):
    fitted = part("nodes.batches").region_masks
    project = part("editmgt_lib.pictures.compositing").project_mask
    speck = torch.zeros(1, 600, 1000)
    speck[0, 300, 501] = 1  # vanishes where the mask is made small
    for mask in (speck, torch.full((1, 60, 100), torch.nan)):
        masks, _ = fitted(mask, 60, 100)
        with pytest.raises(ValueError, match="no pixel|NaN"):
            project(masks, tokens.canvas, required=True)


# ---- what a run says of itself


def test_the_report_of_a_run(part):
    reports, options = part("nodes.reports"), part("editmgt_lib.sampling.options").SamplingOptions
    found = reports.Measured(2.04, 0.75, 0.125)
    text = reports.sampling_report(options(steps=16, guidance=1.0, seed=5), 1, "cpu fp32", found)
    assert text.splitlines() == [
        "16 steps, guidance 1, seed 5",
        "2.0 s, 75% held, 12% changed",
        "cpu fp32",
    ]
    last = 2**64 - 1
    assert "seeds 7 to 9" in reports.sampling_report(options(seed=7), 3, "cpu", found)
    assert f"seed {last}\n" in reports.sampling_report(options(seed=last), 1, "cpu", found)


def test_a_sampler_left_as_published_names_another_checkpoints_numbers(part):
    options = part("editmgt_lib.sampling.options").SamplingOptions
    note, toy = part("nodes.reports").foreign_numbers, options(steps=16, guidance=1, strength=1)
    (said,) = note(options(seed=3, threshold=0.1), toy)
    assert "16 steps, guidance 1, strength 1" in said
    assert not note(options(), options()) and not note(toy, toy)
    assert not note(options(guidance=5.0), toy), "chosen by the user"


@pytest.mark.parametrize("tokens", ["pad"], indirect=True)
@pytest.mark.parametrize("together", [False, True])
def test_shares_are_of_the_pictures_own_tokens(part, tokens, together):
    event = part("editmgt_lib.sampling.loop").StepEvent
    covered = tokens.canvas.covered
    assert not covered.all(), "the canvas has padding"
    held = torch.zeros_like(covered)
    held[0] = True
    fixed = torch.zeros_like(covered)
    fixed[0], fixed[1] = True, True
    edited = tokens.with_ids(torch.where(covered & ~held & ~fixed, tokens.ids + 1, tokens.ids))
    watch = part("nodes.reports").Watch(fixed)
    for k in (slice(None),) if together else (slice(0, 1), slice(1, 2), slice(2, 3)):
        for now in (~held, held):  # the last counts
            watch.see(event(0, 1, tokens.ids[k], tokens.ids[k], now[k], now[k], k.start or 0, 3))
    kept, changed = watch.shares(tokens, edited)
    assert kept == pytest.approx(2 / 3) and changed == pytest.approx(1 / 3)
    assert part("nodes.reports").Watch(None).shares(tokens, tokens) == (0, 0)


# ---- text widgets


@pytest.mark.parametrize(
    "text, expected",
    [("", None), (" ", None), ("7", (7, 7)), ("28-36", (28, 36)), (" 3 .. 5 ", (3, 5))],
)
def test_block_ranges(part, text, expected):
    assert part("nodes.parsing").block_range(text) == expected


@pytest.mark.parametrize("text", ["a", "5-3", "-1", "1-2-3", "1.5"])
def test_block_ranges_that_cannot_be(part, text):
    with pytest.raises(ValueError, match="28-36"):
        part("nodes.parsing").block_range(text)


@pytest.mark.parametrize(
    "text, expected",
    [("auto", None), (" auto\n", None), ("", ""), (" \n", ""), (" blurry ", "blurry"),
     ("auto, blurry", "auto, blurry")],
)  # fmt: skip
def test_an_empty_negative_text_is_not_the_checkpoints_own(part, text, expected):
    assert part("nodes.parsing").own_or(text) == expected


@pytest.mark.parametrize("text, expected", [
    ("0, 0.05,1", ["0", "0.05", "1"]), ("0,\n0.1,\n 0.2", ["0", "0.1", "0.2"]),
    ("1\n2", ["1", "2"]), ("mint, a red sky", ["mint", "a red sky"]), ("one", ["one"]),
    ("paint it red, please\n\n remove it ", ["paint it red, please", "remove it"]),
])  # fmt: skip
def test_lists_of_values(part, text, expected):
    assert part("nodes.parsing").value_list(text) == expected


def test_one_line_per_mask(part):
    lines = part("nodes.parsing").line_per_mask
    assert lines("paint it red, please\r\n\n remove it \n", 2) == [
        "paint it red, please",
        "remove it",
    ]
    for text, masks, said in (("a\nb", 1, "2 lines for 1 mask;"), ("a", 2, "1 line for 2 masks;"),
                              (" \n", 1, "0 lines for 1 mask;")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            lines(text, masks)


@pytest.mark.parametrize("text", ["", " , ", "\n"])
def test_a_list_without_values(part, text):
    with pytest.raises(ValueError, match="0, 0.1"):
        part("nodes.parsing").value_list(text)


@pytest.mark.parametrize("text", ["0, much", "0, 0.1x, 2", "nan, 1", "1\n2\nmint, too"])
def test_a_list_of_numbers_and_texts(part, text):
    with pytest.raises(ValueError, match="much|0.1x|nan|mint, too"):
        part("nodes.parsing").value_list(text)


def test_values_as_numbers(part):
    parsing, seed = part("nodes.parsing"), 2**64 - 1
    assert parsing.number("-2e-1") == -0.2 and parsing.number("7") == 7
    for text, value in ((str(seed), seed), ("16", 16), ("-3", -3), ("16.0", 16), ("1e3", 1000)):
        found = parsing.whole_number(text)
        assert found == value and type(found) is int


@pytest.mark.parametrize("kind, text", [
    ("number", "x"), ("number", "nan"), ("number", "inf"), ("whole_number", "0.5"),
    ("whole_number", "x"), ("whole_number", "-inf"), ("whole_number", "1e999"),
])  # fmt: skip
def test_values_that_are_no_numbers(part, kind, text):
    with pytest.raises(ValueError, match=f"{text}.*write one"):
        getattr(part("nodes.parsing"), kind)(text)


# ---- pictures side by side


def test_labels_are_lines_one_per_picture(part):
    lines = part("nodes.grids").label_lines
    assert lines("", 3) == lines("\n\n", 3) == ["", "", ""]
    assert lines("a\nb", 2) == lines("a\nb\n", 2) == lines("a\r\n b \n\n", 2) == ["a", "b"]
    assert lines("a\n\nb", 3) == ["a", "", "b"] and lines("a\nb\n", 3) == ["a", "b", ""]
    with pytest.raises(ValueError, match="2 lines for 3 pictures; write one line per picture"):
        lines("a\nb", 3)
    with pytest.raises(ValueError, match="2 lines for 1 picture;"):
        lines("a\nb", 1)


def test_pictures_of_one_size_keep_every_value(part):
    pictures = list(torch.rand(5, 60, 100, 3))
    sheet = part("nodes.grids").captioned_grid(pictures, ["a", "b", "", "d", "e"])
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3 and sheet.dtype == torch.float32
    for picture in pictures:
        at = (sheet[0] == picture[0, 0]).all(-1).nonzero()
        assert any(torch.equal(sheet[0, y : y + 60, x : x + 100], picture) for y, x in at)


@pytest.mark.parametrize("count, columns, shape", [
    (1, 0, (1, 1)), (2, 0, (1, 2)), (3, 0, (1, 3)), (4, 0, (2, 2)), (6, 0, (2, 3)), (7, 0, (3, 3)),
    (6, 4, (2, 4)), (6, 1, (6, 1)), (2, 64, (1, 2)),
])  # fmt: skip
def test_rows_and_columns(part, count, columns, shape):
    sheet = part("nodes.grids").captioned_grid(
        [torch.zeros(20, 30, 3)] * count, [""] * count, columns
    )
    rows, cols = shape  # cells with a frame of 1 pixel, gaps of 8
    assert tuple(sheet.shape) == (1, rows * 30 + 8, cols * 40 + 8, 3)


def test_pictures_of_any_size_and_kind(part):
    grid = part("nodes.grids").captioned_grid
    glass = torch.cat([torch.zeros(50, 50, 3), torch.zeros(50, 50, 1)], -1)
    odd = [torch.zeros(100, 200, 3), torch.zeros(50, 50, 1), glass, torch.zeros(1, 7, 3)]
    sheet = grid(odd, ["black", "a mask of nothing", "clear", "thin"], 4)[0]
    dark = (sheet[9:109] == 0).all(-1)
    assert sheet.min() >= 0 and sheet.max() <= 1
    assert [int(dark[:, 9 + k * 210 : 209 + k * 210].sum()) for k in range(4)] == [
        100 * 200, 100 * 100, 0, 29 * 200,  # enlarged in their own shape; glass shows the paper
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no pictures"):
        grid([], [])


@pytest.mark.parametrize("text", ["x", "threshold 0.05", "one long line of words " * 4, "W" * 90,
                                  "λ = 0.1, 背景", "a\tb"])  # fmt: skip
def test_captions_stay_under_their_own_picture(part, text):
    sheet = part("nodes.grids").captioned_grid([torch.ones(64, 90, 3)] * 3, ["", text, ""], 3)[0]
    ink = (sheet[66 + 8 :] < 0.8).any(-1)
    assert ink[:, 108:198].any() and not ink[:, :108].any() and not ink[:, 200:].any()


# ---- pictures


def test_the_token_grid_shows_the_canvas(part, tokens):
    previews = part("nodes.previews")
    mask = torch.zeros(1, 60, 100)
    mask[:, :16, :16] = 1
    plain = previews.token_grid(tokens.canvas, None)
    marked = previews.token_grid(tokens.canvas, mask)
    assert plain.shape == marked.shape and plain.shape[0] == 3 and plain.shape[-1] == 3
    assert max(plain.shape[1:3]) >= 400 and plain.min() >= 0 and plain.max() <= 1
    changed = (plain != marked).any(-1)
    assert changed.any() and changed.float().mean() < 0.2


def test_the_partial_picture_marks_held_and_pending_tokens(part, tokens):
    previews = part("nodes.previews")
    canvas = tokens.item(0).canvas
    pixels, grid = torch.full((3, *canvas.size), 0.5), (1, canvas.rows, canvas.cols)
    nothing, one = torch.zeros(grid, dtype=torch.bool), torch.zeros(grid, dtype=torch.bool)
    one[0, 1, 1] = True
    done = previews.partial_picture(pixels, None, nothing, canvas)
    assert tuple(done.shape[:2]) == canvas.placements[0].scaled and (done == 0.5).all()
    held = previews.partial_picture(pixels, one, nothing, canvas)
    assert 0 < (held != done).any(-1).sum() <= canvas.factor**2
    assert (held[..., 2] >= held[..., 0]).all(), "held is blue"
    pixels[:] = 1.0
    pending = previews.partial_picture(pixels, None, one, canvas)
    assert 0 < (pending != 1).any(-1).sum() < canvas.factor**2, "hatched, not filled"
    assert previews.to_pil(pending).size == (pending.shape[1], pending.shape[0])


def test_the_heat_map_lies_where_the_picture_is(part, tokens):
    drawing = part("editmgt_lib.pictures.drawing")
    canvas = tokens.canvas
    relevance = torch.zeros(3, canvas.rows, canvas.cols)
    relevance[:, :2, :2] = 1
    mask = drawing.relevance_on_picture(relevance, canvas)
    assert mask.shape == (3, 60, 100) and mask.min() >= 0 and mask.max() <= 1
    assert (mask[:, :16, :16] > 0.5).all() and (mask[:, 40:, 60:] < 0.1).all()
    heat = drawing.heat_map(canvas.source, mask)
    assert heat.shape == (3, 60, 100, 3) and heat.min() >= 0 and heat.max() <= 1
    assert heat[0, 4, 4, 0] > heat[0, 4, 4, 2] and heat[0, -1, -1, 0] < heat[0, -1, -1, 2]


# ---- checkpoints, without ComfyUI's memory manager


@pytest.fixture
def host(part, monkeypatch, tmp_path):
    """Modules of ComfyUI as far as loading touches them; gives the models folder."""
    place = tmp_path / "models"
    folders = ModuleType("folder_paths")
    folders.get_folder_paths = lambda key: [str(place / key)]
    folders.get_filename_list = lambda key: sorted(p.name for p in (place / key).glob("*.*"))
    folders.get_full_path = lambda key, name: str(place / key / name)
    comfy, management = ModuleType("comfy"), ModuleType("comfy.model_management")
    comfy.model_management = management
    for kind in ("get_torch", "vae", "text_encoder", "unet_offload", "vae_offload",
                 "text_encoder_offload"):  # fmt: skip
        setattr(management, f"{kind}_device", lambda: torch.device("cpu"))
    memory = ModuleType("memory")
    memory.Layers, memory.Managed = torch.nn, object
    memory.FORMATS = {"fp32": torch.float32, "fp8": torch.float8_e4m3fn}
    memory.attention = part("editmgt_lib.models.backends").sdpa
    memory.manage = lambda network, *_: network
    memory.precision = lambda *_: (torch.float32, torch.float32)
    memory.shrink, memory.text_dtype = lambda *_: None, lambda *_: torch.float32
    progress = ModuleType("progress")
    progress.Progress = object
    package = part("nodes").__name__
    given = {"folder_paths": folders, "comfy": comfy, "comfy.model_management": management,
             f"{package}.memory": memory, f"{package}.progress": progress}  # fmt: skip
    for name, module in given.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("paths", "networks"):  # imported anew, and gone again after the test
        monkeypatch.delitem(sys.modules, f"{package}.{name}", raising=False)
    yield place
    for name in ("paths", "networks"):
        sys.modules.pop(f"{package}.{name}", None)


class Steps:
    """Counts a progress bar's steps."""

    done = 0

    def advance(self):
        self.done += 1


def test_the_base_model_is_listed_and_makes_a_picture(part, host, tiny_meissonic):
    shutil.copytree(tiny_meissonic, host / "editmgt" / "base")
    # Another program's model in core's folder has a folder of that name too.
    shutil.copytree(tiny_meissonic / "transformer", host / "diffusion_models/flux/transformer")
    names = part("nodes.paths").choices()
    assert "base" in names and "flux" not in names
    networks, steps = part("nodes.networks"), Steps()
    model = networks.load("base", "fp32", steps)
    assert steps.done == networks.PARTS and len(model.text) == 1
    assert model.pipeline.settings.sampling.guidance == 9.0
    picture = model.pipeline.generate("a red heart", size=(64, 64), steps=2)
    assert picture.shape == (1, 64, 64, 3) and picture.isfinite().all()


def test_a_base_model_may_lie_beside_the_editor_and_in_one_file(
    part, host, tiny_checkpoint, tiny_meissonic
):
    both = shutil.copytree(tiny_checkpoint, host / "editmgt" / "both")
    shutil.copytree(tiny_meissonic / "transformer", both / "transformer")
    part("editmgt_lib.checkpoints").pack(tiny_meissonic, host / "editmgt" / "one.safetensors")
    paths, networks = part("nodes.paths"), part("nodes.networks")
    assert "editmgt" in paths.locate("both") and "transformer" not in paths.locate("both")
    for name, encoders in (("both", 2), ("one.safetensors", 1)):
        assert len(networks.load(name, "fp32", Steps()).text) == encoders


def test_parts_a_base_model_lacks_are_named(part, host, tiny_meissonic):
    place = shutil.copytree(tiny_meissonic, host / "editmgt" / "base")
    shutil.rmtree(place / "text_encoder")
    error = part("editmgt_lib.errors").CheckpointError
    with pytest.raises(error, match="'base' lacks text_encoder; put them into"):
        part("nodes.paths").locate("base")
