"""Reversed pairs: what their instructions say, and which pairs have none."""

import numpy as np
import pytest

from editmgt_lib.curation.backends.toyworld_reading import read_edit
from editmgt_lib.curation.pairs import reversed_instruction
from editmgt_lib.toyworld.world import sample_pair


@pytest.mark.parametrize(
    "instruction, name, expected",
    [
        ("Remove the red cup from the table.", "red cup", "Add a red cup to the table."),
        ("remove the cup", "red cup", "add a red cup"),
        ("Remove the big red cup", "cup", "Add a big red cup"),
        ("take the old boat out", "old boat", "add an old boat"),
        ("the boat should disappear", "boat", "add a boat"),
        ("Please remove the man from behind the car", "the man", "Add a man behind the car"),
        ("get rid of the unicorn to the left of the dog", "unicorn",
         "add a unicorn to the left of the dog"),
        ("Delete the birds flying in the sky", "birds", "Add birds flying in the sky"),
        ("Remove the snow on the roof", "snow", "Add snow on the roof"),
        ("Remove the glass between the plate and the fork", "glass",
         "Add a glass between the plate and the fork"),
        ("Erase two chairs", "two chairs", "Add two chairs"),
        ("Remove the forest behind the house", "forest", "Add a forest behind the house"),
    ],
)  # fmt: skip
def test_a_removal_becomes_an_addition(instruction, name, expected):
    assert reversed_instruction("remove", instruction, name) == ("add", expected)


@pytest.mark.parametrize(
    "instruction, name, expected",
    [
        ("Add a hat to the man's head", "hat", "Remove the hat from the man's head"),
        ("at the left, add a red ball", "red ball", "remove the red ball at the left"),
        ("there should be an apple on the plate", "apple", "remove the apple on the plate"),
        ("Put a ball to the left of the dog.", "ball", "Remove the ball to the left of the dog."),
        ("Add some clouds to the sky", "clouds", "Remove the clouds from the sky"),
        ("Insert two birds into the scene", "birds", "Remove the two birds from the scene"),
    ],
)
def test_an_addition_becomes_a_removal(instruction, name, expected):
    assert reversed_instruction("add", instruction, name) == ("remove", expected)


@pytest.mark.parametrize(
    "category, instruction, name",
    [
        ("remove", "Remove the other cup", "cup"), ("remove", "Remove all cups", "cups"),
        ("remove", "Remove the leftmost cup", "leftmost cup"),
        ("remove", "Remove the smallest cup", "cup"), ("remove", "Remove the man's hat", "hat"),
        ("remove", "Remove the cup and add a plate", "cup"),
        ("remove", "Remove the shadow of the cup", "cup"),
        ("remove", "Remove the cup holder", "cup"), ("remove", "Remove it", "cup"),
        ("remove", "Remove the cup, keeping the plate", "cup"),
        ("remove", "Clean up the table", "table"), ("add", "Add another bird", "bird"),
        ("add", "Add a second cup", "cup"), ("add", "Add a dog and a cat", "dog"),
        ("add", "Make it rain", "rain"), ("remove", "", ""), ("add", "Add a cup", ""),
        ("color", "Make the cup red", "cup"), ("style", "Turn it into a sketch", "picture"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_not(category, instruction, name):
    assert reversed_instruction(category, instruction, name) is None


def test_the_way_back_of_the_toy_world_is_understood():
    """Its removals name no place, so only additions come back as something it can read."""
    for number in range(30):
        pair = sample_pair(np.random.default_rng([3, number]), "add")
        [new] = [thing for thing in pair.target.things if thing not in pair.source.things]
        category, text = reversed_instruction("add", pair.instruction, new.name)
        assert category == "remove" and new.name in text
        short = text.removesuffix(".").partition(" at the ")[0].partition(" in the ")[0]
        found = read_edit(pair.target, "remove", short)
        assert found is not None and found.target == pair.source
        pair = sample_pair(np.random.default_rng([3, number]), "remove")
        [old] = [thing for thing in pair.source.things if thing not in pair.target.things]
        category, text = reversed_instruction("remove", pair.instruction, old.name)
        assert category == "add" and text.removesuffix(".").endswith(old.name)
