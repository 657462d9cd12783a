"""Which types a conversion takes, as convert's options say it: a name, a recipe, or a size."""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import convert
from llamacli import engine, models, quality
from llamacli.commands.options import exclusive, parse_size
from llamacli.commands.printing import print_table, steps_bar
from llamacli.errors import InvalidModelError, UsageError, reading
from llamacli.home import expanded
from llamacli.terminal import count, notice, printable, say

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType


MEMORY = "memory"  # in place of a size
MOST_RECIPE = 1 << 20  # bytes of a text


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The types of a file's tensors."""

    q4: Annotated[bool, "Short for --quant Q4_K_M."] = False
    q8: Annotated[bool, "Short for --quant Q8_0."] = False
    quant: Annotated[
        str | None,
        "Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS, Q3_K_M, … (docs/quantization.md has all).  "
        "[default: the model's, or Q4_K_M]",
    ] = None
    fit: Annotated[
        str | None,
        "<SIZE|memory>",
        "Find a mixture for a file of this size, as 5.5GB, or for the memory that is free here.",
    ] = None
    context: Annotated[
        int | None,
        "-c",
        (1, None),
        "Tokens of context that --fit memory leaves room for.  [default: as run takes]",
    ] = None
    recipe: Annotated[
        Path | None,
        "Take the types that a file made by --fit has: that file, its name in the store, "
        "or a text.",
    ] = None
    tensor_type: Annotated[
        list[str] | None,
        "<PATTERN=TYPE>",
        "A type for tensors in whose GGUF name the pattern is found; may be given again.",
    ] = None
    output_tensor_type: Annotated[str | None, "The type of the output matrix."] = None
    token_embedding_type: Annotated[str | None, "The type of the token embedding."] = None

    def __post_init__(self) -> None:
        """Raises UsageError for what can be told to be wrong before a model is looked for."""
        exclusive(q4=self.q4, q8=self.q8, quant=self.quant, fit=self.fit, recipe=self.recipe)
        if self.context is not None and self.fit != MEMORY:
            raise UsageError("-c goes with --fit memory")
        _ = self.size

    def chosen(self, default: str) -> "convert.Quantization":
        """The mixture that is asked for; for --fit, one that holds what is fixed, and the name.

        default names the one where none is asked for. Raises UsageError, InvalidModelError.
        """
        try:
            wishes = convert.adapted(
                convert.named_quantization(self.named or default),
                output=self.output_tensor_type,
                embedding=self.token_embedding_type,
                overrides=self.tensor_type or (),
            )
        except convert.QuantizationError as error:
            raise UsageError(str(error)) from None
        if self.recipe is None:
            return wishes
        recipe = recipe_file(self.recipe)
        types, columns = read_recipe(recipe)
        return convert.by_recipe(recipe.stem, types, wishes, columns)

    @property
    def label(self) -> str | None:
        """What a file made for a size is called by, after the model's name."""
        return None if self.fit is None else self.fit.replace(" ", "")

    @property
    def changed(self) -> bool:
        """Whether anything beside a name is asked for."""
        types = self.tensor_type, self.output_tensor_type, self.token_embedding_type
        return any(one is not None for one in (self.fit, self.recipe, *types))

    @property
    def size(self) -> int | None:
        """Bytes of the file, where they are known."""
        if self.fit is None or self.fit == MEMORY:
            return None
        return parse_size(self.fit, "--fit", ", or memory")

    @property
    def named(self) -> str | None:
        """The mixture that is named, if one is."""
        return "Q4_K_M" if self.q4 else "Q8_0" if self.q8 else self.quant


def recipe_file(given: Path) -> Path:
    """The file that a recipe is in, which may be one that a name means in the store."""
    if path := models.existing_path(str(given)):
        return path
    stored = models.matching(given.name, models.stored_models()) if len(given.parts) == 1 else []
    return stored[0] if len(stored) == 1 else expanded(given)


def read_recipe(path: Path) -> "tuple[Mapping[str, GGMLQuantizationType], bytes | None]":
    """The types by tensors' names that a GGUF file keeps, or a text, and what columns count.

    Raises InvalidModelError and QuantizationError where it has none.
    """
    from llamacli.gguf import read_gguf

    columns = None
    with reading(path), path.open("rb") as file:
        start = file.read(MOST_RECIPE + 1)
    if start[:4] == b"GGUF":
        gguf = read_gguf(path)
        metadata = gguf.metadata
        if not isinstance(text := metadata.get(convert.KEY), str):
            raise InvalidModelError("it has no recipe; files made by --fit have one", file=path)
        if made_by := metadata.get("quantize.imatrix.file"):
            by = printable(str(made_by))
            notice(f"the recipe was made by the importance matrix {by}; so are the same bytes")
        if convert.COLUMNS_KEY in metadata:
            columns = gguf.raw(convert.COLUMNS_KEY)
    else:
        text = start.decode("utf-8-sig", errors="replace")
    return convert.parse_recipe(text, str(path)), columns


def fitted(
    checkpoint: "convert.Checkpoint",
    mixture: Mixture,
    wishes: "convert.Quantization",
    importance: "convert.ImportanceMatrix | None",
    threads: int | None,
    target: Path | None,
) -> "convert.Quantization":
    """The mixture that is found for the size that was asked for; a table tells what it is.

    Raises DoesNotFitError where no file is as small, and what convert.fit raises; and at once, as
    write_gguf would after it, where target's disk has no room. None where that was asked before.
    """
    header, size = _as_q8_0(checkpoint)
    limit = mixture.size
    if limit is None:
        limit = _free(checkpoint.name, header, size, mixture.context)
    if target is not None:
        convert.check_space(target, min(limit, size))
    with steps_bar() as show:
        fitted_mixture = convert.fit(
            checkpoint,
            limit,
            str(mixture.label),
            wishes=wishes,
            importance=importance,
            tokens=() if checkpoint.waits else quality.sample_tokens(checkpoint),
            threads=threads,
            progress=lambda name, done, total: show(f"measuring {name}", done, total),
            notice=notice,
        )
    _show(fitted_mixture, limit)
    return fitted_mixture.quantization


def _as_q8_0(checkpoint: "convert.Checkpoint") -> tuple[bytes, int]:
    """The header of a Q8_0 file of it, and that file's bytes."""
    like = convert.named_quantization("Q8_0")
    tensors = convert.plan_tensors(checkpoint.config, like)
    header = convert.header_bytes(checkpoint, like, tensors)
    return header, len(header) + tensors[-1].offset + tensors[-1].nbytes


def _free(name: str, header: bytes, size: int, context: int | None) -> int:
    """The largest file of the model of that Q8_0 file that this machine has memory for now."""
    from llamacli.gguf import read_header

    nbytes, tokens = engine.largest_file(*read_header(header, size, name), context)
    notice(f"memory: {count(nbytes, 'B')} for a file, with {tokens} tokens of context")
    return nbytes


def _show(made: "convert.Fit", limit: int) -> None:
    """A row for each kind of matrix: its types, bits a weight, and what part of the loss it has."""
    kinds = defaultdict(list)
    for one in made.matrices:
        name = one.spec.name.removesuffix(".weight")
        kinds[name.split(".")[2] if name.startswith("blk.") else name].append(one)
    rows = []
    for kind, ones in kinds.items():
        types = Counter(one.type.name for one in ones)
        nbytes, parameters = sum(o.nbytes for o in ones), sum(o.spec.parameters for o in ones)
        rows.append(
            (
                kind,
                " ".join(f"{name}x{number}" for name, number in sorted(types.items())),
                f"{8 * nbytes / parameters:.2f}",
                count(nbytes, "B"),
                f"{sum(one.cost for one in ones):.0%}",
            )
        )
    print_table(("matrices", "types", "bits", "size", "of the loss"), rows, "llrrr", sys.stderr)
    tried = f"found by errors on {count(made.sampled, 'B')} of the weights"
    if made.divergence is not None:
        tried += f", which should cost a divergence of {made.divergence:.2g}"
    say(f"a mixture for {count(limit, 'B')}: {count(made.nbytes, 'B')}, {tried}")
