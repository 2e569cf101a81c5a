"""AdamW (Loshchilov and Hutter 2019) with torch's arguments and state, and one launch for all parameters of a group.

A group is served by a plan: its parameters are sorted into buckets (buckets.py) that share device and dtypes, and each
bucket is one launch. Plans are kept from step to step and made again only when something has changed. Whatever no
kernel serves goes to torch's own step, or, for the schemes that torch does not know, to the same arithmetic in PyTorch
(reference.py); the log says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw as torch_step

from codeshell import _C
from codeshell.ops import devices
from codeshell.ops.library import say, unwatched
from codeshell.optim import states
from codeshell.optim.buckets import SERVED, Bucket, Kind, Scheme, local
from codeshell.optim.clipping import Clipped, norm_and_factor
from codeshell.optim.reference import ReferenceBucket

_OPTIONS = ("master_weights", "stochastic_rounding", "moment_dtype", "seed")
_STATE = ("exp_avg", "exp_avg_sq", "master_param")


class AdamW(torch.optim.AdamW):
    """torch.optim.AdamW, with this package's kernels for CPU and CUDA parameters in fp32, bf16 and fp16.

    The arguments, the parameter groups, the hooks and the state's names (`step`, `exp_avg`, `exp_avg_sq`) are torch's,
    and state dicts load in both directions. All parameters of a group that share device and dtypes are updated by one
    launch, however many there are; on the CPU the threads share it, and bits do not depend on their number.
    `grad_scale` and `found_inf` of a GradScaler, the factor of `clip_grad_norm`, a tensor `lr` and each parameter's
    `step` are read where the parameters are, so that a step neither waits for a GPU nor breaks the capture of a CUDA
    graph (with `capturable=True`; call `step` once before each capture). DTensors (FSDP2) are updated shard by shard.

    On a GPU that does not run the kernels (`codeshell info --kernels`), PyTorch updates with the same state: torch's
    own step where it computes the same, else the kernels' arithmetic in PyTorch, down to the random bits.

    Beyond torch:

    Args:
        params: tensors, (name, tensor) pairs, or groups of either, as in torch.
        lr: float, or a one-element tensor.
        betas: decay rates of the moments.
        eps: added to the denominator.
        weight_decay: decoupled decay: parameters are multiplied by 1 - lr * weight_decay.
        amsgrad: torch's own implementation serves this, as well as `foreach=True`, `fused=False`,
            `differentiable=True`, betas in tensors of a GPU, fp64 parameters and other devices; the log of `codeshell`
            says so once where it was not asked for by name.
        master_weights: for 16-bit parameters: keep an fp32 copy, `state[p]["master_param"]`, which the update reads
            and writes; the parameter is only written, rounded from the copy (28 bytes per parameter and step with
            16-bit gradients and fp32 moments). The copy is made from the parameter at its first step, and again once
            somebody else has written the parameter. Writes through `.data` leave no trace: after them call
            `reset_master_weights`.
        stochastic_rounding: round bf16 parameters and bf16 moments up or down at random, right in the mean, so that
            small updates are not lost (22 bytes with fp32 moments, 14 with bf16). Random bits are a hash of `seed`,
            the step, and the places of the parameter, of its shard and of the element: a run repeats bit for bit, on
            any number of threads or blocks, and on the same number of shards.
        moment_dtype: dtype of `exp_avg` and `exp_avg_sq`: torch.float32, or the parameter's dtype, or torch.bfloat16
            for fp32 parameters. Default: fp32 with `master_weights` or `stochastic_rounding`, else the parameter's
            dtype, as in torch.
        seed: seed of stochastic rounding.
        fused: True, and only that, makes a GradScaler leave unscaling and skipping to the step, which then does not
            wait for a GPU; nobody but the kernel knows of a skipped step then. Both are as in torch.
        settings: torch's other arguments: `maximize`, `foreach`, `capturable`, `differentiable`.

    Raises:
        ValueError: a combination that no kernel serves, or complex parameters.
    """

    _plans: dict[int, _Plan]  # by the number of the group
    _states: list[Any]  # the values of `state` for which the plans were made
    _factors: dict[torch.device, Tensor]  # (norm, factor) of clip_grad_norm on each device, for the next step
    _clipped: Clipped  # the gradients that the factors are for
    _asked_fused = False  # a copy or an unpickled optimizer leaves the skipping to the scaler
    _loading: dict[str, Any] | None  # what load_state_dict was given, while it loads

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        fused: bool | None = None,
        master_weights: bool = False,
        stochastic_rounding: bool = False,
        moment_dtype: torch.dtype | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self._options: dict[str, Any] = dict(
            zip(_OPTIONS, (master_weights, stochastic_rounding, moment_dtype, seed), strict=True)
        )
        self._forget()
        self._asked_fused = fused is True
        # Unless told otherwise, torch's own step, for what no kernel serves, is its fused one.
        if not isinstance(params, Tensor):
            params = list(params)
            if fused is None and not (settings.get("foreach") or settings.get("differentiable")):
                tensors = [t for item in params for t in _tensors(item)]
                fused = all(t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors) or None
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, fused=fused, **settings)
        self.defaults.update(self._options)
        self._set_amp()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; it may have this class's options too."""
        for name, value in self._options.items():
            if isinstance(param_group, dict):
                param_group.setdefault(name, value)
        # A group that is refused must not stay in the optimizer.
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check(group)
        except ValueError:
            self.param_groups.pop()
            raise
        self._forget()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns the closure's value.

        Raises:
            RuntimeError: a gradient is sparse.
        """
        # torch has renamed this check of `capturable`.
        health_check = getattr(self, "_accelerator_graph_capture_health_check", None)
        (health_check or self._cuda_graph_capture_health_check)()
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        with torch.set_grad_enabled(bool(self.defaults["differentiable"])):
            self._update()
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as in torch, and with them the factor of `clip_grad_norm`."""
        self._factors.clear()
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Have the next `step` multiply all gradients by min(1, max_norm / (norm + 1e-6)), without waiting for a GPU,
        and without writing them, but for those that torch's own step updates. The factor is for the gradients of now:
        `step` leaves it out where all of them are new ones, and raises RuntimeError where some are, or one was written
        since.

        Replaces torch.nn.utils.clip_grad_norm_, which reads the gradients twice and writes them. The norm of DTensors
        is over all processes. With a GradScaler, call `unscale_` before, as with torch's.

        Args:
            max_norm: limit of the 2-norm of all gradients together; math.inf only measures it.

        Returns:
            The norm before clipping, () fp32, on the device of the first parameter that has a gradient.
        """
        # Gradients in buckets, and others that no kernel serves. A plan that no longer fits is made again.
        buckets: list[Bucket] = []
        others: list[Tensor] = []
        for number, group in enumerate(self.param_groups):
            plan = self._current_plan(number, group)
            if not all(bucket.on_gpu or bucket.refresh() for bucket in plan.buckets):
                del self._plans[number]
                plan = self._current_plan(number, group)
            buckets += plan.buckets
            others += [p.grad for p in plan.rest if p.grad is not None]
        # Each device once, in order; the result goes to all of them, because a step reads the factor where it runs.
        places = list(dict.fromkeys(bucket.kind.device for bucket in buckets))
        alone = len(places) == 1 and not others and buckets[0].on_gpu
        if alone and all(bucket.has_kernel and not bucket.kind.mesh for bucket in buckets):
            # All on one GPU: a launch for each bucket, the last of which also gives norm and factor.
            (device,) = places
            sums = torch.empty(len(buckets), dtype=torch.float64, device=device)
            result = torch.empty(2, dtype=torch.float32, device=device)
            for slot, bucket in enumerate(buckets):
                bucket.sum_of_squares(sums, slot, slot == len(buckets) - 1, max_norm, result)
        else:
            result = norm_and_factor(buckets, others, max_norm)
            places += [g.device for g in others]
        self._factors = {device: result.to(device, non_blocking=True) for device in dict.fromkeys(places)}
        self._clipped = Clipped([p for group in self.param_groups for p in group["params"]])
        return result[0]

    def reset_master_weights(self) -> None:
        """Make the fp32 copies again from the parameters. Call this after writing those by other means, such as loading
        a model.
        """
        for state in self.state.values():
            state.pop("master_param", None)
        self._forget()

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict, as in torch, but keep the precision of moments and master weights, which torch would round
        to the parameter's dtype.
        """

        # torch calls __setstate__ with what it has rounded; the hook keeps what it was given, for _restore_precision.
        def keep(_: torch.optim.Optimizer, final: dict[str, Any]) -> None:
            self._loading = final

        hook = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()
            self._loading = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # A state of torch's own AdamW, or of an older version, has none of this class's options.
        self._options = {
            name: self.defaults.get(name, default)
            for name, default in zip(_OPTIONS, (False, False, None, 0), strict=True)
        }
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
        loading = getattr(self, "_loading", None)
        if loading is not None:
            self._restore_precision(loading)
        self._forget()
        self._set_amp()

    def _restore_precision(self, loaded: dict[str, Any]) -> None:
        """Take moments and masters from what was loaded, in the dtypes of this optimizer."""
        # torch numbers the parameters of a saved state; group by group they are in the order of ours.
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            moved: dict[torch.dtype, list[Tensor]] = {}
            for p, key in zip(group["params"], saved["params"], strict=True):
                if not _is_ours(group) or p.dtype not in SERVED:
                    continue
                for name in _STATE:
                    value = loaded["state"].get(key, {}).get(name)
                    if isinstance(value, Tensor):
                        dtype = torch.float32 if name == "master_param" else states.moment_dtype(p, group)
                        self.state[p][name] = value.detach().clone().to(device=p.device, dtype=dtype)
                # Small states go side by side again; each loaded tensor has a block of its own.
                if states.may_share(p) and states.is_whole(self.state[p], p):
                    moved.setdefault(states.moment_dtype(p, group), []).append(p)
            for dtype, params in moved.items():
                states.put_side_by_side([self.state[p] for p in params], params, dtype)

    def _set_amp(self) -> None:
        # This attribute tells a GradScaler that step() reads grad_scale and found_inf by itself. As with torch's own,
        # only `fused=True` asks for that: otherwise the scaler skips the step, and others see that it does.
        if self._asked_fused and all(_is_ours(group) or group.get("fused") for group in self.param_groups):
            self._step_supports_amp_scaling = True
        elif "_step_supports_amp_scaling" in self.__dict__:
            del self._step_supports_amp_scaling

    def _forget(self) -> None:
        self._plans = {}
        self._states = []
        self._factors = {}
        self._loading = None

    def _check(self, group: dict[str, Any]) -> None:
        """Raises ValueError for options that no kernel serves."""
        special = [name for name in _OPTIONS[:3] if group[name]]
        if special and not _is_ours(group):
            raise ValueError(
                f"AdamW: {special[0]} needs this package's step; it does not go with amsgrad, foreach, differentiable, "
                "fused=False or tensor betas"
            )
        for p in group["params"]:
            kinds = f"parameter of shape {tuple(p.shape)}, {p.dtype}"
            if p.is_complex() and _is_ours(group):
                raise ValueError(
                    f"AdamW: complex {kinds}: pass torch.view_as_real of it, or fused=False for torch's own step"
                )
            if special and p.dtype not in SERVED:
                raise ValueError(f"AdamW: {special[0]} serves float32, bfloat16 and float16, not the {kinds}")
            if group["stochastic_rounding"] and p.dtype == torch.float16:
                raise ValueError(f"AdamW: stochastic_rounding rounds to bfloat16, not the {kinds}")
            dtype = group["moment_dtype"]
            served = (None, torch.float32, p.dtype, torch.bfloat16 if p.dtype == torch.float32 else None)
            if dtype not in served or (dtype == torch.float16 and group["master_weights"]):
                raise ValueError(f"AdamW: moment_dtype {dtype} is not served for the {kinds}")

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _update(self) -> None:
        # A GradScaler leaves the first two on the optimizer; the factors are those of clip_grad_norm, for one step.
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        factors, self._factors = self._factors, {}
        if factors and not self._clipped.holds_for([p for group in self.param_groups for p in group["params"]]):
            factors = {}
        for number, group in enumerate(self.param_groups):
            plan = self._current_plan(number, group)
            rest = plan.rest
            left = _step_of(plan.buckets, group, scale, found_inf, factors)
            # A parameter that is not as it was at the last step is found on the way. Those before it are updated; the
            # rest of its bucket gets a plan of its own for this step.
            if left:
                del self._plans[number]
                again = self._checked(self._plan(number, group, set(map(id, left))))
                left = _step_of(again.buckets, group, scale, found_inf, factors)
                assert not left, "a tensor has changed during the step"
                rest = rest + again.rest
            # torch's step knows nothing of the clipping factor, so its gradients are multiplied here.
            if rest:
                for p in rest:
                    if factors and p.grad is not None:
                        local(p.grad).mul_(factors[p.grad.device][1])
                self._torch_step(group, rest)

    def _current_plan(self, number: int, group: dict[str, Any]) -> _Plan:
        """How the group is served now. The addresses of buckets on a GPU are read; on the CPU the step reads them."""
        if not _is_ours(group):
            if group["fused"] is not False and not group["foreach"] and not group["differentiable"]:
                _say("amsgrad" if group["amsgrad"] else "betas in tensors of a GPU")
            return _Plan(group, [], group["params"], [])
        # A plan holds its states, so it is for as long as these are the very objects in `state`.
        if not _C.same_objects(self.state, self._states):
            self._plans, self._states = {}, list(self.state.values())
        # Under a mode or a trace (FakeTensorMode, make_fx), torch's step, of which they see the operations.
        if not unwatched():
            return _Plan(group, [], group["params"], [])
        plan = self._plans.get(number)
        on_gpu = [bucket for bucket in plan.buckets if bucket.on_gpu] if plan else []
        if (
            plan is None
            or not plan.is_for(group)
            or not all(bucket.refresh() for bucket in on_gpu)
            or plan.is_overwritten()
        ):
            # Making a plan may make states, so what `state` holds is noted after it.
            plan = self._checked(self._plan(number, group))
            self._plans[number], self._states = plan, list(self.state.values())
        return plan

    def _checked(self, plan: _Plan) -> _Plan:
        """The new plan itself; ValueError if a tensor does not fit its bucket."""
        for bucket in plan.buckets:
            if not bucket.refresh():
                shapes = ", ".join(str(tuple(p.shape)) for p in bucket.params[:3])
                raise ValueError(f"AdamW: state or gradients do not fit parameters of shapes {shapes} …: {bucket.kind}")
        return plan

    def _plan(self, number: int, group: dict[str, Any], only: set[int] | None = None) -> _Plan:
        """Sort the group's parameters into buckets, and make the state of those that have a gradient and no state yet.

        With `only`, consider just the parameters with these ids.
        """
        self._make_states(group, only)
        kinds: dict[Kind, tuple[list[Tensor], list[dict[str, Any]], list[int]]] = {}
        rest, waiting = [], []
        for place, p in enumerate(group["params"]):
            if only is not None and id(p) not in only:
                continue
            # Not ours: torch's step takes it.
            if not _is_known(p) or p.dtype not in SERVED or p.device.type not in ("cpu", "cuda"):
                rest.append(p)
                _say(f"parameters of {p.dtype}, {type(p).__name__}, on {p.device.type}")
                continue
            # Without a gradient: the plan is for as long as that stays so.
            if p.grad is None:
                waiting.append(p)
                continue
            if p.grad.layout != torch.strided:
                raise RuntimeError(
                    f"AdamW does not support sparse gradients (parameter of shape {tuple(p.shape)}): "
                    "use torch.optim.SparseAdam, or sparse=False"
                )
            # Parameters whose tensors agree in all of this share a bucket, in the order of the group.
            state = self.state[p]
            states.prepare(state, p, group)
            shard, gradient = local(p.detach()), local(p.grad.detach())
            # A gradient of any other dtype is converted to fp32 each step (`staged`).
            served = gradient.dtype in (p.dtype, torch.float32)
            scheme = Scheme(
                p.dtype,
                gradient.dtype if served else torch.float32,
                state["exp_avg"].dtype,
                "master_param" in state and group["master_weights"],
                group["stochastic_rounding"],
            )
            staged = not (served and shard.is_contiguous() and gradient.is_contiguous())
            # Whether the device runs the kernels. torch's own step updates the same state, where it computes the same.
            lacking = _lacking(shard.device)
            if lacking:
                _say(lacking)
                if scheme.is_torchs():
                    rest.append(p)
                    continue
            kind = Kind(
                shard.device, scheme, getattr(p, "device_mesh", None), tuple(getattr(p, "placements", ())), staged
            )
            params, theirs, streams = kinds.setdefault(kind, ([], [], []))
            params.append(p)
            theirs.append(state)
            # Shard, group and place: what no other parameter has, and no other shard of this one.
            streams.append(_shard_of(p) << 48 | number << 32 | place)
        buckets = [
            (ReferenceBucket if _lacking(kind.device) else Bucket)(kind, *lists) for kind, lists in kinds.items()
        ]
        return _Plan(group, buckets, rest, waiting)

    def _make_states(self, group: dict[str, Any], only: set[int] | None) -> None:
        """Make the state of plain parameters on the CPU that have a gradient and no state yet, many at once. `_prepare`
        makes that of the others.
        """
        new: dict[torch.dtype, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None and states.may_share(p) and p not in self.state and (only is None or id(p) in only):
                new.setdefault(states.moment_dtype(p, group), []).append(p)
        for dtype, params in new.items():
            states.put_side_by_side([self.state[p] for p in params], params, dtype)

    def _torch_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """torch's own step for some parameters of a group. Its fused step takes tensors with gaps for dense ones (2.13,
        CPU), so those get another one of its steps.
        """
        # What torch's own `step` does: collect the tensors of the group, then call the functional form.
        dense = all(p.is_contiguous() and (p.grad is None or p.grad.is_contiguous()) for p in params)
        group = {**group, "params": params, "fused": group["fused"] if dense else False}
        lists: Any = ([], [], [], [], [], [])
        has_complex = self._init_group(group, *lists)  # type: ignore[no-untyped-call]
        beta1, beta2 = group["betas"]
        names = ("amsgrad", "weight_decay", "eps", "maximize", "lr", "foreach", "capturable", "differentiable", "fused")
        step: Any = torch_step
        step(
            *lists,
            beta1=beta1,
            beta2=beta2,
            has_complex=has_complex,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            **{name: group[name] for name in names},
        )


class _Plan:
    """How a group's parameters are served, for as long as they and the group's options stay the same.

    Attributes:
        buckets: what the kernels update.
        rest: parameters that torch's step updates.
    """

    def __init__(self, group: dict[str, Any], buckets: list[Bucket], rest: list[Tensor], waiting: list[Tensor]) -> None:
        self.buckets, self.rest, self._waiting = buckets, rest, waiting
        self._params = list(group["params"])
        self._options = [group[name] for name in _OPTIONS]

    def is_overwritten(self) -> bool:
        """Whether others have written parameters since the last step, whose fp32 copies may be old now."""
        return any(bucket.is_overwritten() for bucket in self.buckets)

    def is_for(self, group: dict[str, Any]) -> bool:
        """Whether the plan still fits: the same parameters and options, and no new gradient."""
        params = group["params"]
        return (
            _C.same_objects(params, self._params)
            and self._options == [group[name] for name in _OPTIONS]
            and all(p.grad is None for p in self._waiting)
        )


def _shard_of(p: Tensor) -> int:
    """The number of this process's shard of a DTensor; the same on replicas, which must stay equal. 0 for a tensor."""
    mesh, number = getattr(p, "device_mesh", None), 0
    if mesh is not None:
        for dim, (placement, at) in enumerate(zip(getattr(p, "placements", ()), mesh.get_coordinate(), strict=True)):
            if placement.is_shard():
                number = number * int(mesh.size(dim)) + int(at)
    return number


def _step_of(
    buckets: list[Bucket],
    group: dict[str, Any],
    scale: Tensor | None,
    found_inf: Tensor | None,
    factors: dict[torch.device, Tensor],
) -> list[Tensor]:
    """One update of the buckets of a group; returns the parameters that are no longer of their bucket's kind."""
    left: list[Tensor] = []
    beta1, beta2 = map(float, group["betas"])
    for bucket in buckets:
        # A learning rate in a tensor of the bucket's GPU is read there. One on the CPU is read here, without waiting.
        on_device = bucket.on_gpu and isinstance(group["lr"], Tensor) and group["lr"].device == bucket.kind.device
        factor = factors.get(bucket.kind.device)
        tensors = (group["lr"] if on_device else None, scale, found_inf, None if factor is None else factor[1])
        pointers = [None if tensor is None else _scalar(tensor, bucket.kind.device) for tensor in tensors]
        lr = 0.0 if on_device else float(group["lr"])
        rates = (lr, beta1, beta2, group["eps"], group["weight_decay"])
        done = bucket.step((*rates, group["seed"], group["maximize"]), pointers)
        left += bucket.params[done:]
    return left


def _is_ours(group: dict[str, Any]) -> bool:
    """Whether the kernels serve the group's options. If not, torch's own step does."""
    torchs = group["foreach"] or group["fused"] is False or group["differentiable"] or group["amsgrad"]
    return not torchs and not any(isinstance(beta, Tensor) and beta.device.type != "cpu" for beta in group["betas"])


def _is_known(p: Tensor) -> bool:
    """Whether the memory of this type is known: a plain tensor or a DTensor. torch's step takes other subclasses."""
    return type(p) in (Tensor, torch.nn.Parameter) or hasattr(p, "_local_tensor")


def _scalar(value: Tensor, device: torch.device) -> Tensor:
    """A one-element tensor in the form that the kernels read: fp32, on their device."""
    return local(value.detach()).to(device=device, dtype=torch.float32, non_blocking=True)


def _lacking(device: torch.device) -> str | None:
    """Why a device does not run the kernels; None if it does, as every CPU."""
    return devices.missing(device, devices.ADAMW) if devices.on_gpu(device) else None


def _say(reason: str) -> None:
    say("codeshell.optim.AdamW", reason)


def _tensors(item: Any) -> list[Tensor]:
    """The tensors of one entry of `params`: a tensor, a (name, tensor) pair, or a group of either."""
    if isinstance(item, Tensor):
        return [item]
    if isinstance(item, dict):
        # An iterator can be read once, so the group gets a list in its place.
        inner = item["params"]
        if isinstance(inner, (Tensor, set)):
            return list(inner) if isinstance(inner, set) else [inner]
        item["params"] = list(inner)
        return [t for part in item["params"] for t in _tensors(part)]
    return [part for part in item if isinstance(part, Tensor)]
