"""The training loop: batches, gradients, updates, and what is written on the way.

A step takes the next `batch_tokens` of the stream, accumulates the gradient of the mean loss over micro-batches,
clips it and updates the weights, unless the loss or the gradient forbids it. Every random draw is a hash: for the
stream of (seed, epoch, document), for dropout of (seed, step). So a step is a function of the recipe, the data and the
tensors before it, and on a CPU a run that was killed and resumed ends with the same bits as one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from codeshell.engine.progress import Progress
from codeshell.errors import UserError, say
from codeshell.ops import devices
from codeshell.optim import AdamW
from codeshell.randomness import draw
from codeshell.recipe import Recipe
from codeshell.train import checkpoints
from codeshell.train.batches import IGNORED, Batch, Positions, Prefetch, fold
from codeshell.train.checkpoints import PhaseResult, State
from codeshell.train.flops import flops_per_token, peak_flops
from codeshell.train.forward import summed_loss
from codeshell.train.log import Log
from codeshell.train.rows import Lanes
from codeshell.train.schedule import Stretch, learning_rate, stretch_of, stretches
from codeshell.train.signals import NAMES, Interrupted, Signals
from codeshell.train.spikes import Guard
from codeshell.train.validate import Score, Validation

if TYPE_CHECKING:
    from codeshell.model import CodeShellForCausalLM


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
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: Path,
        model: CodeShellForCausalLM,
        optimizer: AdamW,
        lanes: Lanes,
        validation: Validation | None,
        state: State,
    ) -> None:
        self.recipe, self.train, self.directory = recipe, recipe.train, directory
        self.model, self.optimizer = model, optimizer
        self.lanes, self.validation, self.state = lanes, validation, state
        self.isolated = recipe.train.document_attention == "isolated"
        self.guard = Guard(recipe.train.spike_sigma, state.recent, state.skipped, state.in_row, state.reasons)
        # Peak FLOP/s of the device, for the MFU; None where it is not known, as for every CPU.
        device = next(model.parameters()).device
        self.peak = peak_flops(devices.facts(device).name, state.precision) if devices.on_gpu(device) else None
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
        log = Log(self.directory / "log.jsonl", self.state.step, tensorboard)
        batches = Prefetch(
            self._take, self.state.step, self.state.positions or self.lanes.start(), last=self.train.steps
        )
        try:
            # Signals are only noted; `_after` answers them between two steps, when the state is consistent.
            with Signals() as signals, Progress("train", total=left, unit="tokens") as progress:
                self.model.train()
                while self.state.step < self.train.steps:
                    reason = self._step(batches.next(), log, progress)
                    self._after(log, signals, reason)
        except KeyboardInterrupt:
            # The second Ctrl-C. What was being written is gone, and what was written before is whole.
            steps = checkpoints.list_steps(self.directory / "checkpoints")
            saved = f"the run is saved up to step {steps[-1]}" if steps else "nothing is saved yet"
            say(
                f"train: Ctrl-C; stopped at once, after step {self.state.step} of {self.train.steps}; {saved}; "
                "run the same command again to resume"
            )
            raise Interrupted(signal.SIGINT) from None
        finally:
            batches.close()
            log.close()

    def _take(self, step: int, positions: Positions) -> Batch:
        """The batch of a step, at the context of the step's phase; runs in the thread of `Prefetch`."""
        return self.lanes.take(positions, self.train.batch_tokens, stretch_of(self.train, step).context)

    def _step(self, batch: Batch, log: Log, progress: Progress) -> str | None:
        """Do one step; return why its update was not applied, or None if it was."""
        started = time.perf_counter()
        step = self.state.step + 1
        stretch = stretch_of(self.train, step)
        rate = learning_rate(self.train, step)
        # Gradient. Dropout draws from torch's generator, which is set anew at each step: a resume needs no state of it.
        torch.manual_seed(draw(self.recipe.seed, step, "dropout"))
        loss = self._gradient(batch, stretch.context)
        norm = self._clip()

        # Update, unless the loss or the gradient norm forbids it. The batch is used up either way.
        reason = self.guard.judge(loss, norm, ignore_spikes=self.train.spike_policy == "ignore")
        if reason is None:
            # The rate is a function of the step, so there is no scheduler whose state would have to be saved.
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        # Count the step.
        self.state.step, self.state.phase, self.state.context = step, stretch.index, stretch.context
        self.state.positions = batch.after
        self.state.tokens += len(batch.inputs)
        self.seconds += time.perf_counter() - started
        self.counted += len(batch.inputs)
        speed = self.counted / self.seconds  # tokens per second since the last line of the log
        progress.advance(
            len(batch.inputs),
            step=f"{step}/{self.train.steps}",
            loss=f"{loss:.4f}",
            lr=f"{rate:.2e}",
            tok_s=f"{speed:.0f}",
        )
        # A line of the log for every `log_every` steps, the end of a phase, the last step, and each skipped update.
        if reason is not None or step % self.train.log_every == 0 or step in (stretch.last, self.train.steps):
            work = flops_per_token(self.model.config, stretch.context)
            log.write(
                self._line("train")
                | {"loss": _finite(loss), "grad_norm": _finite(norm), "lr": rate, "skipped": reason}
                | {"seconds": round(self.seconds, 4), "tokens_per_second": round(speed, 1)}
                | {"mfu": round(work * speed / self.peak, 4) if self.peak else None}
            )
            self.seconds, self.counted = 0.0, 0
        return reason

    def _gradient(self, batch: Batch, context: int) -> float:
        """Accumulate the gradient of the mean loss over the batch; return that loss in nats per token."""
        # Each micro-batch's sum is divided by the targets of the whole batch, so how a batch is cut changes nothing
        # but rounding. The total stays on the device until all micro-batches are queued.
        counted = max(int((batch.targets != IGNORED).sum()), 1)
        total: torch.Tensor | float = 0.0
        for micro in fold(batch, context, self.train.micro_batch_tokens, isolated=self.isolated):
            loss = summed_loss(self.model, micro, self.state.precision) / counted
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        return float(total)

    def _clip(self) -> float:
        """Have the update scale the gradient to at most the recipe's norm; return the norm before that."""
        return float(self.optimizer.clip_grad_norm(self.train.clip or math.inf))

    def _after(self, log: Log, signals: Signals, reason: str | None) -> None:
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
        if due or kept or stuck or signals.stop is not None or signals.checkpoint:
            signals.checkpoint = False
            path = self._save(log)
            # After the last step there is nothing left to stop.
            if stuck and state.step < train.steps:
                raise UserError(self._stuck(reason or "", path))
            if signals.stop is not None:
                say(
                    f"train: {NAMES[signal.Signals(signals.stop)]}; stopped after step {state.step} of {train.steps}, "
                    f"saved in {path}; run the same command again to resume"
                )
                raise Interrupted(signals.stop)

    def _validate(self, log: Log, stretch: Stretch, phase_end: bool) -> None:
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
        )
        loss, bits = _finite(score.loss), _finite(score.bits_per_byte)
        seconds = round(time.perf_counter() - started, 4)
        log.write(self._line("valid") | {"loss": loss, "bits_per_byte": bits, "seconds": seconds})
        if loss is None:
            say(f"train: the validation loss after step {self.state.step} of {self.train.steps} is not finite")
        if phase_end:
            self.state.phase_results.append(PhaseResult(self.state.step, loss, bits))

    def _save(self, log: Log) -> Path:
        """Write a checkpoint and delete those that need not be kept."""
        # The log first: a resume cuts it at the checkpoint's step, and cannot restore lines that are missing.
        log.sync()
        path = checkpoints.save(self.directory / "checkpoints", self.state, self.model, self.optimizer)
        # The ends of phases are kept, because the evaluation compares the model before and after each.
        ends = [s.last for s in stretches(self.train)] if self.train.keep_phase_ends else []
        checkpoints.prune(path.parent, self.train.keep_checkpoints, ends)
        return path

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


def _finite(value: float) -> float | None:
    """The value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
