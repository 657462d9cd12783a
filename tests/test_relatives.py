"""What Llama 3 is taken for granted for and its relatives do otherwise, one by one."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from gguf import GGUFReader, TokenType

from convert import CheckpointError, convert
from convert.added import AddedToken, check_templates
from convert.checkpoint import INDEX, open_checkpoint, shard_names
from convert.config import LlamaConfig
from convert.special import adds_special_tokens, end_tokens, special_ids
from convert.tensors import frequency_factors, permute_heads
from llamacli.commands.adapting import base_config
from llamacli.engine import load_vocabulary
from llamacli.gguf import check_llama, read_gguf
from llamacli.show import find_config
from llamacli.verify.report import verify
from llamacli.verify.tokenization import reference
from tests.standins.checkpoint import shape_config, tokenizer, write_checkpoint, write_json
from tests.systems import needs_peak
from tests.test_checkpoint import edit_header, edit_json, refusal

Make = Callable[..., Path]
SIZE = 1024  # tokens of the made-up tokenizer; its last 256 are control tokens
PREFIX = "tokenizer.ggml."


def edit(folder: Path, name: str, **changes: Any) -> None:
    edit_json(folder / name, lambda value: value.update(changes))


def edit_model(folder: Path, **changes: Any) -> None:
    edit_json(folder / "tokenizer.json", lambda value: value["model"].update(changes))


def add_token(folder: Path, text: str, token: int = SIZE, **flags: bool) -> None:
    usual = dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)
    entry = {"id": token, "content": text, **usual, **flags}
    edit_json(folder / "tokenizer.json", lambda value: value["added_tokens"].append(entry))


def converted(folder: Path) -> Path:
    path = folder.parent / "out.gguf"
    convert(folder, path, "Q8_0", force=True)
    check_llama(read_gguf(path))
    return path


# Tokenizers


def test_a_tokenizer_json_of_many_mebibytes(checkpoint: Make) -> None:
    """Vocabularies of 200,000 tokens and more take 24 MiB and more, indented."""
    folder = checkpoint()
    path = folder / "tokenizer.json"
    path.write_text(path.read_text() + " " * (40 << 20))
    assert read_gguf(converted(folder)).metadata[PREFIX + "model"] == "gpt2"
    path.write_text(path.read_text() + " " * (30 << 20))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: it is absurdly large"):
        converted(folder)


def test_missing_ignore_merges_makes_another_tokenizer(checkpoint: Make) -> None:
    folder = checkpoint()
    assert read_gguf(converted(folder)).metadata[PREFIX + "pre"] == "llama-bpe"
    edit_json(folder / "tokenizer.json", lambda value: value["model"].pop("ignore_merges"))
    assert read_gguf(converted(folder)).metadata[PREFIX + "pre"] == "smaug-bpe"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropout": 0.1}, "model.dropout is 0.1"),
        ({"continuing_subword_prefix": "##"}, "model.continuing_subword_prefix is '##'"),
        ({"end_of_word_suffix": "</w>"}, "model.end_of_word_suffix is '</w>'"),
        ({"ignore_merges": 1}, "model.ignore_merges is 1, expected true or false"),
        ({"type": "WordPiece"}, "'WordPiece', not a byte-level BPE"),
    ],
)
def test_what_changes_tokens_is_refused_by_name(
    changes: dict[str, Any], words: str, checkpoint: Make
) -> None:
    folder = checkpoint()
    edit_model(folder, **changes)
    assert words in refusal(folder)


def test_a_decoder_that_joins_more_than_bytes_is_refused(checkpoint: Make) -> None:
    folder = checkpoint()
    bytewise = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    for decoder in (None, bytewise, {"type": "Sequence", "decoders": [bytewise]}):
        edit(folder, "tokenizer.json", decoder=decoder)
        converted(folder).unlink()
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    edit(folder, "tokenizer.json", decoder={"type": "Sequence", "decoders": [bytewise, strip]})
    assert "its decoder is 'Strip'" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
            "rope_theta is 10000.0, and in rope_scaling 500000.0",
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}},
            "the rope_type 'linear' and the type 'yarn'",
        ),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            "rope_parameters and rope_scaling differ",
        ),
        (
            {
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "original_max_position_embeddings": 4096,
                },
                "original_max_position_embeddings": 2048,
            },
            "original_max_position_embeddings is 2048, and 4096 in the rope scaling",
        ),
    ],
)
def test_rope_settings_that_contradict_are_refused(
    changes: dict[str, Any], words: str, checkpoint: Make
) -> None:
    """One version of transformers goes by the one, another by the other."""
    folder = checkpoint()
    edit(folder, "config.json", **changes)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
     ({"truncate": False}, "truncate is False")],
)  # fmt: skip
def test_rope_settings_that_llama_cpp_lacks_are_refused(
    more: dict[str, Any], words: str, checkpoint: Make
) -> None:
    """Where transformers 5 writes them, too."""
    folder = checkpoint()
    edit(folder, "config.json", rope_scaling={"rope_type": "yarn", "factor": 2.0, **more})
    assert words in refusal(folder)


def yarn_logits(folder: Path, times: int = 1, **scaling: float) -> np.ndarray:
    """Of the last of some tokens; queries' and keys' weights are times so many before."""
    scaling = {"rope_type": "yarn", "factor": 4.0, **scaling}
    config = shape_config(
        "tiny", rope_scaling=scaling, max_position_embeddings=256, initializer_range=0.1
    )
    write_checkpoint(folder, config, dtype="F32")
    weights = np.memmap(folder / "model.safetensors", np.uint8, "r+")
    for spec, stored in open_checkpoint(folder).weights.items():
        if spec.head_dim is not None:
            part = weights[stored.offset : stored.offset + stored.nbytes]
            part[:] = (part.copy().view(np.float32) * np.float32(times)).view(np.uint8)
    weights.flush()
    convert(folder, folder / "out.gguf", "F32")
    model = llama_cpp.Llama(
        str(folder / "out.gguf"), n_ctx=256, logits_all=True, verbose=False, n_gpu_layers=0
    )
    model.eval(list(range(100, 140)))
    logits: np.ndarray = np.array(model.scores)[39]
    return logits


def test_yarns_attention_factor_is_what_llama_cpp_multiplies_by(tmp_path: Path) -> None:
    """It scales queries and keys, as larger weights would: told, or as the ratio of two."""
    usual = 1 + 0.1 * math.log(4)
    expected = yarn_logits(tmp_path / "larger", times=2)
    assert expected.std() > 0.5
    told = yarn_logits(tmp_path / "told", attention_factor=2 * usual)
    assert np.abs(told - expected).max() < 1e-2
    ratio = {"mscale": (2 * usual - 1) / (usual - 1), "mscale_all_dim": 1e-9}
    assert np.abs(yarn_logits(tmp_path / "ratio", **ratio) - expected).max() < 1e-2
    assert np.abs(yarn_logits(tmp_path / "usual") - expected).max() > 0.1


@pytest.mark.parametrize(
    "text",
    [
        *("<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|im_end|>", "<pad>"),
        *("<mask>", "<unused12>", "[@BOS@]", "</s>", "[PAD]", "<fim_prefix>"),
    ],
)
def test_markers_are_control_tokens_whatever_special_says(text: str, checkpoint: Make) -> None:
    folder = checkpoint(vocab_size=SIZE + 1, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    add_token(folder, text)
    path = converted(folder)
    assert read_gguf(path).numbers(PREFIX + "token_type")[SIZE] == TokenType.CONTROL
    vocabulary = load_vocabulary(path)
    assert vocabulary.special_tokens[text] == SIZE
    for around in (text, f"a{text}b", f" {text} "):
        assert not set(vocabulary.tokenize(around)) & vocabulary.control_tokens


def test_other_added_tokens_stay_text(checkpoint: Make) -> None:
    folder = checkpoint(vocab_size=SIZE + 1, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    add_token(folder, "<think>")
    vocabulary = load_vocabulary(converted(folder))
    assert vocabulary.tokenize("<think>") == [SIZE]
    assert vocabulary.tokenize("a<think>") == reference(folder / "tokenizer.json")("a<think>")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("<think>", {"rstrip": True}, "'<think>' has rstrip"),
        ("<think>", {"single_word": True}, "'<think>' has single_word"),
        ("<|x|>", {"lstrip": True}, "'<|x|>' of the chat template has lstrip"),
        ("word", {"special": True}, "control token 'word' is a word"),
        ("!", {}, "tokens 33 and 1024 are both '!'"),
        ("\0", {}, "zero byte"),
        ("\ud800", {}, "not valid"),
    ],
)
def test_added_tokens_that_llama_cpp_would_read_otherwise(
    text: str, flags: dict[str, bool], words: str, checkpoint: Make
) -> None:
    folder = checkpoint(vocab_size=SIZE + 1, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    edit_json(
        folder / "tokenizer_config.json",
        lambda value: value.update(chat_template=value["chat_template"] + "<|x|>"),
    )
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["added_tokens"].append({"id": SIZE, "content": text, "special": False, **flags})
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert words in refusal(folder)


def test_added_tokens_that_overlap_are_refused(checkpoint: Make) -> None:
    folder = checkpoint(vocab_size=SIZE + 2, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    add_token(folder, "abc")
    add_token(folder, "cdefg", SIZE + 1)
    assert "'abc' and 'cdefg' can overlap" in refusal(folder)


def test_added_tokens_that_would_take_all_memory_or_time_are_refused(checkpoint: Make) -> None:
    """Of a long one every beginning was kept; flagged ones are looked for in the templates."""
    folder = checkpoint(vocab_size=SIZE + 1, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    add_token(folder, "ab" * 10_000)
    assert "added tokens are absurdly long" in refusal(folder)
    flagged = [AddedToken(i, f"<|{i}|>", True, ("lstrip",)) for i in range(10_000)]
    with pytest.raises(CheckpointError, match="10000 of its added tokens"):
        check_templates(flagged, {"default": "a" * (1 << 20)})


def test_a_vocabulary_padded_beyond_the_tokenizer(checkpoint: Make) -> None:
    """transformers and llama.cpp take it: rows of the embedding that no token has."""
    folder = checkpoint(vocab_size=SIZE + 3, bos_token_id=SIZE - 256, eos_token_id=SIZE - 247)
    write_json(folder / "tokenizer.json", tokenizer(SIZE))
    path = converted(folder)
    file = read_gguf(path)
    assert [t.decode() for t in file.strings(PREFIX + "tokens")[SIZE:]] == [
        f"[PAD{SIZE + i}]" for i in range(3)
    ]
    assert file.numbers(PREFIX + "token_type").tolist()[SIZE:] == [TokenType.UNUSED] * 3
    vocabulary = load_vocabulary(path)
    assert max(vocabulary.tokenize(f"[PAD{SIZE}]")) < SIZE - 256


def test_a_pad_token_outside_the_vocabulary_is_left_out(checkpoint: Make) -> None:
    folder = checkpoint()
    add_token(folder, "<pad>", SIZE, special=True)
    edit(folder, "tokenizer_config.json", pad_token="<pad>")
    edit(folder, "config.json", pad_token_id=SIZE)
    assert special_ids(open_checkpoint(folder))["pad"] is None
    assert PREFIX + "padding_token_id" not in read_gguf(converted(folder)).metadata


def test_no_bos_other_ends_and_named_tokens(checkpoint: Make) -> None:
    folder = checkpoint(bos_token_id=None)
    edit(folder, "tokenizer_config.json", bos_token=None, unk_token="<|end_of_text|>")
    metadata = read_gguf(converted(folder)).metadata
    assert PREFIX + "bos_token_id" not in metadata
    assert metadata[PREFIX + "add_bos_token"] is False
    assert metadata[PREFIX + "unknown_token_id"] == SIZE - 255
    assert load_vocabulary(folder.parent / "out.gguf").bos is None


@pytest.mark.parametrize(
    ("post", "config", "expected"),
    [
        (None, {}, {"bos": True}),
        (None, {"add_bos_token": False, "add_eos_token": False}, {"bos": False, "eos": False}),
        ("ByteLevel", {"add_bos_token": True}, {"bos": False, "eos": False}),
        ("Llama 3", {}, {"bos": True, "eos": False, "sep": False}),
    ],
)
def test_what_is_put_around_a_text(
    post: str | None, config: dict[str, bool], expected: dict[str, bool], checkpoint: Make
) -> None:
    """As llama.cpp's converter tells it, by SpecialVocab in its gguf-py."""
    folder = checkpoint()
    bos = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {"type": "TemplateProcessing", "single": [bos, a], "pair": [bos, a, bos, b]}
    level = {"type": "ByteLevel", "trim_offsets": False}
    kinds = {
        None: None,
        "ByteLevel": level,
        "Llama 3": {"type": "Sequence", "processors": [level, template]},
    }
    edit(folder, "tokenizer.json", post_processor=kinds[post])
    edit(folder, "tokenizer_config.json", **config)
    assert adds_special_tokens(open_checkpoint(folder)) == expected


def test_generation_config_says_what_ends_an_answer(checkpoint: Make) -> None:
    """config.json's eos_token_id may be stale: 25 is an ordinary token."""
    folder = checkpoint(eos_token_id=25)
    edit(folder, "generation_config.json", eos_token_id=[SIZE - 255, SIZE - 247])
    assert end_tokens(open_checkpoint(folder)) == {SIZE - 255, SIZE - 247}
    assert 25 not in load_vocabulary(converted(folder)).end_tokens
    edit_json(folder / "generation_config.json", lambda value: value.pop("eos_token_id"))
    assert 25 in end_tokens(open_checkpoint(folder))


def test_a_tokenizer_saved_with_padding_cuts_as_before(checkpoint: Make) -> None:
    folder = checkpoint()
    padding = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    before = reference(folder / "tokenizer.json")
    edit(folder, "tokenizer.json", padding=padding, truncation=truncation)
    after = reference(folder / "tokenizer.json")
    assert before is not None and after is not None
    assert before("hello, world") == after("hello, world")


# Weights


def test_biases_are_written_in_llama_cpps_order(checkpoint: Make) -> None:
    folder = checkpoint(attention_bias=True, mlp_bias=True, dtype="F32")
    stored = {spec.name: tensor for spec, tensor in open_checkpoint(folder).weights.items()}
    tensors = {tensor.name: tensor for tensor in GGUFReader(converted(folder)).tensors}
    names = [name for name in tensors if name.endswith(".bias")]
    assert len(names) == 2 * 7
    for name in names:
        raw = stored[name].file.read(stored[name].offset, stored[name].nbytes)
        expected = np.frombuffer(raw, np.float32)
        if ".attn_q." in name or ".attn_k." in name:
            expected = permute_heads(expected, 64)
            assert not np.array_equal(expected, np.frombuffer(raw, np.float32))
        assert np.array_equal(tensors[name].data, expected), name
    report = verify(folder.parent / "out.gguf", folder)
    assert next(row for row in report.rows if row.name == "tensors").problems == ()


def test_a_bias_in_hugging_faces_order_is_found(checkpoint: Make) -> None:
    folder = checkpoint(attention_bias=True)
    path = converted(folder)
    tensor = next(t for t in GGUFReader(path).tensors if t.name == "blk.0.attn_q.bias")
    wrong = np.roll(tensor.data, 1).tobytes()
    data = bytearray(path.read_bytes())
    data[tensor.data_offset : tensor.data_offset + len(wrong)] = wrong
    path.write_bytes(data)
    row = next(row for row in verify(path, folder).rows if row.name == "tensors")
    assert "blk.0.attn_q.bias" in "".join(row.problems)


def test_model_safetensors_is_taken_before_an_index(checkpoint: Make) -> None:
    """That is transformers' order; here and on the Hub."""
    folder = checkpoint(shards=2)
    shards = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert shard_names(folder) == shards
    config = json.loads((folder / "config.json").read_text())
    write_checkpoint(folder.parent / "other", config, seed=5)
    (folder.parent / "other" / "model.safetensors").rename(folder / "model.safetensors")
    assert shard_names(folder) == ["model.safetensors"]
    assert shard_names(folder, {*shards, INDEX, "model.safetensors"}) == ["model.safetensors"]
    told: list[str] = []
    convert(folder, folder.parent / "out.gguf", "F32", notice=told.append)
    taken = f"model.safetensors is taken, as transformers does, and not {shards[0]} of {INDEX}"
    assert told == [taken]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_git_lfs_pointer_is_called_what_it_is(name: str, checkpoint: Make) -> None:
    folder = checkpoint()
    (folder / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4976698672\n"
    )
    assert f"{name}: it is a Git LFS pointer" in refusal(folder)


@needs_peak
def test_headers_take_little_memory_however_many_they_are(tmp_path: Path) -> None:
    """Forty shards, each with a header of 16 MB that JSON makes ten to twenty times as much of."""
    folder = tmp_path / "many"
    write_checkpoint(folder, shape_config("tiny"))
    (folder / "model.safetensors").unlink()
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}},'
    many = "".join(entry.format(f"t{i}") for i in range(230_000)).rstrip(",")
    names = [f"model-{i:05d}-of-00040.safetensors" for i in range(1, 41)]
    for i, name in enumerate(names):
        raw = f"{{{many.replace('t', f's{i}t')}}}".encode() if i % 2 else b"[" + b"[]," * 5_000_000
        raw = raw[: 16 << 20].ljust(1024)
        with (folder / name).open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            file.truncate(1 << 34)
    write_json(folder / INDEX, {"weight_map": {f"t{i}": name for i, name in enumerate(names)}})
    script = (
        "import sys; from pathlib import Path; from convert import CheckpointError\n"
        "from llamacli.system import peak_resident\n"
        "from convert.checkpoint import open_checkpoint\n"
        "try: open_checkpoint(Path(sys.argv[1]))\n"
        "except CheckpointError as error: print(error)\n"
        "print(peak_resident())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
    )
    fault, peak = done.stdout.splitlines()
    assert "safetensors: " in fault and int(peak) < 1 << 30


# What is written is what is run


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config.json", {"rope_theta": 0.5}, "rope.freq_base is 0.5"),
        ("config.json", {"rms_norm_eps": 2.0}, "layer_norm_rms_epsilon is 2.0"),
        ("config.json", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("config.json", {"rope_interleaved": True}, "rope_interleaved is True"),
        (None, {}, "eos_token_id is missing"),
    ],
)
def test_no_file_is_converted_that_would_not_be_run(
    file: str | None, changes: dict[str, Any], words: str, checkpoint: Make, tmp_path: Path
) -> None:
    folder = checkpoint()
    for name in [file] if file else ["config.json", "generation_config.json"]:
        edit(folder, name, **(changes or {"eos_token_id": None}))
    if file is None:
        edit(folder, "tokenizer_config.json", eos_token=None)
    target = tmp_path / "out.gguf"
    command = [sys.executable, "-m", "llamacli", "convert", str(folder), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3 and words in done.stderr and done.stdout == ""
    assert not target.exists() and not list(tmp_path.glob(".out.gguf*"))


@pytest.mark.parametrize(
    ("theta", "head_dim", "factor"),
    [(500000.0, 128, 8.0), (500000.0, 64, 32.0), (500000.0, 128, 32.0), (10000.0, 64, 8.0)],
)
def test_rope_factors_are_those_of_llama_cpps_converter(
    theta: float, head_dim: int, factor: float
) -> None:
    """The bits that its formula gives in PyTorch; make test-parity compares whole files."""
    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig.from_dict(
        shape_config("tiny", rope_theta=theta, head_dim=head_dim, rope_scaling=scaling)
    )
    factors = frequency_factors(config)
    assert factors is not None and factors.dtype == np.float32
    recorded = json.loads((Path(__file__).parent / "parity" / "rope_factors.json").read_text())
    assert factors.view(np.uint32).tolist() == recorded[f"{theta} {head_dim} {factor}"]
    assert math.isclose(float(factors[-1]), factor) and factors[0] == 1


def names_in(path: Path) -> set[str]:
    return {tensor.name for tensor in GGUFReader(path).tensors}


def test_an_untied_model_without_its_head_is_refused(checkpoint: Make) -> None:
    folder = checkpoint(tie_word_embeddings=True)
    edit(folder, "config.json", tie_word_embeddings=False)
    assert "lm_head.weight is missing" in refusal(folder)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_lm_head_beside_tied_embeddings(dtype: str, checkpoint: Make) -> None:
    """Tied weights may be stored twice. Where fine-tuning has made two of them, both are taken, as
    transformers and llama.cpp do, whatever config.json says."""
    folder = checkpoint(dtype=dtype)
    edit(folder, "config.json", tie_word_embeddings=True)
    opened = open_checkpoint(folder)
    assert opened.notes == (
        "config.json ties lm_head.weight to the embedding, but it differs: it is kept",
    )
    path = converted(folder)
    assert "output.weight" in names_in(path)
    assert find_config(read_gguf(path)).notices == (
        "its llamacli.llama_config says tie_word_embeddings True, the rest of its metadata False",
    )
    assert not base_config(str(path), folder, None).tie_word_embeddings
    assert verify(path, folder).failed == ()
    stored = {spec.source: tensor for spec, tensor in opened.weights.items()}
    embedding, head = stored["model.embed_tokens.weight"], stored["lm_head.weight"]
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(head.offset)
        file.write(embedding.file.read(embedding.offset, embedding.nbytes))
    assert open_checkpoint(folder).notes == ()
    assert "output.weight" not in names_in(converted(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(head.offset + head.nbytes - 2)
        file.write(b"\0\0")
    assert "output.weight" in names_in(converted(folder))


def test_tied_weights_by_the_heads_name_alone(checkpoint: Make) -> None:
    """As safetensors' save_model keeps them: under the first of their names in the alphabet."""
    folder = checkpoint(tie_word_embeddings=True)
    expected = converted(folder).read_bytes()
    edit_header(
        folder / "model.safetensors",
        lambda h: h.update({"lm_head.weight": h.pop("model.embed_tokens.weight")}),
    )
    assert converted(folder).read_bytes() == expected


def test_a_template_with_tokens_beyond_the_embedding_is_told(checkpoint: Make) -> None:
    """A tokenizer saved with more tokens than the weights were resized for."""
    folder = checkpoint()
    add_token(folder, "<|turn|>", SIZE, special=True)
    assert open_checkpoint(folder).notes == ()
    edit(folder, "tokenizer_config.json", chat_template="<|turn|>{{ messages }}")
    assert open_checkpoint(folder).notes == (
        "the chat template's '<|turn|>' is beyond the embedding's rows: it is text",
    )
