"""models.toml: the package's own entries, the user's, and each way the user's can be wrong."""

import json
import re
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from convert import QUANTIZATIONS
from convert.checkpoint import read_config
from convert.config import LlamaConfig
from convert.tensors import llama_tensors
from llamacli.engine import SamplingSettings
from llamacli.engine.fit import DEFAULT_CONTEXT
from llamacli.errors import InvalidModelError, NotFoundError
from llamacli.models import find_checkpoint, registry
from tests.standins import smollm2
from tests.standins.checkpoint import shape_config
from tests.standins.hollow import without_weights, write_hollow

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[[str], Path]

SHAPES = {
    "llama-3-8b": "8b",
    "llama-3-70b": "70b",
    "llama-3.1-8b": "8b",
    "llama-3.1-70b": "70b",
    "llama-3.1-405b": "405b",
    "llama-3.2-1b": "1b",
    "llama-3.2-3b": "3b",
    "llama-3.3-70b": "70b",
}
SMOLLM2: dict[str, dict[str, int]] = {
    "smollm2-135m": {},
    "smollm2-360m": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
                     "num_attention_heads": 15, "num_key_value_heads": 5},
    "smollm2-1.7b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                     "num_attention_heads": 32, "num_key_value_heads": 32},
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the user's models.toml."""
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path))

    def write(text: str) -> Path:
        path = tmp_path / "models.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_all_the_models_have_a_short_name(write: Write) -> None:
    sources = {name: model.source for name, model in registry.models().items()}
    assert sources == {
        "demo": "built-in",
        "llama-3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
        "llama-3-70b": "meta-llama/Meta-Llama-3-70B-Instruct",
        "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B-Instruct",
        "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B-Instruct",
        "llama-3.1-405b": "meta-llama/Meta-Llama-3.1-405B-Instruct",
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
        "llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
        "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
        "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    }
    for model in registry.models().values():
        known = {name: value for name, value in vars(model).items() if name != "draft"}
        assert all(value is not None for value in known.values()), model.name
        assert model.draft is None or model.draft in registry.models()


def test_quantizations_are_those_of_the_converter() -> None:
    assert set(registry.QUANTIZATIONS) == QUANTIZATIONS.keys()


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_what_a_conversion_gives(
    name: str, write: Write, llama3_files: Path, tmp_path: Path
) -> None:
    """Header and all, with the real tokenizer; to the million bytes that the file rounds to."""
    check_sizes(name, LlamaConfig.from_dict(shape_config(SHAPES[name])), llama3_files, tmp_path)


@pytest.mark.parametrize("name", SMOLLM2)
def test_sizes_of_relatives(name: str, write: Write, tmp_path: Path) -> None:
    """By the configs on the Hub and SmolLM2's own tokenizer, which its three sizes share."""
    try:
        folder = smollm2.folder()
    except smollm2.CannotBeHadError as error:
        pytest.skip(str(error))
    raw = {**json.loads((folder / "config.json").read_text()), **SMOLLM2[name]}
    check_sizes(name, LlamaConfig.from_dict(raw), folder, tmp_path)


def test_sizes_of_the_demo(write: Write, tmp_path: Path) -> None:
    with as_file(files("llamacli") / "demo") as folder:
        check_sizes("demo", read_config(folder), folder, tmp_path, nearest=10_000)


def check_sizes(
    name: str, config: LlamaConfig, folder: Path, place: Path, nearest: int = 10**6
) -> None:
    model = registry.find(name)
    assert model is not None
    hollow = write_hollow(without_weights(folder, config), place / "hollow", model.quantization)
    size = hollow.stat().st_size
    parameters = sum(spec.parameters for spec in llama_tensors(config))
    each = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    cache = each * min(config.max_position_embeddings, DEFAULT_CONTEXT)
    assert model.parameters == parameters
    assert model.checkpoint_bytes == pytest.approx(2 * parameters, abs=nearest)
    assert model.gguf_bytes == pytest.approx(size, abs=nearest)
    assert model.memory_bytes == pytest.approx(size + cache, abs=nearest)


def test_found_by_name_or_hub_id_in_any_case(write: Write) -> None:
    for name in ("llama-3.1-8b", "Llama-3.1-8B", "meta-llama/meta-llama-3.1-8b-instruct"):
        model = registry.find(name)
        assert model is not None and model.name == "llama-3.1-8b"
    assert registry.find("llama-3.1-9b") is None


def test_the_users_file_adds_and_changes(write: Write) -> None:
    write(
        '[mine]\nsource = "someone/Their-Llama"\ncontext = 4096\n'
        '["llama-3.1-8b"]\nquantization = "Q8_0"\n'
        '["llama-3.2-1b"]\nsource = "/data/checkpoint"\n'
        '["Llama-3.2-3B"]\nrevision = "v1"\n'
    )
    entries = registry.models()
    assert entries["mine"] == registry.Model("mine", "someone/Their-Llama", context=4096)
    changed = entries["llama-3.1-8b"]
    assert changed.source.startswith("meta-llama/") and changed.quantization == "Q8_0"
    assert changed.checkpoint_bytes is not None and changed.gguf_bytes is None  # that of Q4_K_M
    assert entries["llama-3.2-1b"] == registry.Model("llama-3.2-1b", "/data/checkpoint")
    assert entries["llama-3.2-3b"].revision == "v1" and entries["llama-3.2-3b"].gguf_bytes


def test_defaults(write: Write) -> None:
    assert registry.defaults() == {}
    write('[defaults]\nmodel = "llama-3.1-8b"\ncontext = 4096\ntemperature = 0\ntop_p = 0.5\n')
    expected = {"model": "llama-3.1-8b", "context": 4096, "temperature": 0, "top_p": 0.5}
    assert registry.defaults() == expected
    write('[defaults]\ncontext = "auto"\nkv_type = "q8_0"\n')
    assert registry.defaults() == {"context": "auto", "kv_type": "q8_0"}
    assert "defaults" not in registry.models()


def test_the_documents_example_is_right(write: Write) -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    write(text.partition("```toml\n")[2].partition("```")[0])
    assert registry.defaults()["model"] == "llama-3.1-8b"
    assert registry.models()["my-tune"].quantization == "Q5_K_M"
    every = registry.DEFAULT_KEYS.keys() - {"workers", "split"}
    assert all(f"`{key}`" in text for key in every)


def test_the_document_has_every_short_name() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.partition("| name | parameters |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", table)) == registry.models().keys() - {"demo"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mine]\nsource = 'a/b'\ncontxt = 5\n", "mine.contxt is not known; did you mean con"),
        ("[mine]\nsource = 'a/b'\nwho = 5\n", "known are source, revision"),
        ("# x\n\n[mine]\nlicense = 'MIT'\n", "mine has no source"),
        ("[mine]\nsource = 5\n", "is 5, not a line of text"),
        ("[mine]\nsource = 'no-owner'\n", "neither a Hub id"),
        ("[mine]\nsource = '../a/b'\n", "neither a Hub id"),
        ("[mine]\nsource = 'built-in'\n", "which demo alone is"),
        ("[mine]\nsource = 'a/b'\nrevision = '../x'\n", "not a branch, tag or commit"),
        ("[mine]\nsource = 'a/b'\nquantization = 'Q3'\n", "none of F32, BF16"),
        ("[mine]\nsource = 'a/b'\ncontext = '8k'\n", "not a whole number"),
        ("[mine]\nsource = 'a/b'\ncontext = true\n", "not a whole number"),
        ("[mine]\nsource = 'a/b'\ncontext = 0\n", "from 1"),
        ("[mine]\nsource = 'a/b'\nlicense = \"a\\u001b[31m\"\n", "not a line of text"),
        ("[demo]\nsource = 'a/b'\n", "built-in model and can't be changed"),
        ("mine = 5\n", "is not a table"),
        ("\nmine = {source = 'a/b', context = 0}\n", "mine.context is 0"),
        ("[a]\nsource = '''a\nb'''\n", "not a line of text"),
        ("mine.source = 'a/b'\nmine.context = 0\n", "mine.context is 0"),
        ("['../x']\nsource = 'a/b'\n", "no fit name"),
        ("[\"a\\u001b\"]\nsource = 'a/b'\n", "no fit name"),
        ("[mine]\nsource =\n", "not TOML: "),
        ("[mine]\n[mine]\n", "not TOML: "),
        ("[a]\nsource = 'a/b'\n[defaults]\ntemprature = 1\n", "did you mean temperature?"),
        ("[defaults]\ntemperature = 'hot'\n", "not a number"),
        ("[defaults]\ntop_p = nan\n", "not a number from 0 to 1"),
        ("[defaults]\nthreads = 0\n", "from 1 to 512"),
        ("[defaults]\ncontext = 'all'\n", "not a whole number"),
        ("[defaults]\nkv_type = 'q2'\n", "none of f16, q8_0, q4_0"),
        ("[defaults]\nmodel = ''\n", "not a line of text"),
        ("x = 1\ndefaults = 5\n", "is not a table"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, words: str, write: Write) -> None:
    path = write(text)
    with pytest.raises(InvalidModelError) as caught:
        registry.defaults()
        registry.models()
    assert str(path) in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "most"), [("temperature", 100), ("top_k", (1 << 31) - 1), ("repeat_penalty", 100)]
)
def test_what_no_answer_can_be_drawn_by_is_told_as_the_files(
    key: str, most: int, write: Write
) -> None:
    write(f"[defaults]\n{key} = {most}\n")
    SamplingSettings(**registry.defaults())
    write(f"[defaults]\n{key} = {most + 1}\n")
    with pytest.raises(InvalidModelError, match=f"defaults.{key} is {most + 1}"):
        registry.defaults()


@pytest.mark.parametrize(
    "raw",
    [
        b"[mine]\nsource = '\xff'",
        b"a = " + b"[" * 100_000,
        b"a." * 5000 + b"b = 1",
        b"a = " + b"9" * 10_000,
        b"\0",
        b"x = 1\n" * 100_000,
        b"a = '''" + b"\n" * 100_000,
    ],
)
def test_hostile_bytes_are_a_named_error(raw: bytes, write: Write) -> None:
    path = write("")
    path.write_bytes(raw)
    with pytest.raises(InvalidModelError, match=r"models\.toml"):
        registry.models()


def test_the_variable_names_a_file_or_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[mine]\nsource = 'a/b'\n")
    monkeypatch.setenv("LLAMACLI_CONFIG", str(other))
    assert registry.find("mine") is not None
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path))
    assert registry.find("mine") is None
    monkeypatch.setenv("LLAMACLI_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(NotFoundError, match=r"missing\.toml"):
        registry.models()


def test_an_id_may_stand_in_the_hubs_own_address() -> None:
    for name in ("https://huggingface.co/owner/Repo-1", "hf.co/owner/Repo-1/tree/main"):
        assert find_checkpoint(name) == find_checkpoint("owner/Repo-1")
    model, folder = find_checkpoint("https://huggingface.co/owner/Repo-1")
    assert (model.name, model.source, folder) == ("Repo-1", "owner/Repo-1", None)
