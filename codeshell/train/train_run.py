"""The training stage: from token shards to a trained model in `model/`, drawn anew or continued from a base."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from codeshell.architectures import version
from codeshell.documents.token_shards import TokenCorpus, TokenShard
from codeshell.engine import Engine
from codeshell.engine.files import make_directory, read_json
from codeshell.engine.memory import keep_large_blocks
from codeshell.engine.progress import Progress
from codeshell.environment import usable_cores
from codeshell.errors import UserError, say
from codeshell.gpus import machine
from codeshell.model.precision import multiplies_bf16
from codeshell.ops import devices, hopper, library
from codeshell.optim import AdamW
from codeshell.optim.buckets import local
from codeshell.recipe import Recipe, to_tree
from codeshell.tokenizer import Tokenizer
from codeshell.train import base as bases
from codeshell.train import checkpoints, memory, parts, tuned, weights
from codeshell.train.agreement import AgreedError
from codeshell.train.base import Base
from codeshell.train.base_memory import shape_of_base
from codeshell.train.batches import fingerprint, fold
from codeshell.train.build import build, model_config
from codeshell.train.checkpoints import State
from codeshell.train.flops import CONVENTION, peak_flops
from codeshell.train.forward import summed_loss
from codeshell.train.launch import PATIENCE
from codeshell.train.loop import Trainer
from codeshell.train.parallel import Group
from codeshell.train.rows import Lanes
from codeshell.train.schedule import stretches
from codeshell.train.spikes import mean_of_last
from codeshell.train.validate import Validation

FINAL_STEPS = 20
"""The final training loss is the mean over this many steps: one batch is noise."""

DIVERGED = 2.0
"""A validation loss of so many times that of a uniform guess; an untrained model is near 1."""


def run(recipe: Recipe, directory: Path, engine: Engine, group: Group | None = None) -> dict[str, Any]:
    """Train on `tokens/` with `tokenizer/`, or resume where an earlier run stopped.

    Args:
        recipe: the settings; `seed`, `model` and `train` are used.
        directory: the run's directory.
        engine: not used; a launcher starts the processes that train.
        group: the ranks that train together, each of which calls this; None is one process.

    Returns:
        The statistics of docs/run-directory.md. If `failure` among them is not None, no model was written.

    Raises:
        UserError: no tokens or too few, a checkpoint of another run, a stop by the spike policy, a full disk.
        Interrupted: SIGTERM or Ctrl-C; the run is saved.
    """
    home = make_directory(directory / "train")
    train = recipe.train
    # Before the first product: the number of threads decides how sums are cut, and so how they are rounded.
    group = group or Group.alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    device = group.device
    threads = train.threads or max(usable_cores() // group.hosts.count(group.hosts[group.rank]), 1)
    torch.set_num_threads(threads)
    keep_large_blocks()
    group.mark("the check of the tokens", PATIENCE)
    group.agree(lambda: _check_device(device))
    tokenizer = group.agree(lambda: _tokenizer(directory))
    corpus = group.agree(lambda: _corpus(directory, "train", tokenizer, group))
    if corpus is None:
        raise AgreedError(f"{directory / 'tokens'}: no train-NNNNN.tokens; {_remedy(directory)}")
    # Each document is followed by one `<|endoftext|>`, which the shards do not store.
    available = corpus.n_tokens + len(corpus)
    if available <= train.batch_tokens:
        raise AgreedError(
            f"{directory / 'tokens'}: {available:,} tokens to train on, no more than one batch "
            f"(train.batch_tokens {train.batch_tokens:,}); add code, or lower train.batch_tokens"
        )
    base = group.agree(lambda: _base(recipe, tokenizer))
    recipe = bases.settled(recipe, available)
    train = recipe.train

    # What the loop needs: the training documents in lanes, the model, the held-out documents.
    precision, documents = weights.precision(train, device), fingerprint(corpus)
    began = base.hash if base is not None else ""
    facts = {"the tokenizer": tokenizer.hash, "the documents": documents, "the precision": precision, "the base": began}
    group.same(facts)
    isolated = train.document_attention == "isolated"
    # A family's own beginning of a document: models that have seen it in training are trained with it.
    begin = tokenizer.bos if base is not None else None
    lanes = Lanes(
        corpus,
        tokenizer,
        batch_tokens=train.batch_tokens,
        contexts=[phase.context for phase in train.phases],
        seed=recipe.seed,
        fim_rate=train.fim_rate,
        spm_rate=train.spm_rate,
        isolated=isolated,
        begin=begin,
        fim_lines=train.fim_lines,
        fim_tokens=train.fim_tokens,
    )
    # What cannot be is refused before anything is allocated.
    group.share(lanes.count)
    shape = memory.shape_of(model_config(recipe, tokenizer)) if base is None else shape_of_base(recipe, base, precision)
    memory.announce(recipe, shape, group, precision)
    group.mark("the drawing of the weights", PATIENCE)
    model, optimizer = build(recipe, tokenizer, device, group, base)
    group.mark("the reading of the held-out documents", PATIENCE)
    held_out = group.agree(lambda: _corpus(directory, "valid", tokenizer, group))
    validation = None
    if held_out:
        validation = Validation(held_out, tokenizer, limit=train.valid_tokens, isolated=isolated, begin=begin)
    if validation is not None and validation.n_bytes == 0:
        validation = None  # It holds only documents of one token, which nothing can predict.

    kept: dict[str, Any] = checkpoints.sections(recipe)
    # A fresh state, or that of the newest whole checkpoint. `checkpoints.check` compares what the two were made from.
    state = State(
        seed=recipe.seed,
        **kept,
        base=began,
        precision=precision,
        threads=threads,
        tokenizer=tokenizer.hash,
        corpus=documents,
    )
    group.mark("the loading of a checkpoint", PATIENCE)
    state = _resume(home / "checkpoints", recipe, model, optimizer, state, group)
    if state.step < train.steps:
        _announce(recipe, model, state, available, validation is not None)
        Trainer(recipe, home, model, optimizer, lanes, validation, state, group).run()

    # Also when nothing was left to train: a kill may have come between the last checkpoint and this. A model that is of
    # no use does not get the name that every other command reads; its weights are in the last checkpoint.
    group.mark("the trial of the model", PATIENCE)
    failure = _failure(recipe, model, state, lanes, validation, group)
    if failure is None:
        group.mark("the export of the model", PATIENCE)
        tuned.write(recipe, directory, model, tokenizer, group)
        # A finite loss may still be absurd; a model as bad as that has not learned something hard, it has diverged.
        loss, guess = (
            state.phase_results[-1].valid_loss if state.phase_results else None,
            math.log(tokenizer.vocab_size),
        )
        if loss is not None and loss > DIVERGED * guess:
            say(
                f"train: the model has diverged: its validation loss is {loss:,.1f}, where guessing gives {guess:.1f}; "
                "train again with a lower train.lr"
            )
    return _statistics(recipe, model, state, failure)


def _tokenizer(directory: Path) -> Tokenizer:
    if not (directory / "tokenizer" / "tokenizer.json").exists():
        raise UserError(f"{directory / 'tokenizer'}: no tokenizer.json, so nothing to train with; {_remedy(directory)}")
    return Tokenizer.load(directory / "tokenizer")


def _corpus(directory: Path, split: str, tokenizer: Tokenizer, group: Group) -> TokenCorpus | None:
    """The token shards of a split; None if there are none or they are empty. The ranks of a machine share the check."""
    paths = sorted((directory / "tokens").glob(f"{split}-[0-9][0-9][0-9][0-9][0-9].tokens"))
    corpus = TokenCorpus(paths, tokenizer.hash) if paths else None
    # A shard that is missing or another's passes every check of its own.
    written = directory / "tokens" / "stats.json"
    counts = read_json(written).get(split) if written.exists() else None
    there = (len(corpus), corpus.n_tokens) if corpus else (0, 0)
    if counts and there != (counts["documents"], counts["tokens"]):
        raise UserError(
            f"{directory / 'tokens'}: the {split} shards hold {there[0]:,} documents and {there[1]:,} tokens, but the "
            f"tokens stage wrote {counts['documents']:,} and {counts['tokens']:,}; delete it, and {_remedy(directory)}"
        )
    if corpus is None or corpus.n_tokens == 0:
        return None
    if corpus.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"{paths[0]}: a vocabulary of {corpus.vocab_size}, but the tokenizer has {tokenizer.vocab_size}; "
            f"delete {directory / 'tokens'}, and {_remedy(directory)}"
        )
    # All of it, before the first step: a flipped token would be trained on in silence. zlib lets threads run beside one
    # another, and the pages that are read now need not be read again.
    here = [rank for rank, host in enumerate(group.hosts) if host == group.hosts[group.rank]]
    shards = corpus.shards[here.index(group.rank) :: len(here)]
    with (
        Progress(f"check {split} tokens", total=len(shards), unit="shards") as progress,
        ThreadPoolExecutor(min(8, usable_cores())) as pool,
    ):
        for shard, _ in zip(shards, pool.map(TokenShard.verify, shards), strict=True):
            shard.release()
            progress.advance(1)
    return corpus


def _remedy(directory: Path) -> str:
    """How to get what is missing, for the end of a message."""
    return f"`codeshell run RECIPE -o {directory} --until tokens` makes it"


def _base(recipe: Recipe, tokenizer: Tokenizer) -> Base | None:
    """The model that training begins with, which must go with the settings; None where its weights are drawn."""
    if not recipe.finetune.base:
        return None
    base = bases.read(recipe.finetune.base)
    bases.check(recipe, base, tokenizer)
    return base


def _resume(root: Path, recipe: Recipe, model: torch.nn.Module, optimizer: AdamW, fresh: State, group: Group) -> State:
    """Load the newest checkpoint that is whole into model and optimizer; `fresh` if there is no checkpoint.

    Raises:
        UserError: the checkpoint is another run's, or all are damaged: starting again would throw the work away.
    """
    # Newest first. A damaged checkpoint costs only the steps since the one before it.
    steps = checkpoints.list_steps(root, group)
    for step in reversed(steps):
        path = checkpoints.step_directory(root, step)
        try:
            state = checkpoints.read_state(path, group)
        except checkpoints.DamagedError as error:
            say(f"train: {path} is damaged ({error}); trying the previous one")
            continue
        group.agree(partial(checkpoints.check, path, state, recipe, fresh.tokenizer, fresh.corpus, model, fresh.base))
        checkpoints.load(path, model, optimizer, group)
        if state.step == recipe.train.steps:
            say(f"train: {path} is the last step; nothing to train")
        else:
            say(f"train: resuming from {path}, step {state.step} of {recipe.train.steps}")
            for name in ("precision", "threads"):
                was, now = getattr(state, name), getattr(fresh, name)
                if was != now:
                    say(f"train: {name} was {was}, is {now}: the result will differ from an unbroken run by rounding")
        # What a resumed run may change is taken from this run.
        state.precision, state.threads, state.train = fresh.precision, fresh.threads, fresh.train
        return state
    if steps:
        raise AgreedError(f"{root}: every checkpoint is damaged; delete this directory to train from the start")
    return fresh


def _announce(recipe: Recipe, model: torch.nn.Module, state: State, available: int, validates: bool) -> None:
    """Print what is about to be trained: every setting, the size, the FLOPs."""
    # Everything that decides the result, so that a saved log alone says how to repeat the run.
    tree = to_tree(recipe)
    for section in ("finetune", "train") if recipe.finetune.base else ("model", "train"):
        settings = {key: value for key, value in tree[section].items() if key != "phases"}
        say(f"{section}: " + ", ".join(f"{key}={value}" for key, value in settings.items()) + f", seed={recipe.seed}")
    for part in stretches(recipe.train):
        work = parts.flops(model, part.context) / 1e6
        say(
            f"phase {part.index}: steps {part.first} to {part.last}, context {part.context}, "
            f"learning rate x {part.lr_scale:g}, {work:,.1f} MFLOP per token"
        )
    total = recipe.train.steps * recipe.train.batch_tokens
    say(
        f"train: {_sizes(model)}, {total:,} tokens "
        f"({total / available:.2f} epochs of {available:,}), {state.precision}, {state.threads} threads"
    )
    say(f"train: FLOPs by {CONVENTION}")
    _announce_device(next(model.parameters()).device, state.precision)
    if not validates:
        say("train: the validation split is empty; there is no validation")


def _sizes(model: torch.nn.Module) -> str:
    """How many weights there are, and how many of them are trained where that is not all."""
    there, trained = parts.parameters(model), parts.trained(model)
    if there == trained:
        return f"{there:,} parameters"
    return f"{trained:,} of {there:,} parameters ({trained / there:.2%})"


def _check_device(device: torch.device) -> None:
    """Refuse a GPU that this build of torch has no code for; its first product would fail, in words of no help.

    Raises:
        UserError: it is older or newer than what torch was built for.
    """
    if device.type != "cuda":
        return
    major, minor = torch.cuda.get_device_capability(device)
    built = torch.cuda.get_arch_list()
    numbers = [(name.partition("_")[0], int("".join(filter(str.isdigit, name)))) for name in built]
    # Code for a GPU runs on later ones of the same generation; PTX on all later ones.
    runs = any(
        number <= 10 * major + minor and (kind == "compute" or number // 10 == major) for kind, number in numbers
    )
    if built and not runs:
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"{name} is sm_{major}{minor}, and torch {torch.__version__} is built for {', '.join(built)}; install a "
            "build of torch that has it, or train on the CPU: set CUDA_VISIBLE_DEVICES to nothing"
        )


def _announce_device(device: torch.device, precision: str) -> None:
    """Print what is not as good as it could be on this device."""
    if not devices.on_gpu(device):
        here = machine()
        if here.gpus:
            cuda = torch.version.cuda
            how = f"was built with CUDA {cuda} and" if cuda else "was built without CUDA, and"
            known = f"the driver knows CUDA up to {version(here.driver)}"
            say(f"train: on the CPU: torch {torch.__version__} {how} does not use {here.gpus[0].name}; {known}")
        return
    name = devices.facts(device).name
    if precision == "bf16" and not multiplies_bf16(device):
        say(f"train: {name} has no bf16 products; they are emulated, and train.precision = fp32 is faster")
    if peak_flops(name, precision) is None:
        say(f"train: the peak of {name} in {precision} is not known: no MFU")
    # In the words of the operations, which then need not say it again.
    for operation, reason in {
        "codeshell.ops.attention": hopper.missing(device),
        "codeshell.ops.rotary_qkv": devices.missing(device, devices.ROTARY),
        "codeshell.optim.AdamW": devices.missing(device, devices.ADAMW),
    }.items():
        if reason is not None:
            library.say(operation, reason)


def _failure(
    recipe: Recipe,
    model: torch.nn.Module,
    state: State,
    lanes: Lanes,
    validation: Validation | None,
    group: Group,
) -> str | None:
    """Why the model of a run that has done its last step is of no use; None if it is of use.

    The answer is a function of the recipe and the last checkpoint alone, as the statistics are.
    """
    if state.skipped >= state.step:
        return "no update was applied, so the model is untrained"
    # Each rank looks at its rows; the first name in the order of the model counts.
    names = [name for name, _ in model.named_parameters()]
    bad = [
        number
        for number, parameter in enumerate(model.parameters())
        if not bool(local(parameter.detach()).isfinite().all())
    ]
    if found := [number for numbers in group.gather(bad) for number in numbers]:
        return f"the model is not finite: {names[min(found)]} holds NaN or infinity"
    # Finite weights may still be so large that the activations overflow. The last validation has tried them.
    if validation is not None:
        result = next((result for result in state.phase_results if result.step == recipe.train.steps), None)
        finite = result is None or result.valid_loss is not None
        return None if finite else "the model is not finite: its loss on the validation split is NaN or infinity"
    # Without held-out documents, the first tokens of the training documents try them.
    context = max(phase.context for phase in recipe.train.phases)
    batch = lanes.take(lanes.start(), recipe.train.batch_tokens, context)
    micro = next(fold(batch, context, recipe.train.micro_batch_tokens, isolated=lanes.isolated))
    model.eval()
    with torch.no_grad():
        loss = float(summed_loss(model, micro, state.precision))
    return None if math.isfinite(loss) else "the model is not finite: its loss on training documents is NaN or infinity"


def _statistics(recipe: Recipe, model: torch.nn.Module, state: State, failure: str | None) -> dict[str, Any]:
    """The stage's statistics, a function of the recipe and the last checkpoint alone."""
    train = recipe.train
    results = {result.step: result for result in state.phase_results}
    phases: list[dict[str, Any]] = []
    for part in stretches(train):
        # A phase without steps ends where the one before it does, and must not show that one's result.
        result = results.get(part.last) if part.first <= part.last else None
        phases.append(
            {
                "context": part.context,
                "lr_scale": part.lr_scale,
                "first_step": part.first,
                "last_step": part.last,
                "tokens": (part.last - part.first + 1) * train.batch_tokens,
                "flops_per_token": parts.flops(model, part.context),
                "valid_loss": result.valid_loss if result else None,
                "valid_bits_per_byte": result.valid_bits_per_byte if result else None,
            }
        )
    final = results.get(train.steps)
    # FLOPs per token grow with the context, so the mean over the run weighs each phase by its tokens.
    work = sum(phase["flops_per_token"] * phase["tokens"] for phase in phases)
    return {
        "steps": state.step,
        "tokens": state.tokens,
        "parameters": parts.parameters(model),
        **_of_base(model, state),
        # The accepted losses of a model that failed afterwards would say that all is well.
        "final_train_loss": mean_of_last(state.recent, FINAL_STEPS) if failure is None else None,
        "final_valid_loss": final.valid_loss if final else None,
        "final_valid_bits_per_byte": final.valid_bits_per_byte if final else None,
        "skipped_updates": state.skipped,
        "skipped_by_reason": dict(sorted(state.reasons.items())),
        "failure": failure,
        "flops_per_token": round(work / state.tokens),
        "flops_convention": CONVENTION,
        "phases": phases,
    }


def _of_base(model: torch.nn.Module, state: State) -> dict[str, Any]:
    """What the statistics say beyond others where training began with a base."""
    if not state.base:
        return {}
    before = state.before
    return {
        "base": {
            "name": state.finetune["base"],
            "method": state.finetune["method"],
            "hash": state.base,
            "trained_parameters": parts.trained(model),
            "valid_loss": before.valid_loss if before else None,
            "valid_bits_per_byte": before.valid_bits_per_byte if before else None,
        }
    }
