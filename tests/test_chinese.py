"""The Chinese node texts, help pages and notes say what the English ones say, about all of it."""

import re
from pathlib import Path

import pytest

from tools.comfy import build
from tools.comfy.chinese import summaries
from tools.comfy.schema import NodeType

from .test_workflows import read

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "web" / "docs"
ENGLISH, CHINESE = (read(ROOT / "locales" / name / "nodeDefs.json") for name in ("en", "zh"))
NODES = sorted(ENGLISH)
FILES = {"checkpoint", "folder", "lora"}  # choices that depend on what is installed
TITLES = {node["display_name"] for node in CHINESE.values()}


def page(name):
    """English and Chinese help."""
    paths = DOCS / f"{name}.md", DOCS / name / "zh.md"
    return tuple(path.read_text(encoding="utf-8") for path in paths)


def numbers(text):
    return set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?=th\b|\b)", text))


def leaves(value, at=()):
    """(place, text) of every text."""
    if isinstance(value, str):
        return [(at, value)]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, (*at, key))]


def fixed_choices(name):
    kind = NodeType.read(name, build.saved_info()[name])
    return [(item.name, choice) for item in kind.inputs if item.type == "COMBO"
            for choice in item.choices if item.name not in FILES]  # fmt: skip


# ---- node texts


def test_the_locale_has_the_places_of_the_english_one_in_its_order():
    assert [at for at, _ in leaves(CHINESE)] == [at for at, _ in leaves(ENGLISH)]


def test_every_text_is_in_chinese():
    kept = {"LoRA", "Token"}  # as ComfyUI's own Chinese has them
    plain = [at for at, text in leaves(CHINESE)
             if text not in kept and not re.search("[\u4e00-\u9fff]", text)]  # fmt: skip
    assert not plain


def test_numbers_paths_and_examples_are_those_of_the_english_text():
    for (at, english), (_, chinese) in zip(leaves(ENGLISH), leaves(CHINESE), strict=True):
        if at[-1] == "name":
            continue
        assert numbers(chinese) == numbers(english), at
        kept = re.findall(r"models/[a-z_]+|toyworld|bf16|fp\d+|diffusers|peft|kohya", english)
        kept += re.findall(r"(?<!\w)'([^']+)'(?!\w)", english)  # no apostrophes
        assert not [word for word in kept if word not in chinese], at


@pytest.mark.parametrize("name", NODES)
def test_every_choice_is_explained(name):
    """The frontend shows the values of a choice as they are, in any language."""
    for item, choice in fixed_choices(name):
        assert choice in CHINESE[name]["inputs"][item]["tooltip"], (item, choice)


# ---- help


def test_every_help_page_has_a_chinese_one_and_no_other():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.glob("*/*")} == {
        f"{name}/zh.md" for name in NODES
    }


@pytest.mark.parametrize("name", NODES)
def test_the_help_calls_everything_as_the_canvas_does(name):
    _, text = page(name)
    texts, kind = CHINESE[name], NodeType.read(name, build.saved_info()[name])
    assert text.startswith(f"# {texts['display_name']}\n")
    for item in kind.inputs:
        assert f"**{texts['inputs'][item.name]['name']}** `{item.name}`" in text
    for (output, _), words in zip(kind.outputs, texts["outputs"].values(), strict=True):
        assert f"**{words['name']}** `{output}`" in text
    for _, choice in fixed_choices(name):
        assert choice in text, choice


@pytest.mark.parametrize("name", NODES)
def test_the_help_has_the_pictures_numbers_and_code_of_the_english_page(name):
    english, chinese = page(name)
    pictures = [re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text) for text in (english, chinese)]
    assert pictures[0] == pictures[1]
    rows = re.sub(r"\*\*[^*]+\*\* `\w+`", "", chinese)  # their names have numbers of their own
    assert numbers(rows) == numbers(english)
    for code in (r"`([^`]+)`", r"^    (.+)$"):
        found = [set(re.findall(code, text, re.MULTILINE)) for text in (english, chinese)]
        assert found[0] <= found[1], found[0] - found[1]
    sections = [len(re.findall(r"^## ", text, re.MULTILINE)) for text in (english, chinese)]
    assert sections[0] == sections[1]


@pytest.mark.parametrize("name", NODES)
def test_no_line_is_broken_between_chinese_characters(name):
    """Markdown shows a space there."""
    wide = "[\u3000-\u9fff\uff00-\uffef]"
    assert not re.search(rf"{wide}\n *{wide}", page(name)[1])


# ---- notes


def test_every_note_ends_in_chinese():
    titles = set()
    for graph in build.graphs(build.saved_info()):
        for note in graph.notes:
            assert note.text.endswith(f"\n\n---\n\n{summaries()[note.title]}")
            titles.add(note.title)
    assert titles == set(summaries())


def test_nodes_are_called_by_their_whole_chinese_name():
    texts = [text for _, text in leaves(CHINESE)]
    texts += [page(name)[1] for name in NODES] + list(summaries().values())
    quoted = {name for text in texts for name in re.findall(r"“([^”]+)”", text)}
    assert {name for name in quoted if "EditMGT" in name} <= TITLES
    assert not quoted & ({name.removeprefix("EditMGT ") for name in TITLES} - TITLES)
