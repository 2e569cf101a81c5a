"""The memory that training takes on each device, reckoned before it starts, and what to change where it cannot fit.

Plain arithmetic on the model's shape and the recipe. What stays for the whole run is exact: weights, gradients, the
optimizer's states, and the activations that the backward pass needs (a test compares these with what torch keeps). The
working memory of the moment is an upper estimate, and the reserve for CUDA's own needs is a guess, so a plan has three
answers: it fits, it is tight, or it cannot fit; only the last is refused.

Three moments can be the peak: the loss, when all activations are there; the first block of the backward pass, when the
gradients of a block come on top; and its end, when the gradient of the embedding is summed.

Letters in this file: P weights of the model, B of one block, R of the root (embedding, which is also the head, and last
norm); L blocks, D width, F width of the MLP, V rows of the embedding; S devices that share one copy of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from codeshell.environment import usable_memory
from codeshell.errors import UserError, say
from codeshell.recipe import Model, Recipe, Train

if TYPE_CHECKING:
    from codeshell.model import CodeShellConfig
    from codeshell.train.parallel import Group

RESERVE = 1_500_000_000
"""Bytes of a GPU for CUDA's context, cuBLAS's workspaces, and what the allocator cannot use: an estimate, not measured
here."""

RESERVE_LINKS = 500_000_000
"""Bytes for NCCL's buffers beside it, where there are several GPUs: an estimate, too."""

ROOM = 0.95
"""A plan that takes more than this part of the memory is called tight."""


class Measured(NamedTuple):
    """Sizes that the formulas of this file do not give: those of other architectures, and of models with LoRA.

    Attributes:
        block, products, root, total: weights of the base, as `Shape` has them.
        trained: weights that have gradients: `total`, or those of the factors, which come on top.
        kept: bytes that the backward pass of one block needs for each token, by the precision of the products.
    """

    block: int
    products: int
    root: int
    total: int
    trained: int
    kept: dict[str, int]


class Shape(NamedTuple):
    """The sizes that decide the memory."""

    layers: int
    width: int
    inner: int
    vocabulary: int
    heads: int
    kv_width: int
    """Width of the keys and values together."""
    dropout: bool
    measured: Measured | None = None
    """What takes the place of the formulas."""

    @property
    def block(self) -> int:
        """B: four linears with biases, two norms."""
        if self.measured:
            return self.measured.block
        d, f = self.width, self.inner
        return self.products + (d + self.kv_width) + d + f + d + 4 * d

    @property
    def products(self) -> int:
        """The part of B that is multiplied: the matrices."""
        if self.measured:
            return self.measured.products
        return self.width * (2 * self.width + self.kv_width + 2 * self.inner)

    @property
    def table(self) -> int:
        """Weights of the embedding."""
        return self.vocabulary * self.width

    @property
    def root(self) -> int:
        """R."""
        return self.measured.root if self.measured else self.table + 2 * self.width

    @property
    def total(self) -> int:
        """P."""
        return self.layers * self.block + self.root

    @property
    def trained(self) -> int:
        """Weights that have gradients and moments."""
        return self.measured.trained if self.measured else self.total

    @property
    def frozen(self) -> int:
        """Weights that are only read: all of the base's, with LoRA."""
        return self.total if self.trained != self.total else 0


class Item(NamedTuple):
    """One line of a plan."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What one device needs.

    Attributes:
        world: number of devices.
        memory: bytes of one device; None if it is not known.
        tokens: of one forward pass on one device.
        moment: when the peak is.
        items: what is there at the peak.
        reserve: bytes that are left to the device's own needs.
        host: bytes of the host's memory for this device's part of a checkpoint while that is written.
        in_place: the loss has a kernel that needs no fp32 copies of the logits.
    """

    shape: Shape
    train: Train
    world: int
    memory: int | None
    precision: Literal["fp32", "bf16"]
    device: Literal["cuda", "cpu"]
    tokens: int
    moment: str
    items: tuple[Item, ...]
    reserve: int
    host: int
    in_place: bool

    @property
    def total(self) -> int:
        """Bytes at the peak, the reserve included."""
        return sum(item.bytes for item in self.items) + self.reserve

    @property
    def fits(self) -> Literal["fits", "is tight", "does not fit", "unknown"]:
        """Whether it fits in the memory; a tight one may run out of it."""
        if self.memory is None:
            return "unknown"
        if self.total <= ROOM * self.memory:
            return "fits"
        # The reserve and the working memory are estimates from above, so they alone do not refuse a run.
        certain = sum(item.bytes for item in self.items if item.name != WORKING)
        return "is tight" if certain <= self.memory else "does not fit"

    def lines(self) -> list[str]:
        """The plan as a table, for a terminal."""
        train, rows = self.train, list(self.items)
        if self.reserve:
            rows.append(Item("reserve", self.reserve, "CUDA, libraries, links: an estimate"))
        kept = train.weights if train.weights != "fp32" or self.world == 1 else f"fp32, gathered in {train.gather}"
        verdict = f"{self.fits}, at most" if self.memory is not None else "at most"
        of = f" of {gigabytes(self.memory)}" if self.memory is not None else ""
        return [
            f"memory: {_amount(self.shape.total)} weights on {self._devices()}, {self.tokens:,} tokens a forward "
            f"pass, weights {kept}, recompute {train.recompute}"
            + (f", {_amount(self.shape.trained)} of LoRA trained" if self.shape.frozen else ""),
            *(
                f"  {row.name:<18} {gigabytes(row.bytes):>9}{'  ' + row.note if row.note else ''}"
                for row in rows
                if row.bytes
            ),
            f"  {'each device':<18} {gigabytes(self.total):>9}{of}: {verdict}, {self.moment}",
            f"  {'host':<18} {gigabytes(self.host):>9}  for each device, while a checkpoint is written",
        ]

    def refusal(self) -> str | None:
        """The line of a plan that cannot fit, with the first remedy that does; None for any other plan."""
        if self.fits != "does not fit" or self.memory is None:
            return None
        needs = (
            f"memory: training on {self._devices()} needs {gigabytes(self.total)} on each, and there are "
            f"{gigabytes(self.memory)}"
        )
        for words, other in self._remedies():
            if other.fits in ("fits", "is tight"):
                almost = " and may just fit" if other.fits == "is tight" else ""
                return f"{needs}; {words} needs {gigabytes(other.total)}{almost} (--plan shows every part)"
        return f"{needs}; no setting of [train] makes it fit: take a smaller model or more memory"

    def _devices(self) -> str:
        one, several = ("GPU", "GPUs") if self.device == "cuda" else ("process", "processes")
        return f"{self.world} {one if self.world == 1 else several}"

    def _remedies(self) -> Iterator[tuple[str, Plan]]:
        """Other settings in the order in which they are offered: what a run may resume with comes first."""
        longest = max(phase.context for phase in self.train.phases)
        # Fewer tokens at a time: the bits change by the order of sums, and nothing is lost but some speed.
        sizes = []
        tokens = self.tokens // 2
        while tokens >= longest:
            sizes.append(tokens)
            tokens //= 2
        for size in sizes:
            yield f"train.micro_batch_tokens = {size}", self._with(micro_batch_tokens=size)
        for size in [self.tokens, *sizes]:
            also = "" if size == self.tokens else f" with train.micro_batch_tokens = {size}"
            yield (
                f"train.recompute = block{also}",
                self._with(recompute="block", micro_batch_tokens=size),
            )
        # What a run must begin with.
        smallest: dict[str, Any] = {"recompute": "block", "micro_batch_tokens": sizes[-1] if sizes else self.tokens}
        rest = f" with train.recompute = block and train.micro_batch_tokens = {smallest['micro_batch_tokens']}"
        if self.world > 1 and self.train.weights == "fp32" and self.precision == "bf16":
            yield f"train.gather = bf16{rest}", self._with(gather="bf16", **smallest)
        for weights in ("bf16-masters", "bf16-stochastic"):
            if self.train.precision != "fp32":
                yield f"train.weights = {weights}{rest}", self._with(weights=weights, gather="fp32", **smallest)
        # More devices, for as long as each has a sequence of the longest context.
        world = 2 * self.world
        while world <= self.train.batch_tokens // longest and self.device == "cuda":
            yield f"{world} GPUs{rest}", self._with(world=world, **smallest)
            world *= 2

    def _with(self, world: int = 0, **changes: Any) -> Plan:
        """The plan with some settings of `[train]`, or the number of devices, changed."""
        train = msgspec.structs.replace(self.train, **changes)
        return _plan(self.shape, train, world or self.world, self.memory, self.precision, self.device, self.in_place)


WORKING = "working memory"
"""The name of the item that is an estimate."""


def shape_of(config: CodeShellConfig) -> Shape:
    """The sizes of a model that there is."""
    dropout = max(config.attn_pdrop, config.embd_pdrop, config.resid_pdrop) > 0
    kv_width = 2 * config.num_query_groups * config.n_embd // config.n_head
    return Shape(
        *(config.n_layer, config.n_embd, config.inner_size, config.vocab_size, config.n_head, kv_width, dropout)
    )


def shape_of_recipe(model: Model, vocabulary: int) -> Shape:
    """The sizes of a recipe's model, with so many rows of the embedding."""
    kv_width = 2 * model.num_query_groups * model.n_embd // model.n_head
    inner = model.n_inner or 4 * model.n_embd
    return Shape(model.n_layer, model.n_embd, inner, vocabulary, model.n_head, kv_width, model.dropout > 0)


def plan(
    model: CodeShellConfig | Shape,
    train: Train,
    world: int,
    device_memory: int | None,
    *,
    precision: Literal["fp32", "bf16"] = "bf16",
    device: Literal["cuda", "cpu"] = "cuda",
    in_place: bool = True,
) -> Plan:
    """What each of `world` devices needs to train the model.

    Args:
        model: its config, or its sizes.
        train: the recipe's section.
        world: number of devices (processes).
        device_memory: bytes of one device; None where it is not known, which refuses nothing.
        precision: of the products, as `codeshell.train.weights.precision` says.
        device: what kind.
        in_place: the device runs the loss's kernel (`codeshell.ops.loss`); without it PyTorch needs fp32 copies.

    Raises:
        UserError: `train.replicate` does not divide the number of devices.
    """
    shape = model if isinstance(model, Shape) else shape_of(model)
    return _plan(shape, train, world, device_memory, precision, device, in_place)


def announce(recipe: Recipe, shape: Shape, group: Group, precision: Literal["fp32", "bf16"]) -> None:
    """Print the plan of a run before its start; on a CPU, whose memory is the machine's, one line.

    Args:
        recipe: its section `train` is used.
        shape: of the model.
        group: the ranks; the GPU with the least memory decides for all.
        precision: of the products.

    Raises:
        UserError: it cannot fit, on every rank alike; the message has the remedy.
    """
    kind: Literal["cuda", "cpu"] = "cpu"
    smallest, in_place = None, True
    if group.device.type == "cuda":
        import torch

        from codeshell.ops import devices

        kind, in_place = "cuda", devices.missing(group.device, devices.LOSS) is None
        smallest = min(group.gather(torch.cuda.get_device_properties(group.device).total_memory))
    elif recipe.finetune.base:
        # A base may be of any size; a model that is drawn anew has been sized for the machine.
        smallest = usable_memory()
    found = plan(shape, recipe.train, group.world, smallest, precision=precision, device=kind, in_place=in_place)
    refusal = found.refusal()
    if refusal is not None:
        from codeshell.train.agreement import AgreedError

        raise AgreedError(refusal)
    if group.leader:
        for line in found.lines() if kind == "cuda" else [_one_line(found)]:
            say(line)


def _one_line(found: Plan) -> str:
    parts = ", ".join(f"{item.name} {gigabytes(item.bytes)}" for item in found.items if item.bytes)
    each = " for each process" if found.world > 1 else ""
    return (
        f"memory: at most {gigabytes(found.total)}{each}, beside Python and torch ({parts}); "
        f"{gigabytes(found.host)} more while a checkpoint is written"
    )


def gigabytes(size: int) -> str:
    """`46.2 GB`, and smaller sizes in MB or kB."""
    unit, of = next(((unit, of) for unit, of in (("GB", 1e9), ("MB", 1e6)) if size >= of), ("kB", 1e3))
    return f"{size / of:,.1f} {unit}" if unit == "GB" else f"{size / of:,.0f} {unit}"


def _amount(weights: int) -> str:
    """`7.69 B`, and smaller numbers in M or k."""
    unit, of, digits = next((u for u in (("B", 1e9, 2), ("M", 1e6, 1)) if weights >= u[1]), ("k", 1e3, 1))
    return f"{weights / of:.{digits}f} {unit}"


def _plan(
    shape: Shape,
    train: Train,
    world: int,
    memory: int | None,
    precision: Literal["fp32", "bf16"],
    device: Literal["cuda", "cpu"],
    in_place: bool,
) -> Plan:
    if world % train.replicate:
        raise UserError(
            f"train.replicate {train.replicate} does not divide the {world} processes; each replica has as many"
        )
    sharers = world // train.replicate
    tokens = tokens_at_once(train, world)
    states = _states(shape, train, sharers, 2 if precision == "bf16" else 4)
    # The activations of all blocks, or of their inputs alone, and what the last norm and the loss keep.
    saved = saved_by_block(shape, precision) if train.recompute == "none" else _input_of_block(shape, precision)
    outside = tokens * (8 * shape.width + 16)
    kept = Item(
        "activations", tokens * shape.layers * saved + outside, f"{shape.layers * saved / 1e6:.2f} MB for each token"
    )
    # Three moments; the plan is the one that takes most.
    gathered = 2 if train.weights != "fp32" or (world > 1 and train.gather == "bf16") else 4
    # Of one block, rounded by autocast. Frozen weights are kept in the products' precision.
    copies = 2 * shape.products if precision == "bf16" and gathered == 4 and not shape.frozen else 0
    loss, first, last = _working(shape, train, tokens, precision, device, gathered, world, in_place)
    all_copies = Item("bf16 copies", copies * (shape.layers if train.recompute == "none" else 1), "of autocast")
    moments = {
        "in the loss": (*_gathered(shape, train, world, gathered, 1), all_copies, kept, loss),
        "in the first block of the backward pass": (
            *_gathered(shape, train, world, gathered, 3),
            all_copies,
            kept,
            *first,
        ),
        "at the end of the backward pass": (
            *_gathered(shape, train, world, gathered, 1),
            Item("bf16 copies", copies),
            Item("activations", tokens * saved + outside),
            *last,
        ),
    }
    moment = max(moments, key=lambda name: sum(item.bytes for item in moments[name]))
    reserve = RESERVE + (RESERVE_LINKS if world > 1 else 0) if device == "cuda" else 0
    return Plan(
        *(shape, train, world, memory, precision, device, tokens, moment, (*states, *moments[moment]), reserve),
        host=states[0].bytes + states[2].bytes,
        in_place=in_place,
    )


def tokens_at_once(train: Train, world: int) -> int:
    """Tokens of one forward pass on one device, in the phase that has most: whole sequences, as `batches.fold` cuts."""
    share = train.batch_tokens // world
    most = 0
    for phase in train.phases:
        asked = max(train.micro_batch_tokens // phase.context, 1) * phase.context if train.micro_batch_tokens else share
        most = max(most, min(asked, max(share, phase.context)))
    return most


def _states(shape: Shape, train: Train, sharers: int, operand: int) -> tuple[Item, ...]:
    """Weights, gradients and the optimizer's states, a shard of each; then the frozen weights."""
    each, gradient, states, note = {
        "fp32": (4, 4, 8, "two moments in fp32"),
        "bf16-masters": (2, 2, 12, "two moments and the masters in fp32"),
        "bf16-stochastic": (2, 2, 4, "two moments in bf16"),
    }[train.weights]
    share = math.ceil(shape.trained / sharers)
    total = states * share
    if train.optimizer == "muon":
        # One moment for the matrices of the blocks, two for the rest.
        note = "one moment of the matrices, two of the rest, in fp32"
        total -= 4 * math.ceil(shape.layers * shape.products / sharers)
    of = "" if sharers == 1 else f", 1/{sharers}"
    dtype = "fp32" if each == 4 else "bf16"
    return (
        Item("weights", each * share, dtype + of),
        Item("gradients", gradient * share, dtype + of),
        Item("optimizer", total, note + of),
        Item("frozen weights", operand * shape.frozen, "bf16" if operand == 2 else "fp32"),
    )


def _gathered(shape: Shape, train: Train, world: int, size: int, blocks: int) -> tuple[Item, ...]:
    """Whole weights beside the shards: the root, and so many blocks; all of them without `reshard`."""
    if world == 1:
        return ()
    # In the backward pass: the block that is computed, the next one on its way, and the buffer that it comes in.
    count = blocks if train.reshard else shape.layers + 1
    note = f"root and {blocks} block{'s' * (blocks > 1)}" if train.reshard else "root and all blocks, reshard = false"
    return (Item("gathered weights", size * (shape.root + count * shape.block), note),)


def saved_by_block(shape: Shape, precision: str) -> int:
    """Bytes that the backward pass of one block needs for each token."""
    if shape.measured:
        return shape.measured.kept[precision]
    d, operand = shape.width, 2 if precision == "bf16" else 4
    stream = 2 * (4 * d + 8)  # what each of the two norms reads, fp32, with its mean and deviation
    products = operand * (2 * d + (d + shape.kv_width) + d)  # both norms' outputs; Q, K and V; attention's output
    mlp = operand * 2 * shape.inner  # before and after the activation
    small = 4 * shape.heads + 4  # attention's sums of exponentials, and the token's position
    return stream + products + mlp + small + (2 * d if shape.dropout else 0)


def _input_of_block(shape: Shape, precision: str) -> int:
    """Bytes for each token that a block is computed again from: the stream, and the branch that is not yet added."""
    return (4 + (2 if precision == "bf16" else 4)) * shape.width


def _working(
    shape: Shape,
    train: Train,
    tokens: int,
    precision: str,
    device: str,
    gathered: int,
    world: int,
    in_place: bool,
) -> tuple[Item, tuple[Item, ...], tuple[Item, ...]]:
    """The memory of the moment: of the loss, of a block's backward pass, of the embedding's gradient."""
    operand = 2 if precision == "bf16" else 4
    # A frozen embedding has no gradient, and neither has the head.
    table = 0 if shape.frozen else shape.table
    from codeshell.ops.loss import block_rows

    # The loss: a block of logits (without a kernel, with three copies in fp32), the head's rounded copy, its gradient
    # in fp32 and one block's part of it in the operands' dtype.
    rows = min(block_rows(tokens, shape.vocabulary, operand, gpu=device == "cuda"), tokens)
    logits = rows * shape.vocabulary * (operand + (0 if in_place else 12))
    head = (operand if operand < gathered else 0) * table + (4 + (operand if operand < 4 else 0)) * table
    loss = Item(WORKING, logits + head + tokens * operand * shape.width, "the loss: logits, the head's gradient")
    # A block's backward pass: the gradients of the stream and of the widest tensors; when it is computed again, all
    # that it keeps.
    wide = 8 * shape.width + operand * (2 * shape.inner + 2 * shape.width + shape.kv_width)
    again = saved_by_block(shape, precision) if train.recompute == "block" else 0
    block = Item(WORKING, tokens * (wide + again) + 4 * table, "a block's backward pass, the head's gradient")
    # Its weights' gradients, whole, and summed over the devices in fp32: two blocks are on their way at once.
    if world == 1:
        largest = gathered * shape.width * max(shape.inner, shape.width + shape.kv_width)
        first: tuple[Item, ...] = (Item(block.name, block.bytes + largest, block.note),)
        last: tuple[Item, ...] = (Item(WORKING, 2 * gathered * table, "the embedding's gradient"),)
    else:
        first = (Item("gradients' sum", (gathered + 8) * shape.block, "two blocks, fp32"), block)
        last = (
            Item("gradients' sum", 4 * shape.root + 4 * shape.block, "the root and a block, fp32"),
            Item(WORKING, 2 * gathered * table, "the embedding's gradient"),
        )
    return loss, first, last
