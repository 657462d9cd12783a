"""A mixture made for a size: what is chosen, what it costs, its recipe, and what is refused."""

import itertools
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type

import convert as convert_package
from convert import (
    Checkpoint,
    CheckpointError,
    Fit,
    ImportanceError,
    QuantizationError,
    SizeError,
    convert,
    fit,
    header_bytes,
    open_checkpoint,
    parse_recipe,
    plan_tensors,
    sized,
    write_gguf,
    write_importance,
)
from convert.choice import Option, choose
from convert.fisher import Information, fisher_information
from convert.kernels import ggml_kernel
from convert.measure import RUNS, SAMPLED, Measured, _runs, measure
from convert.quantization import (
    NEED_IMPORTANCE,
    QUANTIZATIONS,
    adapted,
    by_recipe,
    named_quantization,
)
from convert.recipe import packed_columns, unpacked_columns
from convert.sensitivity import costs
from convert.tensors import TensorSpec, llama_tensors
from demo.held_out import conversations
from llamacli import machine
from llamacli.cli import main
from llamacli.commands.options import parse_size
from llamacli.engine import largest_file
from llamacli.errors import DoesNotFitError, UsageError
from llamacli.gguf import check_llama, read_gguf
from llamacli.machine import FreeMemory
from llamacli.quality import compare, sample_tokens
from tests.standins.checkpoint import shape_config, write_checkpoint
from tests.test_mixtures import some_importances

DEMO = Path(__file__).parents[1] / "llamacli" / "demo"
MADE_FOR = 2_400_000  # bytes; Q4_K_M takes as many


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit") / "tiny"
    write_checkpoint(folder, shape_config("tiny"))
    return folder


@pytest.fixture(scope="module")
def known() -> Callable[[pytest.MonkeyPatch], None]:
    """known(patch): fit finds gradients, and types' errors in a matrix, once while the patch lasts.

    Neither depends on the size of the file.
    """
    gradients: dict[object, Information] = {}
    errors: dict[object, Measured] = {}

    def gradients_once(checkpoint: Checkpoint, tokens: Sequence[int], *told: Any) -> Information:
        key = checkpoint.folder, tuple(tokens)
        if key not in gradients:
            gradients[key] = fisher_information(checkpoint, tokens, *told)
        return gradients[key]

    def errors_once(
        spec: TensorSpec, stored: Any, kernels: dict[Type, Any], *given: Any
    ) -> Measured:
        inputs, weights, pairs = given
        by = tuple((kind, one.tobytes()) for kind, one in weights.items())
        key = spec, (*kernels,), None if inputs is None else inputs.tobytes(), by, pairs
        if key not in errors:
            errors[key] = measure(spec, stored, kernels, *given)
        return errors[key]

    def use(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("convert.sized.fisher_information", gradients_once)
        patch.setattr("convert.sized.measure", errors_once)

    return use


@pytest.fixture(scope="module")
def made(known: Callable[[pytest.MonkeyPatch], None]) -> Fit:
    """What `convert --fit 2.4MB` finds for the demo."""
    checkpoint = open_checkpoint(DEMO)
    with pytest.MonkeyPatch.context() as patch:
        known(patch)
        tokens = sample_tokens(checkpoint)
        return fit(checkpoint, MADE_FOR, "2.4MB", tokens=tokens, threads=1)


def run(*words: str | Path | int) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def types_of(path: Path) -> dict[str, str]:
    return {one.name: one.tensor_type.name for one in gguf.GGUFReader(path).tensors}


def recipe_of(path: Path) -> str:
    contents = gguf.GGUFReader(path).fields["llamacli.recipe"].contents()
    assert isinstance(contents, str)
    return contents


@pytest.mark.parametrize("seed", range(20))
def test_choice_is_the_best_there_is_or_nearly(seed: int) -> None:
    """Next to all choices there are, of five matrices: few, so that the last bytes matter."""
    dice = random.Random(seed)
    options = [
        [
            Option(kind, dice.randint(1, 40), dice.random())
            for kind in list(Type)[: dice.randint(1, 5)]
        ]
        for _ in range(5)
    ]
    least = sum(min(one.nbytes for one in each) for each in options)
    limit = least + dice.randint(0, 60)
    chosen = choose(options, limit)
    assert sum(one.nbytes for one in chosen) <= limit
    assert all(one in each for one, each in zip(chosen, options, strict=True))
    fitting = [
        sum(one.cost for one in each)
        for each in itertools.product(*options)
        if sum(one.nbytes for one in each) <= limit
    ]
    assert min(fitting) - 1e-9 <= sum(one.cost for one in chosen) <= 1.1 * min(fitting) + 0.1


def test_choice_of_the_smallest_and_below() -> None:
    options = [[Option(Type.Q8_0, 9, 0.1), Option(Type.Q4_0, 5, 0.4)], [Option(Type.F16, 7, 0.0)]]
    assert [one.nbytes for one in choose(options, 12)] == [5, 7]
    assert [one.nbytes for one in choose(options, 16)] == [9, 7]
    with pytest.raises(ValueError, match="1 bytes too few"):
        choose(options, 11)


def test_the_file_is_as_large_as_it_says_and_fills_the_limit(made: Fit, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    report = write_gguf(open_checkpoint(DEMO), target, made.quantization, threads=1)
    assert report.target_nbytes == target.stat().st_size <= made.nbytes <= MADE_FOR
    assert MADE_FOR - made.nbytes < 0.01 * MADE_FOR
    assert types_of(target) | {m.spec.name: m.type.name for m in made.matrices} == types_of(target)
    assert abs(sum(one.cost for one in made.matrices) - 1) < 1e-9


def test_it_loses_less_than_the_named_mixtures_of_its_size(
    known: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo is a trained model; the text is one that it wasn't trained on."""
    known(monkeypatch)
    held_out = conversations(random.Random(1), 200)
    text = "\n\n".join(turn["content"] for one in held_out for turn in one)[:4000]
    convert(DEMO, tmp_path / "reference.gguf", "BF16")
    checkpoint, ratios = open_checkpoint(DEMO), {}
    tokens = sample_tokens(checkpoint)
    for name in ("Q3_K_M", "IQ4_XS", "Q6_K"):
        named, ours = tmp_path / f"{name}.gguf", tmp_path / f"as-{name}.gguf"
        convert(DEMO, named, name)
        fitted = fit(checkpoint, named.stat().st_size, name, tokens=tokens, threads=1)
        write_gguf(checkpoint, ours, fitted.quantization)
        theirs, mine = compare([named, ours], tmp_path / "reference.gguf", text, threads=1)
        assert mine.nbytes <= theirs.nbytes
        ratios[name] = mine.prediction.divergence / theirs.prediction.divergence
    assert max(ratios.values()) <= 0.9, ratios


def test_types_that_need_a_matrix_are_taken_with_one_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny", num_hidden_layers=1))
    checkpoint = open_checkpoint(tmp_path / "c")
    least = smallest(lambda size: fit(checkpoint, size, "x"))
    without = fit(checkpoint, least, "x")
    assert not {one.type for one in without.matrices} & set(NEED_IMPORTANCE)
    matrix = some_importances(checkpoint)
    with pytest.raises(SizeError) as told:
        fit(checkpoint, 1000, "x", importance=matrix)
    assert told.value.hint == ""
    file, made, again = (tmp_path / name for name in ("m.imatrix", "made.gguf", "again.gguf"))
    write_importance(file, matrix)
    words = ("convert", tmp_path / "c", "-o", made, "--fit", str(least - 4096))
    assert run(*words, "--imatrix", file) == 0
    assert set(types_of(made).values()) & {kind.name for kind in NEED_IMPORTANCE}
    assert made.stat().st_size <= least - 4096
    words_again = ("convert", tmp_path / "c", "--recipe", made, "-o", again)
    assert run(*words_again, "--imatrix", file) == 0
    assert again.read_bytes() == made.read_bytes()
    capfd.readouterr()
    assert run(*words_again, "--force") == 3
    err = capfd.readouterr().err
    assert "made by the importance matrix m.imatrix" in err
    assert "without an importance matrix" in err


def smallest(try_size: Callable[[int], Fit]) -> int:
    """What the refusal of a size says is the smallest."""
    with pytest.raises(SizeError) as told:
        try_size(1000)
    assert "--imatrix" in told.value.hint
    return int(told.value.fault.rpartition(" ")[2].replace(",", ""))


def test_what_is_said_to_be_the_smallest_can_be_made(tiny: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    least = smallest(lambda size: fit(checkpoint, size, "x"))
    made = fit(checkpoint, least, "x")
    assert write_gguf(checkpoint, tmp_path / "s.gguf", made.quantization).target_nbytes <= least
    with pytest.raises(SizeError):
        fit(checkpoint, least - 32, "x")


def test_where_there_is_more_room_than_the_largest_types_take_they_are_taken(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    made = fit(checkpoint, 1_000_000_000, "x", wishes=adapted(
        named_quantization("Q4_K_M"), overrides=["attn_v=Q6_K"]
    ))  # fmt: skip
    types = {one.type for one in made.matrices if "attn_v" not in one.spec.name}
    assert types == {Type.F16}


def test_what_is_asked_for_stays(tiny: Path) -> None:
    wishes = adapted(
        named_quantization("Q4_K_M"), output="Q8_0", embedding="Q3_K", overrides=["attn_v=Q6_K"]
    )
    made = fit(open_checkpoint(tiny), 900_000, "x", wishes=wishes)
    types = {one.spec.name: one.type for one in made.matrices}
    assert types["output.weight"] == Type.Q8_0 and types["token_embd.weight"] == Type.Q3_K
    assert {kind for name, kind in types.items() if "attn_v" in name} == {Type.Q6_K}
    assert len(set(types.values())) > 3
    with pytest.raises(ImportanceError, match="without an importance matrix"):
        unfit = adapted(named_quantization("Q4_K_M"), overrides=["attn_v=IQ2_XXS"])
        fit(open_checkpoint(tiny), 900_000, "x", wishes=unfit)


def test_rows_that_are_no_whole_blocks_get_types_that_fit(tmp_path: Path) -> None:
    config = shape_config("tiny", hidden_size=288, intermediate_size=672, head_dim=72)
    write_checkpoint(tmp_path / "c", config)
    checkpoint = open_checkpoint(tmp_path / "c")
    made = fit(checkpoint, 1_700_000, "x")
    for one in made.matrices:
        assert one.spec.columns % GGML_QUANT_SIZES[one.type][0] == 0
    report = write_gguf(checkpoint, tmp_path / "x.gguf", made.quantization)
    assert report.target_nbytes <= 1_700_000


def test_errors_are_those_of_the_bytes(tiny: Path) -> None:
    """As NumPy finds them, from what ggml's kernels make and the gguf package reads."""
    checkpoint = open_checkpoint(tiny)
    spec = next(one for one in checkpoint.weights if one.name == "blk.0.ffn_down.weight")
    stored = checkpoint.weights[spec]
    raw = stored.file.read(stored.offset, stored.nbytes)
    values = gguf.quants.dequantize(np.frombuffer(raw, np.uint8), Type[stored.dtype])
    values = values.reshape(spec.shape).astype(np.float64)
    inputs = np.linspace(0.5, 2, spec.columns).astype(np.float32)
    kinds = (Type.Q4_0, Type.Q4_K, Type.F16)
    measured = measure(spec, stored, {kind: ggml_kernel(kind) for kind in kinds}, inputs)
    assert np.isclose(measured.energy, (values**2 * inputs).sum())
    for kind in kinds:
        data = gguf.quants.quantize(values.astype(np.float32), Type.F16)
        if kind != Type.F16:
            data = np.empty(
                spec.parameters // GGML_QUANT_SIZES[kind][0] * GGML_QUANT_SIZES[kind][1], np.uint8
            )
            ggml_kernel(kind)(values.astype(np.float32).reshape(-1), data)
        back = gguf.quants.dequantize(data, kind).reshape(spec.shape)
        expected = (((values - back) ** 2) * inputs).sum()
        assert np.isclose(measured.error(kind), expected, rtol=1e-4, atol=1e-12)


def test_of_a_large_matrix_rows_from_all_over_are_read() -> None:
    spec = TensorSpec("x", "x", (128256, 4096))
    runs = list(_runs(spec))
    assert len(runs) == RUNS and sum(count for _, count in runs) * 4096 == SAMPLED
    assert runs[0][0] == 0 and sum(runs[-1]) == 128256
    assert sum(count for _, count in _runs(TensorSpec("x", "x", (100, 4096)))) == 100
    assert all(count == 1 for _, count in _runs(TensorSpec("x", "x", (16384, 53248))))


def test_errors_count_by_what_they_disturb(tiny: Path) -> None:
    """A block that adds more to the stream counts more, and one of zeros nothing."""
    checkpoint = open_checkpoint(tiny)

    def by_name(scale: float) -> dict[str, float]:
        measured = {}
        for spec in llama_tensors(checkpoint.config):
            if len(spec.shape) == 2:
                one = measure(spec, checkpoint.weights[spec], {}, np.ones(spec.columns, np.float32))
                factor = scale if spec.name == "blk.1.ffn_down.weight" else 1.0
                values = {"energy": one.energy * factor, "calm": one.calm * factor}
                measured[spec.name] = type(one)(spec, 1.0, **values, errors={})
        return {
            name: cost * measured[name].energy  # of an error as large as the matrix' output
            for name, cost in costs(measured, 2, known=True).items()
        }

    plain, loud, none = by_name(1.0), by_name(100.0), by_name(0.0)
    assert loud["blk.1.ffn_down.weight"] > plain["blk.1.ffn_down.weight"] > 0
    assert loud["blk.1.ffn_up.weight"] > plain["blk.1.ffn_up.weight"]
    assert none["blk.1.ffn_down.weight"] == 0
    assert plain["output.weight"] > plain["token_embd.weight"]


def test_where_weights_would_be_fetched_for_it_no_gradients_are_computed(
    made: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(DEMO)
    assert made.divergence is not None
    for stored in checkpoint.weights.values():
        monkeypatch.setattr(stored.file, "waits", True, raising=False)
    there = fit(checkpoint, MADE_FOR, "x")
    assert there.divergence is None and 0.99 * MADE_FOR < there.nbytes <= MADE_FOR


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "c", shape_config("tiny"))
    path = next((tmp_path / "c").glob("*.safetensors"))
    checkpoint = open_checkpoint(tmp_path / "c")
    spec = next(one for one in checkpoint.weights if one.name == "blk.1.attn_q.weight")
    stored = checkpoint.weights[spec]
    with path.open("r+b") as file:
        file.seek(stored.offset)
        file.write(b"\xff" * 4)
    with pytest.raises(CheckpointError, match=r"q_proj.* NaN or infinite"):
        fit(open_checkpoint(tmp_path / "c"), 900_000, "x")


def test_the_command_finds_the_same_whatever_the_threads(
    made: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found: list[Fit] = []

    def noting(*given: Any, **named: Any) -> Fit:
        found.append(fit(*given, **named))
        return found[-1]

    monkeypatch.setattr(convert_package, "fit", noting)
    target = tmp_path / "out.gguf"
    assert run("convert", DEMO, "--fit", "2.4MB", "--threads", "3", "-o", target) == 0
    assert found == [made]
    out, err = capfd.readouterr()
    assert out == f"{target}\n"
    assert "ffn_down " in err and "of the loss" in err
    assert "a mixture for 2.40 MB" in err
    again = tmp_path / "again.gguf"
    assert run("convert", DEMO, "--recipe", target, "-o", again) == 0
    assert again.read_bytes() == target.read_bytes()


@pytest.fixture(scope="module")
def file(made: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "demo-2.4MB.gguf"
    write_gguf(open_checkpoint(DEMO), path, made.quantization)
    return path


def test_a_recipe_may_be_a_text_of_ones_own(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    third = tmp_path / "c.gguf"
    text = "# mine\n\n" + recipe_of(file)
    (tmp_path / "r.txt").write_text(text, encoding="utf-8-sig")  # as editors of Windows have it
    assert run("convert", DEMO, "--recipe", tmp_path / "r.txt", "-o", third) == 0
    assert recipe_of(third) == recipe_of(file)  # not the bytes: only the file has the columns
    assert third.read_bytes() != file.read_bytes()
    capfd.readouterr()
    words = ("convert", DEMO, "--recipe", file, "--tensor-type", "attn_v=Q8_0", "--force")
    assert run(*words, "-o", third) == 0
    types = types_of(third)
    assert {kind for name, kind in types.items() if "attn_v" in name} == {"Q8_0"}
    assert recipe_of(third).count("Q8_0 ") >= 4
    capfd.readouterr()
    assert run("convert", DEMO, "--recipe", file, "-o", third, "--force", "--quant", "Q8_0") == 2
    assert "--quant and --recipe exclude each other" in capfd.readouterr().err


def test_a_recipe_may_be_named_as_the_store_has_it(
    file: Path, store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store.mkdir()
    shutil.copy(file, store)
    again = tmp_path / "again.gguf"
    for name in ("demo-2.4MB", "demo-2.4MB.gguf"):
        assert run("convert", DEMO, "--recipe", name, "-o", again) == 0
        assert again.read_bytes() == file.read_bytes()
        again.unlink()
        capfd.readouterr()
        assert run("convert", DEMO, "--recipe", name) == 6
        assert "demo-2.4MB.gguf: it exists already" in capfd.readouterr().err


def test_columns_weights_are_kept_to_a_sixteenth_of_an_octave() -> None:
    """The roots of what errors cost; what is far off is cut, what costs nothing has the least."""
    spec, none = TensorSpec("a", "a", (1, 5)), TensorSpec("b", "b", (1, 3))
    information = {"a": np.array([1, 4, 9, 0, 1e30], np.float32), "b": np.zeros(3, np.float32)}
    packed = packed_columns([spec, none], information)
    weights = unpacked_columns([spec, none], packed)
    assert np.array_equal(weights["b"], np.ones(3, np.float32))
    smaller = {"a": information["a"][:3].repeat(2)[:5], "b": np.array([2, 2, 8], np.float32)}
    weights = unpacked_columns([spec, none], packed_columns([spec, none], smaller))
    for name, values in weights.items():
        expected = np.sqrt(smaller[name] / smaller[name].mean())
        assert np.abs(np.log2(values / expected)).max() <= 0.5 / 16 + 1e-6
    assert packed[3] == 0 and packed[4] > packed[0] == 0
    assert unpacked_columns([spec, none], None) == {}
    with pytest.raises(QuantizationError, match="7 columns' weights, and 8 columns are here"):
        unpacked_columns([spec, none], packed[1:])


def test_columns_weights_of_another_model_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = open_checkpoint(DEMO)
    matrices = {spec.name: Type.Q8_0 for spec in checkpoint.weights if len(spec.shape) == 2}
    odd, target = tmp_path / "odd.gguf", tmp_path / "out.gguf"
    tensors = plan_tensors(checkpoint.config, by_recipe("x", matrices))
    odd.write_bytes(header_bytes(checkpoint, by_recipe("x", matrices, None, b"odd"), tensors))
    with odd.open("r+b") as file:
        file.truncate(odd.stat().st_size + tensors[-1].offset + tensors[-1].nbytes)
    assert run("convert", DEMO, "--recipe", odd, "-o", target) == 3
    assert "the recipe is of another model: it has 3 columns' weights" in capfd.readouterr().err
    assert not target.exists()


def test_recipes_that_are_none_are_named(
    tiny: Path, made: Fit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain, target = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    convert(DEMO, plain, "Q8_0")
    others = tmp_path / "made.gguf"
    write_gguf(open_checkpoint(DEMO), others, made.quantization)
    some = tmp_path / "r.txt"
    some.write_bytes(b"Q4_K blk.0.attn_q.weight\n")
    capfd.readouterr()

    def refused(source: Path, recipe: Path, code: int) -> str:
        assert run("convert", source, "--recipe", recipe, "-o", target) == code
        assert not target.exists()
        return capfd.readouterr().err

    assert "it has no recipe" in refused(DEMO, plain, 3)
    assert "there is no file" in refused(DEMO, tmp_path / "none", 4)
    assert "the recipe has no type for" in refused(DEMO, some, 3)
    assert "the recipe is of another model: it has blk." in refused(tiny, others, 3)
    some.write_bytes(bytes(range(256)))
    assert "not a type and a tensor's name" in refused(DEMO, some, 3)
    some.write_bytes(b"")
    assert "it names no tensor" in refused(DEMO, some, 3)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Q4_K a\nQ4_K a\n", "line 2 names a again"),
        ("Q4_K a b\n", "line 1 is 'Q4_K a b'"),
        ("\n# x\nQ4 a\n", "line 3 is 'Q4 a'"),
        ("# nothing\n", "it names no tensor"),
        ("#" * (1 << 21), "no recipe"),
    ],
)
def test_faults_of_a_recipe_are_named_by_line(text: str, fault: str) -> None:
    with pytest.raises(QuantizationError, match=fault):
        parse_recipe(text)


def test_lines_of_a_recipe_end_at_newlines_alone() -> None:
    given = "# of mine\u2028and\x85yours\x0c!\r\nQ4_K a\r\n"
    assert parse_recipe(given) == {"a": Type.Q4_K}


def test_the_files_number_is_that_of_what_most_matrices_have() -> None:
    made = by_recipe("x", {"a": Type.IQ4_XS, "b": Type.IQ4_XS, "c": Type.Q8_0})
    assert made.file_type == QUANTIZATIONS["IQ4_XS"].file_type
    assert by_recipe("x", {"a": Type.Q4_K}).file_type == QUANTIZATIONS["Q4_K_M"].file_type


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5.5GB", 5_500_000_000), ("900 mb", 900_000_000), ("2GiB", 2 << 30), ("1.5g", 1_500_000_000),
     ("123456", 123456), ("7kB", 7000)],
)  # fmt: skip
def test_sizes_are_read(text: str, nbytes: int) -> None:
    assert parse_size(text, "--fit") == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "5.5.5GB", "1PB", "nan", "1e9", "5 G B", "9" * 400, "0"]
)
def test_sizes_that_are_none_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text, "--fit")


def test_refusals_of_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.gguf"
    assert run("convert", DEMO, "--fit", "200kB", "-o", target) == 5
    err = capfd.readouterr().err
    assert "a file of 200,000 bytes can't be made: the smallest takes" in err
    assert run("convert", DEMO, "--fit", "lots", "-o", target) == 2
    assert run("convert", DEMO, "--fit", "2MB", "-c", "100", "-o", target) == 2
    assert "-c goes with --fit memory" in capfd.readouterr().err
    assert run("convert", DEMO, "--fit", "memory", "-c", "1000000", "-o", target) == 2
    assert "the model knows 2048 tokens" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == []


def test_a_full_disk_is_told_before_errors_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    monkeypatch.setattr(sized, "measure", lambda *_: pytest.fail("measured"))
    target = tmp_path / "out.gguf"
    assert run("convert", DEMO, "--fit", "2.3MB", "-o", target) == 6
    assert "2.3 MB are needed, and 1.5 MB are free" in capfd.readouterr().err
    assert run("convert", DEMO, "--fit", "100GB", "-o", target) == 6
    assert "4.0 MB are needed" in capfd.readouterr().err  # as Q8_0


def test_a_name_of_its_own_in_the_store(
    tiny: Path, store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", tiny, "--fit", "0.9 MB") == 0
    assert capfd.readouterr().out == f"{store / 'tiny-0.9MB.gguf'}\n"


def test_the_largest_file_is_what_fits_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By llamacli's own count of what running takes."""
    convert(DEMO, tmp_path / "x.gguf", "Q8_0")
    file = read_gguf(tmp_path / "x.gguf")
    shape = check_llama(file)
    monkeypatch.setattr(machine, "find_devices", list)
    monkeypatch.setattr(machine, "free_memory", lambda: FreeMemory(30 << 20))
    short = largest_file(file, shape, 128)
    long = largest_file(file, shape, 2048)
    assert short[1] == 128 and largest_file(file, shape) == (long[0], 2048)
    # The KV cache's float16 keys and values of 4 layers and 2 heads of 64.
    assert short[0] - long[0] >= (2048 - 128) * 2 * 4 * 2 * 64 * 2 - (2 << 20)
    assert 0 < long[0] < short[0] < (30 << 20)
    monkeypatch.setattr(machine, "free_memory", lambda: FreeMemory(1 << 20))
    with pytest.raises(DoesNotFitError, match="2048 tokens of context"):
        largest_file(file, shape, 2048)


def test_memory_gives_a_file_for_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "find_devices", list)
    monkeypatch.setattr(machine, "free_memory", lambda: FreeMemory(18 << 20))
    target = tmp_path / "out.gguf"
    assert run("convert", DEMO, "--fit", "memory", "-c", "256", "-o", target) == 0
    err = capfd.readouterr().err
    assert "for a file, with 256 tokens of context" in err
    file = read_gguf(target)
    assert file.size <= largest_file(file, check_llama(file), 256)[0] + file.data_offset
