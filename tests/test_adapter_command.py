"""llamacli convert with adapters, as a user meets it: PEFT's folders, the Hub, and bad input."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from convert import convert
from tests import moments
from tests.standins import adapter as standin
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.standins.hub import Hub, read_repo, serve
from tests.systems import needs_kills
from tests.test_adapter import assert_close
from tests.test_cli import llamacli, one_line

BASE, LORA = "someone/Base-Tiny", "someone/Tiny-Lora"
SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 600}
CONFIG = shape_config("tiny", **SMALL)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "base", CONFIG, dtype="F32")
    return tmp_path / "base"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return standin.write_adapter(tmp_path / "lora", CONFIG, base_model_name_or_path=BASE)


@pytest.fixture
def hub(base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as running:
        running.repos |= {BASE: read_repo(base), LORA: read_repo(lora)}
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        yield running


def test_a_folder_becomes_a_file_in_the_store(base: Path, lora: Path, store: Path) -> None:
    done = llamacli("convert", str(lora), "--base", str(base))
    assert done.stdout == f"{store / 'adapters' / 'lora.gguf'}\n"
    assert "14 matrices adapted, rank 4, alpha 8" in done.stderr
    assert not [*store.glob("*.gguf")]  # it is no model


def test_list_show_and_rm_know_an_adapter(
    base: Path, lora: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert llamacli("convert", str(lora), "--base", str(base)).returncode == 0
    assert llamacli("list").stdout.splitlines()[1].split()[:2] == ["lora", "F32"]
    assert f"an adapter of {BASE}" in llamacli("list").stdout
    (parsed,) = json.loads(llamacli("list", "--json").stdout)
    path = store / "adapters" / "lora.gguf"
    assert (parsed["path"], parsed["adapter_of"]) == (str(path), BASE)
    for name in ("lora", str(path)):
        shown = json.loads(llamacli("show", name, "--json").stdout)
        assert shown["base"] == BASE
        assert (shown["matrices"], shown["ranks"], shown["alpha"]) == (14, [4, 4], 8)
    told = llamacli("show", "lora").stdout
    assert re.search(r"^rank +4$", told, re.MULTILINE)
    assert re.search(rf"^base +{BASE}$", told, re.MULTILINE)
    assert "blk.0.attn_q.weight.lora_a" in llamacli("show", "lora", "--tensors").stdout
    for part in ("--config", "--structure", "--rope"):
        assert "it is an adapter, not a model" in llamacli("show", "lora", part, check=3).stderr
    with monkeypatch.context() as beside:  # its folder, which is called so, too
        beside.chdir(lora.parent)
        assert llamacli("show", "lora").stdout == told
        assert "`llamacli convert lora/` makes" in llamacli("show", "lora/", check=2).stderr
    assert llamacli("rm", "lora", "--yes").stderr.startswith("llamacli: removed lora (")
    assert not path.exists()
    llamacli("show", "lora", check=4)
    llamacli("rm", "lora", "--yes", check=4)


def test_the_config_is_that_of_a_file_in_the_store(base: Path, lora: Path, store: Path) -> None:
    """No network is needed where a model of the base is there that llamacli converted."""
    store.mkdir()
    convert(base, store / "Base-Tiny-Q8_0.gguf", "Q8_0")
    assert llamacli("convert", str(lora), "-o", str(lora.parent / "a.gguf")).returncode == 0
    by_file = ("--base", str(store / "Base-Tiny-Q8_0.gguf"), "-o", str(lora.parent / "b.gguf"))
    assert llamacli("convert", str(lora), *by_file).returncode == 0
    assert (lora.parent / "a.gguf").read_bytes() == (lora.parent / "b.gguf").read_bytes()


def test_an_adapter_on_the_hub(
    hub: Hub, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its base config.json alone is fetched; offline the cache has it all."""
    done = llamacli("convert", LORA)
    assert done.stdout == f"{store / 'adapters' / 'Tiny-Lora.gguf'}\n"
    assert f"the config of the base {BASE} is fetched from the Hub" in done.stderr
    cached = {path.name for path in (tmp_path / "hf").rglob("snapshots/*/*")}
    assert cached == {"config.json", "adapter_config.json", "adapter_model.safetensors"}
    first = (store / "adapters" / "Tiny-Lora.gguf").read_bytes()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    llamacli("convert", LORA, "--force")
    assert (store / "adapters" / "Tiny-Lora.gguf").read_bytes() == first


def test_a_merge_of_what_the_hub_has(hub: Hub, base: Path, lora: Path, store: Path) -> None:
    done = llamacli("convert", BASE, "--quant", "F32", "--merge", f"{LORA}:0.5")
    target = store / "Base-Tiny-Tiny-Lora-F32.gguf"
    assert done.stdout == f"{target}\n"
    standin.merge(base, lora, store / "expected", {"": 2.0}, times=0.5)
    convert(store / "expected", store / "expected.gguf", "F32")
    assert_close(target, store / "expected.gguf")


@needs_kills
def test_a_merge_that_was_killed_is_gone_on_with(hub: Hub, store: Path, tmp_path: Path) -> None:
    """To the same bytes; nothing is under the final name before."""
    words = ["convert", BASE, "--quant", "Q8_0", "--merge", f"{LORA}:0.5", "--threads", "1"]

    def run(moment: int = -1) -> moments.Ended:
        return moments.run(tmp_path / "child", words, number=signal.SIGKILL, moment=moment)

    run()  # the first has more to import
    (target,) = store.glob("*.gguf")
    target.unlink()
    usual = run()
    whole, told = target.read_bytes(), []
    start, end = usual.entered["resumable_file"], usual.entered["_print_report"]
    for share in (0.4, 0.6, 0.8):
        target.unlink()
        assert run(start + int(share * (end - start))).code == -signal.SIGKILL
        assert not target.exists()
        told.append(run().said)
        assert target.read_bytes() == whole
    assert any("going on from what the last call has done" in said for said in told)


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (["LORA", "--base", "BASE", "--q4"], 2, "written as F32, F16, BF16, not as Q4_K_M"),
        (["LORA", "--base", "nowhere"], 4, "base is 'nowhere', which isn't here; name it with"),
        (["LORA", "--base", "BASE", "--merge", "LORA"], 2, "takes --base, --quant, -o and --force"),
        (["LORA", "--base", "BASE", "--verify"], 2, "takes --base, --quant, -o and --force alone"),
        (["BASE", "--base", "BASE"], 2, "--base goes with an adapter"),
        (["BASE", "--merge", "LORA", "--verify"], 2, "a merged adapter differs from"),
        (["BASE", "--merge", "nowhere"], 4, "there is no adapter's folder nowhere"),
        (["BASE", "--merge", "LORA:1e9"], 2, "the scale of LORA is 1e9; give a number up to"),
        (["BASE", "--merge", "LORA:nan"], 2, "the scale of LORA is nan"),
        (["BASE", "--merge", "OTHER"], 3, "is it the adapter of another model?"),
        (["OTHER", "--base", "BASE"], 3, "is it the adapter of another model?"),
        (["BASE", "--merge", "DORA"], 3, "it is DoRA (use_dora)"),
    ],
)
def test_bad_usage_and_bad_adapters_are_named(
    arguments: list[str], code: int, fault: str, base: Path, lora: Path, store: Path
) -> None:
    places = {"BASE": base, "LORA": lora}
    wide = shape_config("tiny", **{**SMALL, "hidden_size": 128, "intermediate_size": 64})
    places["OTHER"] = standin.write_adapter(lora.parent / "other", wide)
    places["DORA"] = standin.write_adapter(lora.parent / "dora", CONFIG, use_dora=True)
    given = [
        str(places[name]) + colon + scale if name in places else argument
        for argument in arguments
        for name, colon, scale in [argument.partition(":")]
    ]
    said = one_line(llamacli("convert", *given, check=code))
    for name, path in places.items():
        said = said.replace(str(path), name)
    assert fault in said
    assert not [*store.rglob("*.gguf")]
