"""ToyWorld's language: word lists, wordings of edits, captions."""

from collections.abc import Sequence
from itertools import product

SHAPES = (
    "star", "heart", "apple", "mushroom", "tree", "house",
    "boat", "fish", "balloon", "mug", "flower", "car",
)  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "black")
SPARE_COLOR = "pink"
"""A colour no edit of the world asks for: text encoders and tokenizer know it, and a transformer
is left to be taught it, by a LoRA for example."""
ALL_COLORS = (*COLORS[:-1], SPARE_COLOR, COLORS[-1])
BACKGROUNDS = ("grass", "sand", "water", "wood", "brick", "snow")
STYLES = ("plain", "sketch", "blueprint", "silhouette")
CATEGORIES = ("add", "replace", "remove", "color", "background", "style", "motion")
SLOT_NAMES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

# Fields: {thing} the named object, {new} what appears, {place} with preposition, {slot} without,
# {color}, {ground} the background as an adjective, {style} the style with its article.
WORDINGS: dict[str, tuple[str, ...]] = {
    "add": (
        "add {new} {place}",
        "put {new} {place}",
        "place {new} {place}",
        "draw {new} {place}",
        "insert {new} {place}",
        "{place}, add {new}",
        "there should be {new} {place}",
    ),
    "replace": (
        "replace the {thing} with {new}",
        "swap the {thing} for {new}",
        "change the {thing} into {new}",
        "turn the {thing} into {new}",
        "make the {thing} into {new}",
        "put {new} in place of the {thing}",
        "the {thing} should become {new}",
    ),
    "remove": (
        "remove the {thing}",
        "delete the {thing}",
        "erase the {thing}",
        "take away the {thing}",
        "take the {thing} out",
        "get rid of the {thing}",
        "the {thing} should disappear",
    ),
    "color": (
        "make the {thing} {color}",
        "paint the {thing} {color}",
        "turn the {thing} {color}",
        "change the color of the {thing} to {color}",
        "recolor the {thing} to {color}",
        "the {thing} should be {color}",
        "color the {thing} {color}",
    ),
    "background": (
        "make the background {ground}",
        "change the background to {ground}",
        "turn the background {ground}",
        "the background should be {ground}",
        "replace the background with a {ground} one",
        "use a {ground} background",
        "give the picture a {ground} background",
    ),
    "style": (
        "turn this into {style}",
        "redraw it as {style}",
        "make the picture {style}",
        "convert the picture into {style}",
        "draw the whole picture as {style}",
        "change the style to {style}",
        "it should look like {style}",
    ),
    "motion": (
        "move the {thing} to the {slot}",
        "shift the {thing} to the {slot}",
        "bring the {thing} to the {slot}",
        "put the {thing} {place}",
        "place the {thing} {place}",
        "relocate the {thing} to the {slot}",
        "the {thing} should be {place}",
    ),
}

PLAIN_CAPTIONS = (
    "{things} on a {ground} background",
    "a picture of {things} on a {ground} background",
    "on a {ground} background, {things}",
    "{things}, {ground} background",
)
STYLE_CAPTIONS = ("{style} of {things}", "{style} with {things}", "{style}: {things}")

CAPTION_TOKENS = 30
"""Longest caption, counting words and punctuation marks: fits 32 text rows with both end marks."""


def article(phrase: str) -> str:
    """Add the indefinite article: "an orange star", "a red heart"."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def place(slot: int) -> str:
    """Name a slot 0..8 with its preposition: "at the top left", "in the center"."""
    return f"{'in' if SLOT_NAMES[slot] == 'center' else 'at'} the {SLOT_NAMES[slot]}"


def enumerate_things(parts: Sequence[str]) -> str:
    """Join to "a", "a and b" or "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def length(text: str) -> int:
    """Number of words and punctuation marks."""
    return len(text.split()) + sum(text.count(mark) for mark in ",.:")


def thing_phrases(noun: str, slot: int) -> tuple[str, str]:
    """Name an object and its place for a caption, in full and tersely."""
    return f"{article(noun)} {place(slot)}", f"{noun} {SLOT_NAMES[slot]}"


def caption_choices(things: Sequence[tuple[str, int]], background: str, style: str) -> list[str]:
    """List all captions of a picture that fit CAPTION_TOKENS.

    things: (noun, slot) of every object; the noun is "red heart", or "heart" in a whole-picture
    style.
    """
    templates = PLAIN_CAPTIONS if style == "plain" else STYLE_CAPTIONS
    phrases = [thing_phrases(noun, slot) for noun, slot in things]
    fields = {"ground": background, "style": article(style)}
    choices = []
    for kind in (0, 1):
        joined = enumerate_things([phrase[kind] for phrase in phrases])
        texts = (template.format(things=joined, **fields) for template in templates)
        choices += [text for text in texts if length(text) <= CAPTION_TOKENS]
        if choices:  # the terse form only where the full one is too long
            break
    return choices


def corpus() -> list[str]:
    """Sorted sentences that together hold every word of the language.

    Every wording of every category occurs, as does every shape, colour, place, background and
    style, so that word frequencies and neighbours are those of real instructions.
    """
    nouns = [f"{color} {shape}" for color, shape in product(ALL_COLORS, SHAPES)]
    texts: set[str] = set(nouns)
    for category, wordings in WORDINGS.items():
        for index, (noun, wording) in enumerate(product(nouns, wordings)):
            other = nouns[(3 * index + 11) % len(nouns)]
            slot = index % len(SLOT_NAMES)
            text = wording.format(
                thing=noun if index % 4 else noun.split()[1],
                new=article(other),
                place=place(slot),
                slot=SLOT_NAMES[slot],
                color=ALL_COLORS[index % len(ALL_COLORS)],
                ground=BACKGROUNDS[index % len(BACKGROUNDS)],
                style=article(STYLES[1 + index % (len(STYLES) - 1)]),
            )
            if category in ("color", "replace") or index % 3 == 0:
                texts.add(text)
            texts |= {f"please {text}.", f"{text}."} if index % 17 == 0 else set()
    for index, (noun, slot) in enumerate(product(nouns, range(len(SLOT_NAMES)))):
        pair = [(noun, slot), (nouns[(index + 5) % len(nouns)], (slot + 4) % len(SLOT_NAMES))]
        plain = [(phrase.split()[1], at) for phrase, at in pair]
        texts.update(caption_choices(pair, BACKGROUNDS[index % len(BACKGROUNDS)], "plain"))
        texts.update(caption_choices(plain, BACKGROUNDS[0], STYLES[1 + index % (len(STYLES) - 1)]))
    return sorted(texts)
