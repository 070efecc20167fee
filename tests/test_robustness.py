"""Whatever the picture and the options: an edit keeps its promises, or names what is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editmgt_lib.choices import FILTERS, REUSES
from editmgt_lib.errors import EditMGTError, InputError
from editmgt_lib.localization.maps import LocalizationOptions
from editmgt_lib.pictures.fitting import FitOptions, project_mask, support
from editmgt_lib.sampling.options import SamplingOptions

from .test_pipeline import CODES, open_tiny

WORDS = ("make", "the", "red", "heart", "blue")
PROMPT = " ".join(WORDS)
few = settings(max_examples=25, deadline=None)

sides = st.integers(1, 140)
samplings = st.builds(
    SamplingOptions,
    steps=st.integers(1, 4),
    guidance=st.sampled_from([0.0, 1.0, 1.5, 9.0]),
    strength=st.sampled_from([0.01, 1.0, 1.1, 100.0]),
    strength_scope=st.sampled_from(["text+image", "image"]),
    temperature=st.sampled_from([0.0, 3.0, (2.0, 0.0), (0.0, 1000.0)]),
    token_temperature=st.sampled_from([0.01, 1.0, 100.0]),
    schedule=st.sampled_from(["cosine", "linear"]),
    threshold=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    hold_rule=st.sampled_from(["proposal", "restore"]),
    draw=st.sampled_from(["inverse", "race"]),
    guidance_interval=st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.6, 1.0), (0.4, 0.4)]),
    reuse=st.sampled_from(REUSES),
    refresh=st.sampled_from([1, 2, 1000]),
    seed=st.integers(0, 2**64 - 1),
)
localizations = st.builds(
    LocalizationOptions,
    layers=st.sampled_from([None, (0, 0), (0, 2), (2, 2)]),
    words=st.lists(st.sampled_from(WORDS), max_size=2).map(tuple),
    rows=st.sampled_from(["all", "content"]),
    filter=st.sampled_from(FILTERS),
    update=st.sampled_from(["step", "once"]),
    state=st.sampled_from(["masked", "source"]),
)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return open_tiny(tiny_checkpoint)


@st.composite
def edits(draw):
    """A picture, the region of the change or None, and every option of `edit`."""
    height, width, batch = draw(sides), draw(sides), draw(st.integers(1, 2))
    channels = draw(st.sampled_from([1, 3, 4]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    image = torch.rand(batch, height, width, channels, generator=random)
    region = None
    if draw(st.booleans()):
        one = draw(st.sampled_from([1, batch]))
        share = draw(st.sampled_from([0.02, 0.5, 1.0]))
        region = (torch.rand(one, height, width, generator=random) < share).float()
    mode = draw(st.sampled_from(["pad", "native"] if region is None else ["pad", "native", "crop"]))
    options = {
        "fit_options": FitOptions(mode, resolution=draw(st.sampled_from([32, 64])), factor=16),
        "options": draw(samplings),
        "localization": draw(st.none() | localizations),
        "region": region,
        "combine": draw(st.sampled_from(["intersection", "union"])),
        "feather": draw(st.sampled_from([0.0, 0.5, 30.0])),
    }
    return image, options


@few
@given(case=edits())
def test_an_edit_keeps_its_promises(model, case):
    image, options = case
    before, region = image.clone(), options["region"]
    if region is not None and not region.flatten(1).any(1).all():
        with pytest.raises(InputError, match="region|mask"):
            model.edit(image, PROMPT, **options)
        return
    result = model.edit(image, PROMPT, **options)
    colours = image[..., :3].expand(-1, -1, -1, 3)
    assert result.image.shape == (*image.shape[:3], max(3, image.shape[3]))
    assert 0 <= float(result.image.min()) <= float(result.image.max()) <= 1
    assert torch.equal(result.image[..., :3][~result.changed], colours[~result.changed])
    assert torch.equal(image, before)
    tokens, sampling = result.tokens, options["options"]
    assert 0 <= int(tokens.ids.min()) <= int(tokens.ids.max()) < CODES
    assert torch.equal(result.changed, support(tokens.changed, tokens.canvas, 1))
    read_off = sampling.threshold > 0
    if region is not None and not (read_off and options["combine"] == "union"):
        assert not (tokens.changed & ~project_mask(region, tokens.canvas)).any()
    if read_off or options["localization"] is not None:
        relevance = result.localization.relevance
        assert len(relevance) == len(image) and torch.isfinite(relevance).all()
    again = model.edit(image, PROMPT, **options)
    assert torch.equal(again.image, result.image)


@few
@given(case=edits(), data=st.data())
def test_an_item_does_not_depend_on_its_batch(model, case, data):
    image, options = case
    image, options["region"] = image[:1], None
    if options["fit_options"].mode == "crop":
        options["fit_options"] = "pad"
    count, random = data.draw(st.integers(1, 2)), torch.Generator().manual_seed(1)
    others = torch.rand(count, *image.shape[1:], generator=random)
    prompts = [PROMPT, "the blue red heart make", "the red heart make blue"][: count + 1]
    whole = model.edit(torch.cat([image, others]), prompts, **options)
    alone = model.edit(image, PROMPT, **options)
    assert torch.equal(alone.tokens.ids, whole.tokens.ids[:1])
    assert torch.equal(alone.image, whole.image[:1])


junk = st.sampled_from(
    [None, True, -1, 0, 0.5, 10**30, float("nan"), float("inf"), "", "red", (), (1,), (2, 1), [0]]
)


@few
@given(name=st.sampled_from(sorted(SamplingOptions.__dataclass_fields__)), value=junk)
def test_a_sampling_option_works_or_is_named(model, name, value):
    fields = {"steps": 2, name: value}
    works_or_is_named(model, lambda: {"options": SamplingOptions(**fields)}, name)


@few
@given(name=st.sampled_from(sorted(LocalizationOptions.__dataclass_fields__)), value=junk)
def test_a_localization_option_works_or_is_named(model, name, value):
    works_or_is_named(model, lambda: {"localization": LocalizationOptions(**{name: value})}, name)


def works_or_is_named(model, build, name):
    """An edit with one odd option runs, or ends in a message that names the option."""
    image = torch.rand(1, 20, 30, 3, generator=torch.Generator().manual_seed(0))
    try:
        options = build()
    except InputError as error:
        assert name in str(error)
        return
    try:
        result = model.edit(image, PROMPT, **options)
    except EditMGTError as error:
        assert name in str(error)
        return
    assert torch.isfinite(result.image).all()
