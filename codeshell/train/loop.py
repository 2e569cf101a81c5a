"""The training loop: batches, gradients, updates, and what is written on the way.

A step takes the next `batch_tokens` of the stream, accumulates the gradient of the mean loss over micro-batches,
clips it and updates the weights, unless the loss or the gradient forbids it. Every random draw is a hash: for the
stream of (seed, epoch, document), for dropout of (seed, step, place in the batch). So a step is a function of the
recipe, the data and the tensors before it, and on a CPU a run that was killed and resumed ends with the same bits as
one that was not.

Several ranks do the same step together: each takes its lanes' part of the batch, and what decides is summed over all of
them once a step, before the update. So every rank judges by the same numbers, and none is left alone in a collective.
"""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codeshell.engine.progress import Progress
from codeshell.errors import say
from codeshell.ops import devices
from codeshell.optim import AdamW
from codeshell.randomness import draw
from codeshell.recipe import Recipe
from codeshell.train import checkpoints, parts
from codeshell.train.agreement import AgreedError
from codeshell.train.batches import IGNORED, Batch, Position, Positions, Prefetch, fold
from codeshell.train.checkpoints import PhaseResult, Saver, State
from codeshell.train.flops import peak_flops
from codeshell.train.forward import summed_loss
from codeshell.train.launch import FIRST_STEPS, PATIENCE
from codeshell.train.log import Log
from codeshell.train.parallel import Group, sum_replicas
from codeshell.train.rows import Lanes
from codeshell.train.schedule import Stretch, learning_rate, stretch_of, stretches
from codeshell.train.signals import NAMES, Interrupted, Noted, Signals
from codeshell.train.spikes import Guard
from codeshell.train.validate import Score, Validation


class Trainer:
    """A run from `state` to its last step.

    Args:
        recipe: the settings; `seed` and `train` are used.
        directory: where the log and the checkpoints are written.
        model: on its device, with weights in fp32 (the master weights).
        optimizer: updates the model's parameters.
        lanes: the training documents.
        validation: None if there is nothing to validate on.
        state: where the run is; updated in place.
        group: the ranks that share the model; None is one process.

    Raises:
        UserError: the number of ranks does not divide the lanes.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        model: torch.nn.Module,
        optimizer: AdamW,
        lanes: Lanes,
        validation: Validation | None,
        state: State,
        group: Group | None = None,
    ) -> None:
        self.recipe, self.train, self.directory = recipe, recipe.train, directory
        self.model, self.optimizer = model, optimizer
        self.lanes, self.validation, self.state = lanes, validation, state
        self.isolated = recipe.train.document_attention == "isolated"
        self.guard = Guard(recipe.train.spike_sigma, state.recent, state.skipped, state.in_row, state.reasons)
        # Peak FLOP/s of the device, for the MFU; None where it is not known, as for every CPU.
        device = next(model.parameters()).device
        self.group = group or Group.alone(device)
        peak = peak_flops(devices.facts(device).name, state.precision) if devices.on_gpu(device) else None
        self.peak = peak * self.group.world if peak else None
        # This rank's lanes, and where it is in them.
        self.share = self.group.share(lanes.count)
        self.positions = (state.positions or lanes.start())[self.share.start : self.share.stop]
        # The next step's part of a batch, and the targets of that batch on all ranks. One process needs no look ahead.
        self.upcoming: Batch | None = None
        self.targets = 0
        # What several ranks have agreed that signals ask for; one process looks at the signals themselves.
        self.noted = Noted()
        # Whether a checkpoint is known to have failed, on some rank.
        self.unsaved = False
        self.fresh = True  # no step is done yet; the first one may take longer
        # Seconds and tokens of the steps since the last line of the log.
        self.seconds, self.counted = 0.0, 0

    def run(self) -> None:
        """Train to the end.

        Raises:
            Interrupted: a SIGTERM or Ctrl-C came; the run is saved. After a second Ctrl-C, up to the last checkpoint.
            UserError: the spike policy stopped the run, which is saved; or the disk is full.
        """
        left = (self.train.steps - self.state.step) * self.train.batch_tokens
        tensorboard = self.directory / "tensorboard" if self.train.tensorboard else None
        group = self.group
        log = Log(self.directory / "log.jsonl", self.state.step, tensorboard) if group.leader else None
        batches = Prefetch(self._take, self.state.step, self.positions, last=self.train.steps)
        try:
            # Signals are only noted; `_after` answers them between two steps, when the state is consistent.
            with (
                Signals(group.rank, group.world) as signals,
                Progress("train", total=left, unit="tokens") as progress,
                self._saver() as self.saver,
            ):
                if self.state.base and self.state.step == 0:
                    self._validate_base(log)
                self.model.train()
                if group.world > 1 and self.state.step < self.train.steps:
                    self.upcoming = batches.next()
                    self.targets = int(group.sum([_targets(self.upcoming)])[0])
                while self.state.step < self.train.steps:
                    reason = self._step(batches, log, signals, progress)
                    self._after(log, signals if group.world == 1 else self.noted, reason)
        except KeyboardInterrupt:
            # The second Ctrl-C. What was being written is gone, and what was written before is whole.
            steps = checkpoints.list_steps(self.directory / "checkpoints")
            saved = f"the run is saved up to step {steps[-1]}" if steps else "nothing is saved yet"
            say(
                f"train: Ctrl-C; stopped at once, after step {self.state.step} of {self.train.steps}; {saved}; "
                "run the same command again to resume"
            )
            raise Interrupted(signal.SIGINT, agreed=False) from None
        finally:
            batches.close()
            if log is not None:
                log.close()

    def _saver(self) -> Saver:
        """Writes checkpoints while training continues, and deletes those that need not be kept."""
        # The ends of phases are kept, because the evaluation compares the model before and after each.
        ends = [s.last for s in stretches(self.train)] if self.train.keep_phase_ends else []
        return Saver(self.directory / "checkpoints", self.group, self.train.keep_checkpoints, ends)

    def _take(self, step: int, positions: Positions) -> Batch:
        """The batch of a step, at the context of the step's phase; runs in the thread of `Prefetch`."""
        part = self.train.batch_tokens // self.group.world
        return self.lanes.take(positions, part, stretch_of(self.train, step).context, self.share)

    def _step(self, batches: Prefetch, log: Log | None, signals: Signals, progress: Progress) -> str | None:
        """Do one step; return why its update was not applied, or None if it was."""
        if self.group.world == 1:
            batch = batches.next()
            self.targets = _targets(batch)
        else:
            assert self.upcoming is not None
            batch = self.upcoming
        started = time.perf_counter()
        step = self.state.step + 1
        self.group.mark(f"step {step}", patience=FIRST_STEPS if self.fresh else 1.0)
        stretch = stretch_of(self.train, step)
        rate = learning_rate(self.train, step)
        loss = self._gradient(batch, stretch.context)
        norm = self._clip()
        if self.group.world > 1:
            loss, norm = self._agree(loss, norm, signals, batches)
        else:
            self.unsaved = self.saver.failed
        if self.unsaved:
            # It raises, on every rank alike, what went wrong with the checkpoint.
            self.saver.finish()

        # Update, unless the loss or the gradient norm forbids it. The batch is used up either way.
        reason = self.guard.judge(loss, norm, ignore_spikes=self.train.spike_policy == "ignore")
        if reason is None:
            # The rate is a function of the step, so there is no scheduler whose state would have to be saved.
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        # Count the step.
        self.fresh = False
        self.state.step, self.state.phase, self.state.context = step, stretch.index, stretch.context
        self.positions = batch.after
        self.state.tokens += self.train.batch_tokens
        self.seconds += time.perf_counter() - started
        self.counted += self.train.batch_tokens
        speed = self.counted / self.seconds  # tokens per second since the last line of the log
        progress.advance(
            self.train.batch_tokens,
            step=f"{step}/{self.train.steps}",
            loss=f"{loss:.4f}",
            lr=f"{rate:.2e}",
            tok_s=f"{speed:.0f}",
        )
        # A line of the log for every `log_every` steps, the end of a phase, the last step, and each skipped update.
        if reason is not None or step % self.train.log_every == 0 or step in (stretch.last, self.train.steps):
            work = parts.flops(self.model, stretch.context)
            self._write(
                log,
                self._line("train")
                | {"loss": _finite(loss), "grad_norm": _finite(norm), "lr": rate, "skipped": reason}
                | {"seconds": round(self.seconds, 4), "tokens_per_second": round(speed, 1)}
                | {"mfu": round(work * speed / self.peak, 4) if self.peak else None},
            )
            self.seconds, self.counted = 0.0, 0
        return reason

    def _gradient(self, batch: Batch, context: int) -> float:
        """Accumulate the gradient of the mean loss over the batch; return this rank's part of that loss, in nats per
        token."""
        # Each micro-batch's sum is divided by the targets of the whole batch, so how a batch is cut changes nothing
        # but rounding. The total stays on the device until all micro-batches are queued.
        counted = max(self.targets, 1)
        total: torch.Tensor | float = 0.0
        micros = list(fold(batch, context, self.train.micro_batch_tokens, isolated=self.isolated))
        for micro in micros:
            sum_replicas(self.model, self.group, last=micro is micros[-1])
            # Dropout draws from torch's generator. It is set anew for each micro-batch, by its place in the batch: a
            # resume needs no state of it, and which rank takes the micro-batch changes nothing.
            place = (micro.first,) if micro.first else ()
            torch.manual_seed(draw(self.recipe.seed, self.state.step + 1, "dropout", *place))
            loss = summed_loss(self.model, micro, self.state.precision) / counted
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        return float(total)

    def _agree(self, loss: float, norm: float, signals: Signals, batches: Prefetch) -> tuple[float, float]:
        """Bring together, once a step, what all ranks must know alike; return the loss and the norm of all.

        The next batch's targets are counted in the same exchange, so its loss is divided right from the start.
        """
        self.upcoming = batches.next() if self.state.step + 1 < self.train.steps else None
        ahead = _targets(self.upcoming) if self.upcoming else 0
        mine = [loss, norm, ahead, signals.stop or 0, signals.checkpoint, self.saver.failed]
        signals.checkpoint = False
        losses, norms, targets, stops, asked, failed = zip(*self.group.exchange(mine), strict=True)
        self.noted = Noted(int(max(stops)) or None, any(asked))
        self.unsaved = any(failed)
        self.targets = int(sum(targets))
        total = losses[0]
        for part in losses[1:]:
            total += part
        # In fp32, as one process adds its micro-batches. The norm is one number already.
        with np.errstate(over="ignore"):
            return float(np.float32(total)), norms[0]

    def _clip(self) -> float:
        """Have the update scale the gradient to at most the recipe's norm; return the norm before that."""
        return float(self.optimizer.clip_grad_norm(self.train.clip or math.inf))

    def _after(self, log: Log | None, noted: Noted, reason: str | None) -> None:
        """Validate, save or stop, where this step calls for it."""
        train, state = self.train, self.state
        stretch = stretch_of(train, state.step)
        phase_end = state.step == stretch.last
        if phase_end or (train.valid_every and state.step % train.valid_every == 0):
            self._validate(log, stretch, phase_end)
        # A checkpoint stores the guard's view, so that a resumed run judges losses alike.
        state.recent, state.skipped, state.in_row = self.guard.recent, self.guard.skipped, self.guard.in_row
        state.reasons = self.guard.reasons
        # Save at the recipe's interval, at the ends that are kept, before any stop, and when a signal asks for it.
        stuck = reason is not None and (train.spike_policy == "stop" or self.guard.in_row >= train.max_skips)
        due = bool(train.checkpoint_every) and state.step % train.checkpoint_every == 0
        kept = phase_end and (train.keep_phase_ends or state.step == train.steps)
        if due or kept or stuck or noted.stop is not None or noted.checkpoint:
            noted.checkpoint = False
            path = self._save(log)
            # After the last step there is nothing left to stop.
            if stuck or noted.stop is not None or state.step == train.steps:
                self.saver.finish()
            self.group.mark(f"the end of step {state.step}")
            if stuck and state.step < train.steps:
                raise AgreedError(self._stuck(reason or "", path))
            if noted.stop is not None:
                say(
                    f"train: {NAMES[signal.Signals(noted.stop)]}; stopped after step {state.step} of {train.steps}, "
                    f"saved in {path}; run the same command again to resume"
                )
                raise Interrupted(noted.stop)

    def _validate_base(self, log: Log | None) -> None:
        """Measure the model that training begins with, so that the run says what it has changed."""
        self._validate(log, stretch_of(self.train, 1), phase_end=True)
        self.state.before = self.state.phase_results.pop()

    def _validate(self, log: Log | None, stretch: Stretch, phase_end: bool) -> None:
        """Write the validation's line of the log; at the end of a phase keep the result for the statistics."""
        if self.validation is None:
            if phase_end:
                self.state.phase_results.append(PhaseResult(self.state.step, None, None))
            return
        started = time.perf_counter()
        score: Score = self.validation.score(
            self.model,
            context=stretch.context,
            micro_tokens=self.train.micro_batch_tokens or self.train.batch_tokens,
            precision=self.state.precision,
            group=self.group,
        )
        loss, bits = _finite(score.loss), _finite(score.bits_per_byte)
        seconds = round(time.perf_counter() - started, 4)
        self._write(log, self._line("valid") | {"loss": loss, "bits_per_byte": bits, "seconds": seconds})
        if loss is None:
            say(f"train: the validation loss after step {self.state.step} of {self.train.steps} is not finite")
        if phase_end:
            self.state.phase_results.append(PhaseResult(self.state.step, loss, bits))

    def _save(self, log: Log | None) -> Path:
        """Begin to write a checkpoint; return where it will be."""
        self.group.mark(f"the checkpoint of step {self.state.step}", PATIENCE)
        # The log first: a resume cuts it at the checkpoint's step, and cannot restore lines that are missing.
        if log is not None:
            log.sync()
        # Positions of all lanes: any number of ranks that divides them can resume.
        rows = self.group.gather([[place.epoch, place.index, place.offset] for place in self.positions])
        self.state.positions = tuple(Position(*place) for row in rows for place in row)
        return self.saver.begin(self.state, self.model, self.optimizer)

    def _write(self, log: Log | None, line: dict[str, Any]) -> None:
        """Write a line of the log, where this rank has one."""
        if log is not None:
            log.write(line)

    def _line(self, kind: str) -> dict[str, Any]:
        """The fields that every line of the log has."""
        state = self.state
        return {
            "kind": kind,
            "step": state.step,
            "phase": state.phase,
            "context": state.context,
            "tokens": state.tokens,
        }

    def _stuck(self, reason: str, path: Path) -> str:
        """The message of a run that the spike policy stops."""
        if self.train.spike_policy == "stop":
            return (
                f"train: {reason} at step {self.state.step}, and train.spike_policy is stop; saved in {path}; "
                "run again to resume after this batch, or set train.spike_policy = skip"
            )
        # A higher sigma lets spikes through; nothing makes a value finite but another run.
        other = ", or resume with a higher train.spike_sigma" if reason == "spike" else ""
        return (
            f"train: {self.guard.in_row} updates in a row were skipped, the last at step {self.state.step} ({reason}); "
            f"saved in {path}; train again with a lower train.lr{other}"
        )


def _targets(batch: Batch) -> int:
    """How many targets count."""
    return int((batch.targets != IGNORED).sum())


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
