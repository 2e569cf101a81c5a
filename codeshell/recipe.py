"""The recipe: every setting of a run, as one tree of frozen structs, read from TOML.

A stage reads its own struct and nothing else, so only what is written here can change its output. msgspec checks types
and ranges when the file is read; an unknown key, a wrong type or a value out of range is a `UserError` that names the
key. Sizes are in bytes unless the name says otherwise.

Each key also says, by the `Resume`, `Redo` or `Refuse` around its type, what another value means to a run that has
begun. The stages' keys (codeshell/pipeline.py) and the check of a checkpoint (codeshell/train/checkpoints.py) are
derived from these marks, so the two cannot disagree.
"""

# Structs copy their defaults, which ruff does not know of a base that is imported.
# ruff: noqa: RUF012

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import tomli_w

from codeshell.errors import UserError, say
from codeshell.recipe_ablate import Ablate
from codeshell.recipe_finetune import Finetune
from codeshell.recipe_keys import (
    Change,
    Count,
    Part,
    Positive,
    Rate,
    Redo,
    Refuse,
    Resume,
    Seed,
    Settings,
    Share,
    Tokens,
    Width,
)
from codeshell.recipe_text import apply_override, explain, parse_toml, put
from codeshell.values import from_plain, to_plain


class Collect(Settings, frozen=True, kw_only=True):
    """What is read, and what is left out before a rule is asked."""

    inputs: Refuse[tuple[str, ...]] = ()
    """Directories, git checkouts, files of rows (Parquet, Arrow, JSON Lines, CSV, packed or not), tar archives, and
    globs of these. In a directory that is a data set (codeshell/documents/expand.py has the rule), each row is a
    document; in any other directory, each file is.
    `{stdlib}` and `{site-packages}` stand for the running interpreter's own folders. Other inputs are refused because
    the usual cause is a forgotten `--input`, which would delete the corpus and start again on the recipe's."""
    max_file_bytes: Redo[Positive] = 1_048_576
    """Larger files are left out as `over_large` (StarCoder's crawl used 1 MB)."""
    vendored: Redo[bool] = False
    """Keep files below folders like `node_modules` or `third_party`, and those that `.gitattributes` calls vendored or
    generated."""
    gitignore: Redo[bool] = True
    """In git checkouts, leave out what `.gitignore` and `.git/info/exclude` say, as `ignored`."""
    include: Redo[tuple[str, ...]] = ()
    """Patterns as in `.gitignore`, relative to the input: only files of folders that match are read."""
    exclude: Redo[tuple[str, ...]] = ()
    """Patterns of the same kind: what matches is left out, as `excluded`, even if `include` matches, too."""
    encoding: Redo[Literal["utf-8", "auto"]] = "utf-8"
    """`utf-8` leaves files in other encodings out and counts them by name (`encoding_latin1`); `auto` reads those whose
    encoding can be told, as UTF-8."""
    shard_bytes: Redo[Positive] = 33_554_432
    """Text in one shard; a worker holds about three times this in memory."""
    text_column: Redo[str] = ""
    path_column: Redo[str] = ""
    repo_column: Redo[str] = ""
    language_column: Redo[str] = ""
    """Columns of inputs with rows; empty: the usual names, as `layout` says. Only a text column must exist, but a
    column that is named here must be in one of the inputs."""
    language: Redo[str] = ""
    """The language of rows whose label and path name none, for data sets that hold texts alone."""
    layout: Redo[
        Literal["auto", "plain", "the-stack", "the-stack-v2", "starcoderdata", "github-code", "codeparrot"]
    ] = "auto"
    """The data set whose columns the inputs have. `auto` takes a text from `text`, or from `content` or `code` where a
    repository or a path stands beside it, and says which columns it found."""
    damaged: Redo[Literal["refuse", "skip"]] = "refuse"
    """What a truncated or broken file of rows does: end the run, or be left out as a whole and counted as `damaged`.
    `skip` reads every such file once more, before the rest."""


class Score(Settings, frozen=True, kw_only=True):
    """Scorers of distinct documents, beyond the measures that every document gets (`codeshell.scorers.text`)."""

    scorers: Redo[tuple[str, ...]] = ()
    """Names of the package's scorers, or places of your own: `FILE.py:NAME`, relative to the working directory."""
    settings: Redo[dict[str, dict[str, Any]]] = {}
    """`{scorer: {setting: value}}`, with the scorers named as above; a scorer gets its own as keyword arguments."""


class Rules(Settings, frozen=True, kw_only=True):
    """StarCoder's initial rules; the table by language is `codeshell.data.rules.THRESHOLDS`."""

    language_floor: Redo[Count] = 100_000_000
    """A language with less collected text than this is dropped whole (report, section 2.1)."""
    languages: Redo[tuple[str, ...]] = ()
    """Keep only these languages; empty keeps every language of the table."""
    overrides: Redo[dict[str, dict[str, float]]] = {}
    """`{language: {threshold: value}}`, on top of the table; `"*"` is every language."""
    own: Redo[tuple[str, ...]] = ()
    """Places of rules of your own, `FILE.py:NAME`; they are asked after the package's, in this order. They read what
    is known before scoring; a rule that reads a scorer's column goes into `select.own`."""


class NearDedup(Settings, frozen=True, kw_only=True):
    """MinHash candidates, exact Jaccard verification, greedy choice of who stays."""

    enabled: Redo[bool] = True
    ngram: Redo[Positive] = 5
    """Tokens in a shingle."""
    bands: Redo[Positive] = 21
    rows: Redo[Positive] = 6
    """Rows per band; 21 x 6 finds 93 % of the pairs at a Jaccard of 0.7 and 99.8 % at 0.8."""
    threshold: Redo[Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]] = 0.7
    """A document is dropped if its Jaccard with a kept one is at least this."""


Numbers = dict[str, dict[str, float]]
"""`{language: {column: number}}`; `"*"` is every language and yields to a language's own."""


class Select(Settings, frozen=True, kw_only=True):
    """Which of the distinct documents stay, by their scores: each document must pass all of it."""

    minimum: Redo[Numbers] = {}
    maximum: Redo[Numbers] = {}
    """`{language: {column: limit}}`, `"*"` for every language: what is below (above) goes. A document without the score
    stays; a text counts as 1 and an empty one as 0."""
    lowest: Redo[dict[str, dict[str, Part]]] = {}
    highest: Redo[dict[str, dict[str, Part]]] = {}
    """`{language: {column: share}}`, `"*"` for every language: the lowest (highest) share of the documents of each
    language that have the score goes. Equal values stay together, so it may be less."""
    package_rules: Redo[bool] = False
    """Ask the package's rules (codeshell/data/limits.toml) whose columns the scorers write."""
    overrides: Redo[dict[str, dict[str, float | Literal["off"]]]] = {}
    """`{language: {rule: limit}}` for the package's rules and your own, on top of their limits."""
    own: Redo[tuple[str, ...]] = ()
    """Places of rules of your own, `FILE.py:NAME`, that may read the columns of scorers; they are asked last."""
    weights: Redo[dict[str, Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]]] = {}
    """`{column: weight}`: a document's rank for the budget is the weighted mean of its percentiles within its language;
    a negative weight turns a column round. Without weights the order is that of a hash."""
    bonus: Redo[dict[str, Annotated[float, msgspec.Meta(ge=-1.0, le=10.0)]]] = {}
    """`{column: b}`: multiplies the rank by 1 + b x value, for columns of 0 to 1 such as `library_bonus`."""
    budget: Redo[Count] = 0
    """How much text stays, the best first; 0 is no limit."""
    budget_unit: Redo[Literal["bytes", "tokens"]] = "bytes"
    bytes_per_token: Redo[Annotated[float, msgspec.Meta(gt=0.0, le=1024.0)]] = 3.0
    """What a budget in tokens is reckoned with, for there is no tokenizer yet."""
    language_weights: Redo[dict[str, Rate]] = {}
    """`{language: weight}`, 1 where nothing is said: a language's part of the budget goes by its bytes times this. What
    a language cannot fill goes to the others."""
    library_cap: Redo[Share] = 0.0
    """At most this share of the bytes that stay may use any one known library (column `library_names`), the best
    first; 0 is no limit."""


class Split(Settings, frozen=True, kw_only=True):
    """Held-out repositories or files, as shares of the curated bytes."""

    valid: Redo[Share] = 0.02
    test: Redo[Share] = 0.02
    unit: Redo[Literal["repository", "file"]] = "repository"
    """What is held out as a whole. `file` is for a model of projects that it is to know: it sees a part of each."""
    redact: Redo[tuple[Literal["secrets", "emails", "addresses"], ...]] = ()
    """Kinds of secrets and personal data that are replaced in the texts; `codeshell.scorers.secrets` says what each
    finds and misses. To drop whole documents instead, name the scorer and set a `select.maximum` of its columns."""


class Tokenizer(Settings, frozen=True, kw_only=True):
    """Byte-level BPE trained on the training split, or an existing one."""

    path: Redo[str] = ""
    """A directory or `tokenizer.json` to use instead of training one."""
    base_vocab_size: Redo[Annotated[int, msgspec.Meta(ge=256, le=2**31)]] = 70_000
    """Tokens before the 20 special ones, which follow them; `vocab_size` elsewhere counts both."""
    sample_bytes: Redo[Positive] = 2_000_000_000
    """At most this much text to train it on; documents are chosen by a hash of their id."""


class Model(Settings, frozen=True, kw_only=True):
    """Shape of the model; names and defaults as in the released `config.json` (7.7 B parameters)."""

    n_layer: Redo[Annotated[int, msgspec.Meta(ge=1, le=2**12)]] = 42
    n_embd: Redo[Width] = 4096
    n_head: Redo[Width] = 32
    num_query_groups: Redo[Width] = 8
    n_inner: Redo[Annotated[int, msgspec.Meta(ge=0, le=2**24)]] = 0
    """Width of the MLP; 0 means 4 x n_embd."""
    n_positions: Redo[Tokens] = 8192
    dropout: Redo[Part] = 0.0
    """All three of `attn_pdrop`, `embd_pdrop` and `resid_pdrop`."""


class Phase(Settings, frozen=True, kw_only=True):
    """A part of training at one context length. The tokens per batch do not change between phases."""

    share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
    """Part of `train.steps`; the shares of all phases must add up to 1."""
    context: Tokens
    """Tokens in a sequence."""
    lr_scale: Rate = 1.0
    """Multiplies the run's schedule in this phase."""


class Train(Settings, frozen=True, kw_only=True):
    """Optimisation. The report fixes betas, warm-up, peak, floor and batch; the rest are the field's defaults."""

    steps: Redo[Positive] = 127_000
    batch_tokens: Redo[Tokens] = 4_194_304
    micro_batch_tokens: Resume[Annotated[int, msgspec.Meta(ge=0, le=2**32)]] = 0
    """Tokens of one forward pass; 0 means the whole batch. Gradients accumulate over batch / micro-batch."""
    phases: Redo[tuple[Phase, ...]] = (Phase(share=0.9, context=2048), Phase(share=0.1, context=8192))
    optimizer: Redo[Literal["adamw", "muon"]] = "adamw"
    """`muon`: the updates of the blocks' matrices are orthogonalised (codeshell/optim/muon.py); AdamW has the rest."""
    lr: Redo[Rate] = 3e-4
    matrix_lr: Redo[Rate] = 0.0
    momentum: Redo[Part] = 0.95
    """With `muon`, of the blocks' matrices: the peak rate, where 0 means `lr`, and the decay of the momentum."""
    decay: Redo[Literal["cosine", "linear"]] = "cosine"
    decay_share: Redo[Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]] = 1.0
    """The last part of the steps after the warm-up, in which the rate falls by `decay`; before it, it is constant."""
    min_lr_ratio: Redo[Share] = 0.1
    """The decay ends at this part of `lr`."""
    warmup_steps: Redo[Annotated[int, msgspec.Meta(ge=0, le=2**31)]] = 1000
    beta1: Redo[Part] = 0.9
    beta2: Redo[Part] = 0.95
    eps: Redo[Rate] = 1e-8
    weight_decay: Redo[Rate] = 0.1
    """On matrices only (weights of two or more dimensions)."""
    clip: Redo[Rate] = 1.0
    """Global gradient norm; 0 turns clipping off."""
    precision: Redo[Literal["auto", "fp32", "bf16"]] = "auto"
    """`auto` is bf16 autocast where the device computes in bf16, else fp32; with weights kept or gathered in bf16 it is
    bf16. Where `auto` means another one on resume, training says so and continues; only the rounding differs."""
    weights: Redo[Literal["fp32", "bf16-masters", "bf16-stochastic"]] = "fp32"
    """What the weights are kept in. `bf16-masters`: bf16, with an fp32 copy in the optimizer that takes the updates.
    `bf16-stochastic`: bf16 alone, rounded up or down at random, right in the mean; the moments are bf16, too. Bytes for
    each weight, with gradient and moments: 16, 16 and 8; bf16 weights save autocast's copies and half of what several
    GPUs send to one another."""
    recompute: Resume[Literal["none", "block"]] = "none"
    """`block` keeps only the input of each block for the backward pass and computes the rest of the block again: much
    less memory for a third more work. The bits are the same."""
    compile: Resume[bool] = False
    """Compile each block by torch.compile. Rounding may differ from that without."""
    replicate: Resume[Positive] = 1
    """With several GPUs: so many replicas of the model, each sharded over the others' share of the GPUs (HSDP). 1
    shards over all. As many as nodes keep all but one sum a step inside of a node."""
    reshard: Resume[bool] = True
    """With several GPUs: free the gathered weights of a block after its forward pass, and gather them again for the
    backward pass (ZeRO-3). `false` keeps all of them until the backward pass (ZeRO-2): less traffic, more memory."""
    gather: Redo[Literal["fp32", "bf16"]] = "fp32"
    """With several GPUs: what they gather of fp32 weights. `fp32` computes what one GPU does, to the bit; `bf16` sends
    and keeps half as much, and rounds the biases and norms to bf16, too."""
    fim_rate: Redo[Share] = 0.5
    """Documents rearranged for fill-in-the-middle."""
    spm_rate: Redo[Share] = 0.5
    """The part of those that is written suffix-prefix-middle; the rest is prefix-suffix-middle."""
    fim_lines: Redo[Share] = 0.0
    """The part of those whose middle is whole lines, mostly one; that of the rest begins and ends anywhere."""
    fim_tokens: Redo[Count] = 0
    """A rearranged piece takes its row, or a half, a quarter, … of it, by a draw, down to this many tokens; 0: all."""
    document_attention: Redo[Literal["isolated", "all"]] = "isolated"
    """`isolated`: packed documents do not attend to one another."""
    valid_every: Resume[Count] = 500
    valid_tokens: Resume[Positive] = 1_000_000
    checkpoint_every: Resume[Count] = 1000
    keep_checkpoints: Resume[Positive] = 3
    keep_phase_ends: Resume[bool] = True
    """Keep the last checkpoint of every phase beside the newest ones."""
    spike_sigma: Resume[Rate] = 6.0
    """A loss this many deviations above its window is a spike; 0 turns the test off."""
    spike_policy: Resume[Literal["skip", "stop", "ignore"]] = "skip"
    """What a spike or a non-finite loss or gradient does to the update: skip it, or stop the run.
    `ignore` accepts spikes; non-finite values are never applied."""
    max_skips: Resume[Positive] = 20
    """So many skipped updates in a row stop the run."""
    threads: Resume[Annotated[int, msgspec.Meta(ge=0, le=1024)]] = 0
    """CPU threads; 0 means every core. It is in the recipe because it decides the rounding on a CPU."""
    log_every: Resume[Positive] = 1
    tensorboard: Resume[bool] = False


class Evaluate(Settings, frozen=True, kw_only=True):
    """Tasks of the evaluation and their sample sizes; every rate is printed with its 95 % interval."""

    tasks: Redo[tuple[str, ...]] = ("bits_per_byte", "infill", "functions", "positions")
    """What is measured, in this order: names of the package's tasks (`codeshell eval --help` lists them), or places of
    your own, `FILE.py:NAME`. Tasks of large data sets are done where they are named. One that cannot run here, for
    want of its data, of isolation or of a toolchain, is "not run", with the reason, and the others are done."""
    max_bytes: Redo[Positive] = 2_000_000
    """Held-out text scored for bits per byte."""
    infill_lines: Redo[Count] = 500
    """Single-line fill-in-the-middle tasks."""
    infill_search: Redo[Count] = 0
    """Rows of the beam that looks for the most likely line, beside greedy decoding; 0 asks greedily alone."""
    functions: Redo[Count] = 200
    """Functions generated for the share that parses."""
    max_new_tokens: Redo[Positive] = 128
    position_sequences: Redo[Count] = 64
    """Sequences for the loss by position, before and after each context phase."""
    samples: Redo[Count] = 0
    """Answers to each problem of a functional task; 0 is the task's own number."""
    temperature: Redo[Rate | Literal["task"]] = "task"
    top_p: Redo[Share | Literal["task"]] = "task"
    """How functional tasks sample: "task" is what the field does for that task."""
    problems: Redo[Count] = 0
    """The first problems of each functional task alone; 0 is all of them."""
    data: Redo[str] = ""
    """Folder with the data sets of functional tasks, or the file of one; empty: they come from the hub, by `datasets`
    if that is installed."""


class Recipe(Settings, frozen=True, kw_only=True):
    """A whole run."""

    name: Resume[str] = "run"
    seed: Redo[Seed] = 0
    collect: Collect = Collect()
    score: Score = Score()
    rules: Rules = Rules()
    near_dedup: NearDedup = NearDedup()
    select: Select = Select()
    split: Split = Split()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    train: Train = Train()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    ablate: Ablate = Ablate()


class Renamed(NamedTuple):
    """A key that had another name, or values that had other names, in an earlier version."""

    old: str
    new: str
    """Both as "section.key"; equal where only values were renamed."""
    values: Mapping[str, str] = MappingProxyType({})
    """Old value to new one; all others stay."""
    recorded: bool = False
    """Only what a run has recorded is read so, to be compared with today's; a recipe's value stays as it is."""


ROLES = ("text", "path", "repo", "language")

RENAMED = (
    Renamed("tokenizer.vocab_size", "tokenizer.base_vocab_size"),
    # These were the names of columns that had not been chosen; files of theirs are found by the usual names.
    *(Renamed(f"collect.{role}_column", f"collect.{role}_column", {role: ""}, recorded=True) for role in ROLES),
    Renamed("train.document_attention", "train.document_attention", {"own": "isolated"}),
)
"""Recipes and run directories of earlier versions are read through this table."""


def load(path: str | Path, overrides: list[str] | None = None, values: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from TOML and change some of its settings.

    Args:
        path: the TOML file.
        overrides: `"section.key=value"` each; the value is TOML, or a bare string where that fails to parse.
        values: `{"section.key": value}` as Python values, which replace those of the overrides.

    Raises:
        UserError: the file is missing or not TOML, a key is unknown, a value has the wrong type or range.
    """
    path = Path(path)
    try:
        # Some editors begin a file with a byte order mark.
        tree = parse_toml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; recipes/demo.toml is one to start from") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a readable TOML file") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read (byte {error.start} is not UTF-8); give a TOML file in UTF-8"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not valid TOML ({error}); fix that line") from None
    # Before the overrides, so that one finds its key under whichever name the file has it.
    tree = _with_new_names(tree, str(path))
    for override in overrides or []:
        apply_override(tree, override, [(one.old, one.new) for one in RENAMED])
    for key, value in (values or {}).items():
        put(tree, key.split("."), value, key)
    return from_tree(tree, str(path))


def from_tree(tree: dict[str, Any], origin: str) -> Recipe:
    """Check a plain dict (parsed TOML or JSON) and make the recipe; `origin` names the file in errors.

    Names of earlier versions (`RENAMED`) are read as today's, which is said on stderr.
    """
    tree = _with_new_names(tree, origin)
    try:
        tree = from_plain(tree)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    # strict: "3" is no number and 1.5 no whole one, as in TOML itself.
    try:
        recipe = msgspec.convert(tree, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{origin}: {explain(str(error), Recipe)}") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{origin}: the name {error.object!r} is not UTF-8; write a key of the recipe") from None
    # What one key alone cannot tell: dimensions of the model together, the shares, contexts against model and batch.
    try:
        _check(recipe)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return recipe


def _check(recipe: Recipe) -> None:
    """Raise a `UserError` for settings that do not go together."""
    if "" in recipe.collect.inputs:
        raise UserError('collect.inputs: "" names nothing; leave it out (a shell variable may not be set)')
    if recipe.split.valid + recipe.split.test >= 1.0:
        raise UserError(
            f"split: valid {recipe.split.valid:g} and test {recipe.split.test:g} leave nothing to train on; "
            "make them add up to less than 1"
        )
    model = recipe.model
    # codeshell.model says the same of any config.json; it imports torch, which the data stages do without.
    if model.n_embd % model.n_head or model.n_embd // model.n_head % 2:
        raise UserError(
            f"model.n_embd {model.n_embd} does not give each of the {model.n_head} heads (model.n_head) the same even "
            "number of dimensions; make it a multiple of 2 x n_head"
        )
    if model.n_head % model.num_query_groups:
        raise UserError(
            f"model.n_head {model.n_head} is not a multiple of num_query_groups {model.num_query_groups}; every "
            "key/value head serves the same number of query heads"
        )
    _check_precision(recipe.train)
    if not recipe.finetune.base:
        for key in ("instructions", "epochs"):
            if getattr(recipe.finetune, key):
                raise UserError(f"finetune.{key}: there is no finetune.base, whose training it is about; name a model")
        if recipe.finetune.method == "lora":
            raise UserError("finetune.method lora: there is no finetune.base to adapt; name a model, or train `full`")
    arms(recipe)
    total = sum(phase.share for phase in recipe.train.phases)
    if not recipe.train.phases or abs(total - 1.0) > 1e-6:
        raise UserError(f"train.phases: the shares add up to {total:g}; make them add up to 1")
    for phase in recipe.train.phases:
        # A base has a length of its own, which is known where the base is read.
        if phase.context > recipe.model.n_positions and not recipe.finetune.base:
            raise UserError(
                f"train.phases: context {phase.context} is beyond model.n_positions "
                f"{recipe.model.n_positions}; raise n_positions or shorten the context"
            )
        if recipe.train.batch_tokens % phase.context:
            raise UserError(
                f"train.batch_tokens {recipe.train.batch_tokens} is not a multiple of the context "
                f"{phase.context}; a batch holds whole sequences"
            )


def arms(recipe: Recipe) -> dict[str, Select]:
    """What each arm of `[ablate]` selects, by name; a `UserError` names a key that `[select]` does not have."""
    found = {}
    for name, keys in recipe.ablate.arms.items():
        try:
            found[name] = msgspec.convert(keys, Select, strict=True)
        except msgspec.ValidationError as error:
            raise UserError(f"ablate.arms.{name}: {explain(str(error), Select)}") from None
    return found


def _check_precision(train: Train) -> None:
    """Raise a `UserError` for bf16 weights or gathered copies with products in fp32."""
    for key, value in (("weights", train.weights), ("gather", train.gather)):
        if train.precision == "fp32" and value != "fp32":
            raise UserError(
                f"train.{key} {value} does not go with train.precision fp32: what was rounded to bf16 gains nothing "
                f"from fp32 products; set train.precision = bf16 or auto, or train.{key} = fp32"
            )
    if train.optimizer == "muon" and train.weights != "fp32":
        raise UserError(
            f"train.optimizer muon does not go with train.weights {train.weights}: it updates fp32 weights alone; "
            "leave out train.weights, or set train.optimizer = adamw"
        )
    if train.weights != "fp32" and train.gather != "fp32":
        raise UserError(
            f"train.gather bf16 is for fp32 weights; those of train.weights {train.weights} are gathered in bf16 "
            "already: leave out train.gather"
        )


def to_tree(recipe: Settings) -> dict[str, Any]:
    """The recipe as plain dicts, lists and scalars: for TOML, JSON and hashing."""
    tree: dict[str, Any] = to_plain(msgspec.to_builtins(recipe))
    return tree


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as TOML that `load` reads back to the same recipe."""
    return tomli_w.dumps(to_tree(recipe))


def _with_new_names(tree: dict[str, Any], origin: str) -> dict[str, Any]:
    """The tree with every name of an earlier version replaced, in sections of its own; one line on stderr for each."""
    # A copy, one level deep: the caller's tree stays as it is.
    tree = {section: dict(value) if isinstance(value, dict) else value for section, value in tree.items()}
    for old, new, values, recorded in RENAMED:
        if recorded:
            continue
        section, _, key = old.partition(".")
        new_key = new.partition(".")[2]
        node = tree.get(section)
        if not isinstance(node, dict) or key not in node:
            continue
        if key != new_key and new_key in node:
            raise UserError(f"{origin}: {old} is the old name of {new}, and both are set; leave out {old}")
        value = node.pop(key)
        known = isinstance(value, str) and value in values
        node[new_key] = values[value] if known else value
        if key != new_key:
            say(f"{origin}: {old} is called {new} now; read as that")
        elif known:
            say(f"{origin}: {old} = {value!r} is called {values[value]!r} now; read as that")
    return tree


def _renamed(flat: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings `{"section.key": value}` under the names of this version."""
    # On a copy: the caller may still hold what was recorded, and compare it with its hash.
    flat = dict(flat)
    for old, new, values, _ in RENAMED:
        if old in flat:
            value = flat.pop(old)
            flat[new] = values.get(value, value) if isinstance(value, str) else value
    return flat


@cache
def marks() -> dict[str, Change]:
    """The mark of every key, as `{"section.key": mark}`; "name" and "seed" have no section."""
    found = {}
    # A section is a struct whose fields are keys; "name" and "seed" are keys themselves.
    for field in msgspec.structs.fields(Recipe):
        nested = isinstance(field.type, type) and issubclass(field.type, Settings)
        for key in msgspec.structs.fields(field.type) if nested else [field]:
            name = f"{field.name}.{key.name}" if nested else field.name
            for note in getattr(key.type, "__metadata__", ()):
                if isinstance(note, Change):
                    found[name] = note
    return found


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of `to_tree` as `{"section.key": value}`, with the values that JSON gives back (no tuples)."""
    flat: dict[str, Any] = {}
    # Through JSON, because what is compared with it has been read from JSON: tuples are lists there.
    for section, value in json.loads(json.dumps(tree)).items():
        flat |= (
            {f"{section}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {section: value}
        )
    return flat


@cache
def _defaults() -> dict[str, Any]:
    return flatten(to_tree(Recipe()))


def changed(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the keys whose values differ, but for those that a run resumes with; sorted.

    Args:
        was: settings that something was made by, as `{"section.key": value}`, perhaps recorded by an earlier version.
            Its names are replaced by today's, and a key that it did not know has its default.
        now: the same of today. A name that is no key of the recipe counts, too.
    """
    # A name without a mark ("code of my_rule.py:NoTests") always counts.
    was, now, defaults, mark = _renamed(was), _renamed(now), _defaults(), marks()

    def differs(key: str) -> bool:
        return bool(was.get(key, defaults.get(key)) != now.get(key, defaults.get(key)))

    return [key for key in sorted(was | now) if mark.get(key) is not Change.RESUME and differs(key)]


def describe(keys: list[str], was: dict[str, Any], now: dict[str, Any]) -> str:
    """What `changed` found, in words: "train.lr was 0.1, is 0.2; …"."""
    was, now, defaults = _renamed(was), _renamed(now), _defaults()
    return "; ".join(
        f"{key} was {was.get(key, defaults.get(key))}, is {now.get(key, defaults.get(key))}" for key in keys
    )
