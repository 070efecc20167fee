"""Text encoders and what a prompt becomes: tokens, states, and the rows of each word."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2ForCausalLM,
)

from editmgt_lib.errors import CheckpointError, InputError
from editmgt_lib.text.encoders import TextEncoders
from editmgt_lib.text.instruction import DEFAULT_NEGATIVE, Instruction
from editmgt_lib.text.loading import load_gemma, load_tokenizer, second_last_gemma
from editmgt_lib.text.words import place_words, split_phrases, split_words
from editmgt_lib.toyworld.text_encoders import (
    build_text_encoders,
    save_text_folders,
    write_text_folders,
)

SENTENCES = [
    "make the red heart blue",
    "remove the small green mug",
    "turn the t-shirt yellow, please.",
    "put a dog left of the dog",
]


@pytest.fixture(scope="module")
def encoders() -> TextEncoders:
    return build_text_encoders(SENTENCES)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_text_folders(folder, SENTENCES)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "model"))


def load(folder: Path, **options) -> TextEncoders:
    return TextEncoders.from_folder(folder, **{"text_length": 32, **options})


def change_weights(file: Path, change) -> None:
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(state)
    save_file(state, file, {"format": "pt"})


def change_json(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def words_of(encoders: TextEncoders, prompt: str):
    return encoders.encode(prompt, "").rows[0]


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


# Tokens


def test_every_corpus_word_is_one_row(encoders):
    for sentence in SENTENCES:
        assert all(len(word.rows) == 1 for word in words_of(encoders, sentence)), sentence


@pytest.mark.parametrize(
    "text", ["zebra", "Überraschung", "红色 🎉", "<bos>", "a\tb\nc", "  ", "''"]
)
def test_any_other_text_is_spelled_out_not_unknown(encoders, text):
    clip, gemma = encoders.tokenize(text)
    assert encoders.gemma_tokenizer.unk_token_id not in gemma
    assert int(clip.max()) < encoders.clip.config.vocab_size
    assert (clip == encoders.clip_tokenizer.eos_token_id).any()


def test_unknown_words_can_be_read_back(encoders):
    _, gemma = encoders.tokenize("Überraschung 红 🎉")
    assert (
        encoders.gemma_tokenizer.decode(gemma[0], skip_special_tokens=True) == "überraschung 红 🎉"
    )


def test_gemma_pads_on_the_left_and_clip_on_the_right(encoders):
    clip, gemma = encoders.tokenize(["make the red heart blue", ""])
    assert clip.shape == gemma.shape == (2, 32)
    assert gemma[0].tolist()[:26] == [0] * 26
    assert gemma[0, 26] == encoders.gemma_tokenizer.bos_token_id
    assert gemma[1].tolist() == [0] * 31 + [encoders.gemma_tokenizer.bos_token_id]
    end = encoders.clip_tokenizer.eos_token_id
    assert clip[0, 0] == encoders.clip_tokenizer.bos_token_id
    assert clip[0, 6:].tolist() == [end] * 26
    assert clip.argmax(dim=1).tolist() == [6, 1]


@pytest.mark.parametrize("text", ["", "red", "<bos> red", "make the zebra 红 blue. " * 9])
@pytest.mark.parametrize("length", [2, 7, 32])
def test_ids_are_those_of_the_tokenizers_own_padding_and_cutting(folder, text, length):
    both = load(folder, text_length=length)
    both.clip_length = length
    options = {"truncation": True, "padding": "max_length", "max_length": length}
    ours = both.tokenize(text)
    for part, ids in zip(("tokenizer", "llm_encoder"), ours, strict=True):
        theirs = load_tokenizer(folder / part)  # another one: this call leaves its options behind
        assert ids[0].tolist() == theirs(text, **options).input_ids


def test_padding_is_ours_whatever_the_files_say(folder):
    expected = load(folder).tokenize(SENTENCES)
    for part, side in (("tokenizer", "left"), ("llm_encoder", "right")):
        settings = {"padding_side": side, "truncation_side": "left", "model_max_length": 5}
        change_json(folder / part / "tokenizer_config.json", **settings)
        padding = {
            "strategy": {"Fixed": 9}, "direction": side.title(), "pad_to_multiple_of": None,
            "pad_id": 3, "pad_type_id": 0, "pad_token": "<unk>",
        }  # fmt: skip
        cutting = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        change_json(folder / part / "tokenizer.json", padding=padding, truncation=cutting)
    for ours, theirs in zip(load(folder).tokenize(SENTENCES), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_halves_of_characters_are_refused(encoders):
    with pytest.raises(InputError, match="prompt='red .udcff' holds halves"):
        encoders.encode("red \udcff")


def test_same_seed_same_text_encoders_and_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    one, two, other = (build_text_encoders(SENTENCES, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for a, b, c in zip(
        one.gemma.parameters(), two.gemma.parameters(), other.gemma.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == bool((a == 0).all())  # norms start at zero
    assert one.gemma_tokenizer.get_vocab() == two.gemma_tokenizer.get_vocab()


# States


def random_causal_model(folder: Path, **changes) -> Gemma2ForCausalLM:
    """Every parameter random and large; a soft cap and a window small enough to matter."""
    options = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "sliding_window": 5,
        "initializer_range": 0.4,
    }  # fmt: skip
    config = Gemma2Config(**{**options, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Gemma2ForCausalLM(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, max_shard_size="20KB")
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def test_states_equal_the_second_last_of_the_whole_model(tmp_path):
    whole = random_causal_model(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ours = load_gemma(tmp_path, "cpu", torch.float32)
    ids = torch.randint(0, 50, (3, 17), generator=torch.Generator().manual_seed(0))
    ids[:, :6] = 0
    with torch.no_grad():
        expected = whole(input_ids=ids, output_hidden_states=True).hidden_states
        actual = ours(input_ids=ids, use_cache=False).last_hidden_state
    assert relative_error(actual, expected[-2]) <= 1e-5
    assert relative_error(actual, expected[-1]) > 0.1
    assert len(ours.layers) == 3
    assert not hasattr(ours, "lm_head")


@pytest.mark.parametrize("change", [{"attn_logit_softcapping": 50.0}, {"sliding_window": 4096}])
def test_soft_cap_and_window_take_part(tmp_path, change):
    random_causal_model(tmp_path)
    ids = torch.arange(1, 18)[None]
    with torch.no_grad():
        one = load_gemma(tmp_path, "cpu", torch.float32)(input_ids=ids).last_hidden_state
        change_json(tmp_path / "config.json", **change)
        two = load_gemma(tmp_path, "cpu", torch.float32)(input_ids=ids).last_hidden_state
    assert relative_error(one, two) > 1e-3


def test_encode_is_the_published_call_without_a_mask(written):
    encoders = load(written)
    prompt = "make the red heart blue"
    clip_ids, gemma_ids = encoders.tokenize(prompt)
    clip = CLIPTextModelWithProjection.from_pretrained(written / "text_encoder").eval()
    gemma = AutoModelForCausalLM.from_pretrained(
        written / "llm_encoder", attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        pooled = clip(input_ids=clip_ids).text_embeds
        states = gemma(input_ids=gemma_ids, output_hidden_states=True).hidden_states[-2]
        masked = gemma(
            input_ids=gemma_ids, attention_mask=(gemma_ids != 0).long(), output_hidden_states=True
        ).hidden_states[-2]
    instruction = encoders.encode(prompt)
    assert relative_error(instruction.pooled, pooled) <= 1e-5
    assert relative_error(instruction.states, states) <= 1e-5
    assert relative_error(instruction.states[:, -5:], masked[:, -5:]) > 1e-3


def test_the_states_of_a_prompt_do_not_depend_on_the_batch(encoders):
    alone = encoders.encode("make the red heart blue", "")
    batch = encoders.encode([*SENTENCES, "make the red heart blue"], "")
    for name in ("states", "pooled", "negative_states", "negative_pooled"):
        assert torch.equal(getattr(alone, name)[0], getattr(batch, name)[0])
        assert torch.equal(getattr(alone, name)[0], getattr(batch, name)[-1])


def test_negative_prompts(encoders):
    two = encoders.encode(SENTENCES[:2], ["", SENTENCES[0]])
    assert two.negative == ("", SENTENCES[0])
    assert torch.equal(two.negative_states[1], two.states[0])
    assert encoders.encode(SENTENCES[:2]).negative == (DEFAULT_NEGATIVE,) * 2
    with pytest.raises(InputError, match="3 negative prompts for 2 prompts"):
        encoders.encode(SENTENCES[:2], ["", "", ""])


@pytest.mark.parametrize("prompt", [None, [], [None], 5 * [1]])
def test_a_prompt_must_be_text(encoders, prompt):
    with pytest.raises(InputError, match="prompt="):
        encoders.encode(prompt)


def test_empty_prompt_is_the_unconditional_one(encoders):
    empty = encoders.encode("", "")
    assert empty.rows == empty.content_rows == ((),)
    assert torch.equal(empty.states, empty.negative_states)


# Rows of words


def test_rows_lie_at_the_end_and_carry_the_word(encoders):
    prompt = "Put a zebra LEFT of the dog"
    instruction = encoders.encode(prompt)
    tokens = encoders.gemma_tokenizer.convert_ids_to_tokens(
        encoders.tokenize(prompt)[1][0].tolist()
    )
    spelled = {w.word: "".join(tokens[row] for row in w.rows) for w in instruction.rows[0]}
    assert {word: text.strip("\u2581") for word, text in spelled.items()} == {
        word: word.lower() for word in prompt.split()
    }
    assert instruction.rows_of("dog") == [[31]]
    assert len(instruction.rows_of("zebra")[0]) > 1
    start = tokens.index("<bos>")
    assert instruction.content_rows == (tuple(range(start + 1, 32)),)


def test_rows_of_matches_whole_words_phrases_and_all_occurrences(encoders):
    instruction = encoders.encode("put a dog left of the Dog, the dog's t-shirt")
    rows = {text: instruction.rows_of(text)[0] for text in ("dog", "the dog", "T-Shirt", "t shirt")}
    assert len(rows["dog"]) == 3
    assert len(rows["the dog"]) == 4
    assert rows["T-Shirt"] == rows["t shirt"]
    assert len(rows["t shirt"]) == 2
    assert instruction.rows_of("put, dog") == instruction.rows_of(["dog", "put", "dog"])
    assert instruction.rows_of("put")[0] == sorted(instruction.rows_of("put")[0])


def test_a_word_that_is_missing_is_named_beside_the_words_there_are(encoders):
    instruction = encoders.encode("make the red heart blue")
    message = "cat, green is not in the prompt.*make, the, red, heart, blue"
    with pytest.raises(InputError, match=message):
        instruction.rows_of("red, cat, green")
    for part in ("re", "hearts", "heart red"):
        with pytest.raises(InputError, match="not in the prompt"):
            instruction.rows_of(part)


@pytest.mark.parametrize("words", ["", " , ", [], "...", ["red", "!"]])
def test_words_must_name_something(encoders, words):
    with pytest.raises(InputError, match="words"):
        encoders.encode("make the red heart blue").rows_of(words)


def test_a_long_prompt_is_cut_at_its_end(encoders):
    prompt = "make the red heart blue " * 7 + "remove the small green mug"
    instruction = encoders.encode(prompt)
    assert instruction.truncated == (9,)
    assert instruction.content_rows == (tuple(range(1, 32)),)
    assert len(instruction.rows_of("heart")[0]) == 6
    with pytest.raises(InputError, match="mug was cut off.*9 tokens longer"):
        instruction.rows_of("heart, mug")


def test_phrases_are_separated_by_any_comma():
    assert split_phrases("red heart, sky\uff0c\n\u592a\u9633,") == (
        "red heart", "sky", "\u592a\u9633",
    )  # fmt: skip
    assert split_phrases(["a, b", " "]) == ("a, b",)


def test_words_of_many_scripts():
    assert [w for w, _, _ in split_words("It's a t-shirt, no. 12_b!")] == [
        "It", "s", "a", "t", "shirt", "no", "12_b",
    ]  # fmt: skip
    assert [w for w, _, _ in split_words("把红色 car")] == ["把", "红", "色", "car"]
    assert [w for w, _, _ in split_words("cafe\u0301 लाल")] == ["cafe\u0301", "लाल"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_words_are_slices_in_order_and_nothing_is_lost(text):
    words = split_words(text)
    assert all(text[start:end] == word for word, start, end in words)
    assert all(a[2] <= b[1] for a, b in zip(words, words[1:], strict=False))
    assert {c for c in text if c.isalnum()} <= set("".join(w for w, _, _ in words))
    placed = place_words(text, [(i, i + 1) for i in range(len(text))])
    assert all(word.rows == tuple(range(word.start, word.end)) for word in placed)


def test_composed_and_decomposed_spelling_match(encoders):
    instruction = encoders.encode("draw a caf\u00e9")
    assert instruction.rows_of("CAFE\u0301")[0][-1] == 31


def test_a_tokenizer_without_offsets_is_refused(encoders):
    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="Slow, which reports no character offsets"):
        TextEncoders(encoders.clip, encoders.clip_tokenizer, encoders.gemma, Slow(), 32)


# What its author should know


def test_words_the_vocabulary_lacks_are_named(encoders):
    prompts = ["make the zebra red, elephant and ZEBRA", "make the red heart blue", "add 🎉 \t!"]
    both = encoders.encode(prompts, ["", "blurry", ""])
    assert both.prompt_notes == (
        ('prompt: the model does not know "zebra", "elephant", "and", "ZEBRA"',),
        ('negative prompt: the model does not know "blurry"',),
        ('prompt: the model does not know "add", "🎉"',),
    )
    assert encoders.encode("make the red heart blue").prompt_notes == (
        (),
    )  # nobody wrote the default


def test_a_note_stays_short(encoders):
    text = " ".join(f"zebra{number}" for number in range(30)) + " " + "x" * 5000
    note = encoders.encode(text, "").notes[0]
    assert len(note) < 300 and note.endswith('"zebra11" and 19 more')
    assert len(encoders.encode("x" * 5000, "").notes[0]) < 100


def test_pieces_are_no_unknown_words_where_words_are_not_whole(encoders, tmp_path):
    published_gemma_tokenizer(tmp_path)
    gemma = load_tokenizer(tmp_path)
    both = TextEncoders(encoders.clip, encoders.clip_tokenizer, encoders.gemma, gemma, 32)
    assert both.encode("a reddog, é", "").prompt_notes == (
        ('prompt: the model does not know "é"',),
    )


def test_a_text_that_is_cut_says_so(encoders):
    short = "make the red heart blue"
    long = " ".join([short] * 7)
    end = (
        "too long, its end is ignored (36 tokens for 32 text rows, 37 tokens for 32 CLIP positions)"
    )
    assert encoders.encode([long, short], [short, long]).prompt_notes == (
        (f"prompt: {end}",),
        (f"negative prompt: {end}",),
    )
    fits = " ".join(["red"] * 31)  # and the mark at the start; CLIP has one at the end, too
    assert encoders.encode(fits, "").prompt_notes == (
        ("prompt: too long, its end is ignored (33 tokens for 32 CLIP positions)",),
    )


def test_notes_follow_their_prompt(encoders, tmp_path):
    two = encoders.encode(["make the zebra red", "make the red heart blue"], "")
    assert two.item(0).prompt_notes == two.prompt_notes[:1] and two.item(1).prompt_notes == ((),)
    assert two.item(0).expand(2).prompt_notes == two.prompt_notes[:1] * 2
    two.save(tmp_path / "two.safetensors")
    assert Instruction.load(tmp_path / "two.safetensors").prompt_notes == two.prompt_notes
    assert two.item(0).expand(2).notes == two.notes == two.prompt_notes[0]


# Threads


def test_threads_get_what_one_alone_gets(encoders):
    texts = [*SENTENCES, "red " * 50, "", "zebra", "put a dog left of the dog " * 9]
    alone = {text: encoders.encode(text, "") for text in texts}

    def differing(k: int) -> set[str]:
        text = texts[k % len(texts)]
        again, before = encoders.encode(text, ""), alone[text]
        return {
            name
            for name, value in vars(again).items()
            if not (
                torch.equal(value, getattr(before, name))
                if isinstance(value, torch.Tensor)
                else value == getattr(before, name)
            )
        }

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(differing, range(64))) == set()


# Instruction


@pytest.fixture(scope="module")
def instruction(encoders) -> Instruction:
    return encoders.encode(SENTENCES[:2], "")


def test_instruction_survives_a_file_bit_for_bit(instruction, tmp_path):
    for number, one in enumerate((instruction, instruction.to(dtype=torch.bfloat16))):
        path = tmp_path / "new" / f"{number}.safetensors"
        one.save(path)
        back = Instruction.load(path)
        for name in ("prompt", "negative", "rows", "content_rows", "truncated"):
            assert getattr(back, name) == getattr(one, name)
        for name in ("states", "pooled", "negative_states", "negative_pooled"):
            assert torch.equal(getattr(back, name), getattr(one, name))
            assert getattr(back, name).dtype == getattr(one, name).dtype
        assert back.rows_of("the") == one.rows_of("the")
    left = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert left == ["0.safetensors", "1.safetensors"]


def test_other_files_are_not_instructions(instruction, tmp_path):
    save_file({"states": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors in here")
    instruction.save(tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    for name in ("other", "text", "cut", "absent"):
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            Instruction.load(tmp_path / f"{name}.safetensors")


def test_expand_repeats_one_prompt(encoders, instruction, tmp_path):
    one = encoders.encode(SENTENCES[0], "")
    three = one.expand(3)
    assert three.states.shape[0] == three.negative_pooled.shape[0] == three.batch == 3
    assert three.prompt == (SENTENCES[0],) * 3
    assert three.rows_of("red") == one.rows_of("red") * 3
    assert instruction.expand(2) is instruction
    three.save(tmp_path / "three.safetensors")
    with pytest.raises(InputError, match="2 prompts for 3 pictures"):
        instruction.expand(3)


def test_instruction_is_short_in_print_and_checked(instruction):
    assert len(repr(instruction)) < 120
    assert "2x32x128" in repr(instruction)
    assert instruction.text_length == 32
    with pytest.raises(InputError, match="negative_pooled"):
        Instruction(**{**vars(instruction), "negative_pooled": instruction.pooled[:, 1:]})
    with pytest.raises(InputError, match="rows has 1 entries for 2 prompts"):
        Instruction(**{**vars(instruction), "rows": instruction.rows[:1]})


# Loading


def test_written_text_encoders_load_to_the_same_instruction(written, instruction):
    loaded = load(written)
    again = loaded.encode(SENTENCES[:2], "")
    assert torch.equal(again.states, instruction.states)
    assert torch.equal(again.pooled, instruction.pooled)
    assert again.rows == instruction.rows


def test_loading_draws_no_random_numbers_and_leaves_nothing_unset(written):
    before = torch.get_rng_state()
    loaded = load(written)
    assert torch.equal(before, torch.get_rng_state())
    for model in (loaded.clip, loaded.gemma):
        assert not model.training
        for module in model.modules():
            tensors = [
                *module._parameters.values(),
                *module._buffers.values(),
                *vars(module).values(),
            ]
            assert not any(isinstance(t, torch.Tensor) and t.is_meta for t in tensors)
        assert not any(p.requires_grad for p in model.parameters())
    rotary = loaded.gemma.rotary_emb.inv_freq
    assert torch.allclose(rotary, 10000.0 ** (-torch.arange(0, 32, 2) / 32))
    assert loaded.clip.text_model.embeddings.position_ids.tolist() == [list(range(32))]


def test_low_precision_keeps_the_rotary_table(written, instruction):
    loaded = load(written, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.gemma.parameters()} == {torch.bfloat16}
    assert loaded.gemma.rotary_emb.inv_freq.dtype == torch.float32
    assert loaded.parameter_bytes * 2 == load(written).parameter_bytes
    again = loaded.encode(SENTENCES[:2], "")
    assert again.states.dtype == again.pooled.dtype == torch.bfloat16
    assert relative_error(again.states.float(), instruction.states) < 0.05


def test_the_unused_end_of_the_language_model_is_never_used(folder, instruction):
    file = folder / "llm_encoder" / "model.safetensors"

    def damage(state):
        unused = [n for n in state if n == "model.norm.weight" or n.startswith("model.layers.2.")]
        assert len(unused) > 5
        for name in unused[1:]:
            state[name].fill_(float("nan"))
        del state[unused[0]]
        state["lm_head.weight"] = torch.full((4, 4), float("nan"))

    change_weights(file, damage)
    assert torch.equal(load(folder).encode(SENTENCES[:2], "").states, instruction.states)


def test_keys_with_and_without_the_outer_name(folder, instruction):
    def strip(state):
        for name in list(state):
            state[name.removeprefix("model.")] = state.pop(name)

    change_weights(folder / "llm_encoder" / "model.safetensors", strip)
    assert torch.equal(load(folder).encode(SENTENCES[:2], "").states, instruction.states)


@pytest.mark.parametrize(
    ("part", "key"),
    [("llm_encoder", "layers.1.mlp.up_proj.weight"), ("text_encoder", "text_projection.weight")],
)
def test_missing_surplus_and_misshapen_keys_are_listed(folder, part, key):
    def damage(state):
        name = next(n for n in state if n.endswith(key))
        del state[name]
        state["adapter.weight"] = torch.zeros(3)
        embedding = next(
            n for n in state if n.endswith(("embed_tokens.weight", "token_embedding.weight"))
        )
        state[embedding] = state[embedding][:-1].clone()

    change_weights(folder / part / "model.safetensors", damage)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for text in (part, key, "adapter.weight", "embed"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "name", ["text_encoder", "tokenizer", "llm_encoder", "llm_encoder/tokenizer_config.json"]
)
def test_a_missing_part_is_named(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_a_missing_shard_or_pickled_weights_are_refused(folder, tmp_path):
    random_causal_model(tmp_path / "sharded")
    next((tmp_path / "sharded").glob("model-00002*")).unlink()
    with pytest.raises(CheckpointError, match="model-00002"):
        load_gemma(tmp_path / "sharded", "cpu", torch.float32)
    weights = folder / "llm_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError, match="safetensors"):
        load(folder)


def test_configs_of_other_models_are_refused(folder):
    change_json(folder / "llm_encoder" / "config.json", model_type="gemma3_text")
    with pytest.raises(CheckpointError, match="gemma3_text.*gemma2"):
        load(folder)
    change_json(folder / "llm_encoder" / "config.json", model_type="gemma2", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    write_text_folders(folder / "other", [*SENTENCES, "add many more words to the vocabulary"])
    shutil.rmtree(folder / "llm_encoder" / "tokenizer.json", ignore_errors=True)
    shutil.copy(folder / "other/llm_encoder/tokenizer.json", folder / "llm_encoder")
    with pytest.raises(CheckpointError, match="Gemma tokenizer has"):
        load(folder)
    (folder / "llm_encoder" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer in .*llm_encoder"):
        load(folder)


@pytest.mark.parametrize("length", [0, 1, 513, 2.5, None])
def test_text_length_is_checked(written, length):
    with pytest.raises(InputError, match="text_length"):
        load(written, text_length=length)


def test_text_encoders_may_be_saved_over_the_folder_they_came_from(folder, instruction):
    save_text_folders(folder, load(folder))
    assert torch.equal(load(folder).encode(SENTENCES[:2], "").states, instruction.states)


# Tokenizers in the form the published checkpoint has them


def published_gemma_tokenizer(folder: Path) -> None:
    """As the files of gemma-2: no padding side, spaces become marks, start mark in front."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581"]
    letters = list("abcdefghijklmnopqrstuvwxyz.,")
    merges = [
        ("r", "e"),
        ("re", "d"),
        ("\u2581", "red"),
        ("\u2581", "d"),
        ("o", "g"),
        ("\u2581d", "og"),
    ]
    vocabulary = [*pieces, *letters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(vocabulary)}, merges,
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    tokenizer.add_special_tokens(pieces[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    settings = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({**marks, **settings}))


def published_clip_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt only."""
    merges = ["r e", "re d</w>", "d o", "do g</w>"]
    letters = "abcdefghijklmnopqrstuvwxyz!"
    pieces = [*letters, *(c + "</w>" for c in letters), "re", "red</w>", "do", "dog</w>"]
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    end = "<|endoftext|>"
    marks = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps({**marks, **settings}))


def test_published_tokenizer_files_are_read_as_meant(encoders, tmp_path):
    for name, write in (("clip", published_clip_tokenizer), ("gemma", published_gemma_tokenizer)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    clip, gemma = load_tokenizer(tmp_path / "clip"), load_tokenizer(tmp_path / "gemma")
    both = TextEncoders(encoders.clip, clip, encoders.gemma, gemma, 12)
    clip_ids, gemma_ids = both.tokenize("a red dog, é")
    tokens = gemma.convert_ids_to_tokens(gemma_ids[0].tolist())
    assert tokens[:5] == ["<pad>"] * 4 + ["<bos>"]
    assert tokens[5:] == ["a", "\u2581red", "\u2581dog", ",", "\u2581", "<0xC3>", "<0xA9>"]
    words = {
        word.word: [tokens[row] for row in word.rows] for word in words_of(both, "a red dog, é")
    }
    assert words == {
        "a": ["a"], "red": ["\u2581red"], "dog": ["\u2581dog"], "é": ["<0xC3>", "<0xA9>"],
    }  # fmt: skip
    clip_tokens = clip.convert_ids_to_tokens(clip_ids[0].tolist())
    assert clip_tokens[:4] == ["<|startoftext|>", "a</w>", "red</w>", "dog</w>"]
    assert set(clip_tokens[5:]) == {"<|endoftext|>"}


# Life of the encoders


def test_text_encoders_are_short_in_print(written):
    loaded = load(written)
    expected = sum(4 * p.numel() for m in (loaded.clip, loaded.gemma) for p in m.parameters())
    assert loaded.parameter_bytes == expected > 0
    assert loaded.device == torch.device("cpu")
    assert len(repr(loaded)) < 100


def test_text_encoders_can_be_trained(written):
    loaded = load(written)
    modules = loaded.modules_to_train()
    states, pooled = loaded.encode_ids(*loaded.tokenize(SENTENCES))
    assert states.shape == (4, 32, 128)
    assert pooled.shape == (4, 64)
    (states.square().mean() + pooled.square().mean()).backward()
    for module in modules:
        missing = [name for name, p in module.named_parameters() if p.grad is None]
        assert not missing
    assert not loaded.encode("", "").states.requires_grad


def test_overflow_is_an_error_not_noise(folder):
    def overflow(state):
        state["model.embed_tokens.weight"].fill_(float("inf"))

    change_weights(folder / "llm_encoder" / "model.safetensors", overflow)
    with pytest.raises(InputError, match="overflow"):
        load(folder).encode("make")


def test_the_toy_refuses_impossible_sizes():
    for options in ({"text_length": 1}, {"text_length": 1000}, {"width": 30}):
        with pytest.raises(InputError, match="width"):
            build_text_encoders(SENTENCES, **options)


def test_a_one_layer_model_has_no_second_last_states():
    with pytest.raises(CheckpointError, match="at least 2"):
        second_last_gemma(SimpleNamespace(num_hidden_layers=1))


def test_importing_the_room_imports_no_transformers():
    code = "import sys, editmgt_lib.text.encoders; sys.exit('transformers' in sys.modules)"
    root = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=120).returncode == 0


def test_rows_outside_the_text_are_refused(encoders):
    whole = encoders.encode(SENTENCES[0])
    for row in (-1, whole.text_length):
        with pytest.raises(InputError, match=f"rows .{row}. are outside its {whole.text_length}"):
            replace(whole, content_rows=((row,),))


# The negative prompt


@contextmanager
def encoded_texts(encoders):
    """Texts that went through the language model inside the block, in their order."""
    seen, states = [], type(encoders).states

    def counting(self, ids):
        seen.append(tuple(ids[0].tolist()))
        return states(self, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(encoders), "states", counting)
        yield seen


def ids_of(encoders, text):
    return tuple(encoders.tokenize(text)[1][0].tolist())


def test_the_negative_prompt_is_encoded_once(written):
    encoders = load(written)
    first, other, ugly = (ids_of(encoders, t) for t in (*SENTENCES[:2], "grey"))
    with encoded_texts(encoders) as seen:
        cold = encoders.encode(SENTENCES[0], "grey")
        again = encoders.encode(SENTENCES[1], "grey")
        encoders.encode("grey", "grey")
        assert seen == [first, ugly, other]
        encoders.encode(SENTENCES[1], SENTENCES[0])  # prompts are not remembered
        assert seen[3:] == [other, first]
    assert torch.equal(again.negative_states, cold.negative_states)
    assert torch.equal(again.negative_pooled, cold.negative_pooled)


def test_without_guidance_no_negative_prompt_is_encoded(encoders, tmp_path):
    with encoded_texts(encoders) as seen:
        one = encoders.encode(SENTENCES[:2], "blue and grey", guided=False)
        assert seen == [ids_of(encoders, t) for t in SENTENCES[:2]]
    assert not one.guided and one.negative_states is None
    both = encoders.encode(SENTENCES[:2], "blue and grey")
    assert both.guided and torch.equal(both.states, one.states)
    assert torch.equal(both.pooled, one.pooled) and both.prompt_notes == one.prompt_notes
    for same in (one.to(dtype=torch.bfloat16), one.item(0), one.item(1).expand(3)):
        assert not same.guided
    one.save(tmp_path / "one.safetensors")
    back = Instruction.load(tmp_path / "one.safetensors")
    assert not back.guided and torch.equal(back.states, one.states)
    assert "states" in repr(back)
    with pytest.raises(InputError, match="both negative_states and negative_pooled"):
        Instruction(**{**vars(both), "negative_pooled": None})


def test_trained_encoders_forget(written):
    encoders = load(written)
    before = encoders.encode(SENTENCES[0], "grey")
    for network in encoders.modules_to_train():
        for weight in network.parameters():
            weight.data.mul_(1.1)
    after = encoders.encode(SENTENCES[0], "grey")
    assert not torch.equal(after.negative_states, before.negative_states)
    assert not torch.equal(after.states, before.states)


def test_what_was_encoded_in_another_precision_is_encoded_again(written):
    encoders = load(written)
    encoders.encode(SENTENCES[0], "grey")
    for network in encoders.networks:
        network.to(torch.bfloat16)
    assert encoders.encode(SENTENCES[0], "grey").negative_states.dtype == torch.bfloat16
