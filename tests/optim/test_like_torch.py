"""The cases of torch's own optimizer tests that apply to AdamW, with ours in its place and torch's beside it."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from codeshell.ops import library
from codeshell.optim import AdamW

SETTINGS = {
    "default": {},
    "lr": {"lr": 0.01},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"weight_decay": 0.1, "maximize": True},
    "amsgrad": {"weight_decay": 0.1, "amsgrad": True},
    "tensor lr": {"lr": torch.tensor(0.01)},
    "tensor lr and betas": {"lr": torch.tensor([0.01]), "betas": (torch.tensor(0.9), torch.tensor([0.99]))},
    "no betas": {"betas": (0.0, 0.0)},
    "foreach": {"foreach": True},
    "loop": {"fused": False},
    "fused": {"fused": True},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
pytestmark = pytest.mark.filterwarnings("ignore:codeshell.optim.AdamW")


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)).to(dtype)


def backward(net: nn.Module, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    loss = net(torch.randn(11, 5, generator=generator).to(dtype)).square().sum()
    loss.backward()
    return loss


def same(mine, theirs, **tolerance) -> None:
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def pair(settings, dtype=torch.float32):
    mine, theirs = model(dtype=dtype), model(dtype=dtype)
    a, b = (
        AdamW(mine.parameters(), **copy.deepcopy(settings)),
        torch.optim.AdamW(theirs.parameters(), **copy.deepcopy(settings)),
    )
    return mine, theirs, a, b


@every_setting
def test_same_course_as_torch(settings):
    mine, theirs, a, b = pair(settings)
    for step in range(12):
        for net, optimizer in ((mine, a), (theirs, b)):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
    same(mine, theirs, rtol=1e-5, atol=1e-6)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert a.state[p].keys() == b.state[q].keys()
        for name in b.state[q]:
            torch.testing.assert_close(a.state[p][name], b.state[q][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_as_torchs_fused(dtype):
    mine, theirs, a, b = pair({"lr": 1e-2, "eps": 1e-4, "fused": True}, dtype)
    for step in range(5):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    same(mine, theirs, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps * 1e-2)


@pytest.mark.parametrize(
    "settings", [v for k, v in SETTINGS.items() if k != "no betas"], ids=[k for k in SETTINGS if k != "no betas"]
)
@pytest.mark.parametrize(
    "schedule",
    [
        None,
        lambda o: lr_scheduler.StepLR(o, gamma=0.9, step_size=10),
        lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9),
        lambda o: lr_scheduler.ReduceLROnPlateau(o),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=60),
    ],
    ids=["none", "step", "exponential", "plateau", "one cycle"],
)
@pytest.mark.parametrize("contiguous", [True, False])
def test_goes_the_right_way(settings, schedule, contiguous):
    torch.manual_seed(0)
    shapes = ((10, 5), (10,)) if contiguous else ((10, 5, 2), (10, 2))
    weight, bias = (nn.Parameter(torch.randn(s) if contiguous else torch.randn(s)[..., 0]) for s in shapes)
    x = torch.randn(5)
    optimizer = AdamW([weight, bias], **copy.deepcopy(settings))
    scheduler = schedule(optimizer) if schedule else None

    def closure():
        optimizer.zero_grad()
        loss = (weight @ x + bias).square().sum()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(50):
        loss = optimizer.step(closure)
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(loss)
        elif scheduler:
            scheduler.step()
    last = closure().item()
    assert last > first if settings.get("maximize") else last < first


def test_groups_have_their_own_options():
    results = []
    for make in (AdamW, torch.optim.AdamW):
        net = model()
        first, *rest = net.parameters()
        optimizer = make([{"params": [first], "lr": 0.1, "weight_decay": 0.5}, {"params": rest}], lr=1e-3)
        for step in range(4):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
        results.append(net)
    same(*results, rtol=1e-5, atol=1e-6)


def test_weight_decay_moves_a_parameter_with_zero_gradient_and_none_is_left_alone():
    with_zero, without = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = AdamW([with_zero, without], lr=0.1, weight_decay=0.1)
    with_zero.grad = torch.zeros(3)
    optimizer.step()
    torch.testing.assert_close(with_zero.detach(), torch.full((3,), 0.99))
    assert torch.equal(without, torch.ones(3))
    assert without not in optimizer.state


def test_zero_gradients_without_decay_do_nothing():
    p = nn.Parameter(torch.randn(5))
    before = p.detach().clone()
    optimizer = AdamW([p], weight_decay=0.0)
    p.grad = torch.zeros(5)
    for step in range(1, 4):
        optimizer.step()
        assert optimizer.state[p]["step"].item() == step
    assert torch.equal(p, before)


@every_setting
def test_state_dict_goes_on_exactly(settings):
    mine, twin = model(), model()
    a = AdamW(mine.parameters(), **copy.deepcopy(settings))
    for step in range(3):
        a.zero_grad()
        backward(mine, step)
        a.step()
    twin.load_state_dict(mine.state_dict())
    b = AdamW(twin.parameters(), **copy.deepcopy(settings))
    saved = copy.deepcopy(a.state_dict())
    b.load_state_dict(saved)
    for step in range(3, 6):
        for net, optimizer in ((mine, a), (twin, b)):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step()
    same(mine, twin, rtol=0, atol=0)
    assert {k: v for k, v in a.state_dict()["param_groups"][0].items() if k not in ("lr", "betas")} == {
        k: v for k, v in b.state_dict()["param_groups"][0].items() if k not in ("lr", "betas")
    }


def test_older_state_dicts_load():
    mine = model()
    a = AdamW(mine.parameters())
    backward(mine, 0)
    a.step()
    state = copy.deepcopy(a.state_dict())
    for group in state["param_groups"]:
        for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "amsgrad", "moment_dtype", "seed"):
            group.pop(key, None)
    for entry in state["state"].values():
        entry["step"] = entry["step"].item()
    a.load_state_dict(state)
    a.step()
    assert a.state[next(mine.parameters())]["step"].item() == 2


@pytest.mark.parametrize(
    "options", [{}, {"master_weights": True}, {"stochastic_rounding": True, "moment_dtype": torch.bfloat16}]
)
def test_saved_and_loaded_with_weights_only(options):
    mine = model(dtype=torch.bfloat16)
    a = AdamW(mine.parameters(), **options)
    backward(mine, 0)
    a.step()
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    b = AdamW(mine.parameters(), **options)
    b.load_state_dict(loaded)
    for p in mine.parameters():
        assert a.state[p].keys() == b.state[p].keys()
        for name, value in a.state[p].items():
            assert torch.equal(value, b.state[p][name])
            assert value.dtype == b.state[p][name].dtype


def test_named_parameters_and_their_state_dicts():
    net = model()
    named = AdamW(net.named_parameters())
    backward(net, 0)
    named.step()
    assert named.param_groups[0]["param_names"] == [name for name, _ in net.named_parameters()]
    plain = AdamW(net.parameters())
    plain.load_state_dict(copy.deepcopy(named.state_dict()))
    named.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert named.param_groups[0]["param_names"] == [name for name, _ in net.named_parameters()]


def test_hooks_are_called_in_order():
    net = model()
    optimizer = AdamW(net.parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("after"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, s: calls.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("loading"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    backward(net, 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["before", "after", "saving", "saved", "loading", "loaded"]


def test_a_load_hook_may_change_what_is_loaded():
    net = model()
    optimizer = AdamW(net.parameters())
    backward(net, 0)
    optimizer.step()

    def double(_, state):
        state = copy.deepcopy(state)
        for entry in state["state"].values():
            entry["exp_avg"] *= 2
        return state

    optimizer.register_load_state_dict_pre_hook(double)
    before = [optimizer.state[p]["exp_avg"].clone() for p in net.parameters()]
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(optimizer.state[p]["exp_avg"], 2 * m) for p, m in zip(net.parameters(), before, strict=True))


def test_deepcopy_and_pickle_go_on_alike():
    import pickle

    net = model()
    optimizer = AdamW(net.parameters(), lr=0.01)
    backward(net, 0)
    optimizer.step()
    for duplicate in (copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))):
        twin, other = duplicate
        public = {name for name in vars(optimizer) if not name.startswith("_")}
        assert public == {name for name in vars(other) if not name.startswith("_")}
        before = copy.deepcopy((net, optimizer))
        before[1].step()
        other.step()
        same(before[0], twin, rtol=0, atol=0)


def test_a_group_added_later():
    net, more = model(), nn.Parameter(torch.ones(4))
    optimizer = AdamW(net.parameters(), lr=0.01)
    backward(net, 0)
    optimizer.step()
    optimizer.add_param_group({"params": [more], "lr": 0.5, "weight_decay": 0.0})
    more.grad = torch.ones(4)
    optimizer.step()
    torch.testing.assert_close(more.detach(), torch.full((4,), 0.5))
    assert optimizer.state[more]["step"].item() == 1
    assert optimizer.state[next(net.parameters())]["step"].item() == 2


def test_it_prints():
    assert "lr: 0.25" in repr(AdamW(model().parameters(), lr=0.25))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: AdamW(p), TypeError, "iterable of Tensors"),
        (lambda p: AdamW([]), ValueError, "empty"),
        (lambda p: AdamW([p], lr=-1.0), ValueError, "learning rate"),
        (lambda p: AdamW([p], lr=torch.ones(2)), ValueError, "1-element"),
        (lambda p: AdamW([p], betas=(1.0, 0.0)), ValueError, "beta parameter at index 0"),
        (lambda p: AdamW([p], weight_decay=-1), ValueError, "weight_decay"),
        (lambda p: AdamW([p], betas=(0.9, torch.tensor(0.9))), ValueError, "both floats or both Tensors"),
        (lambda p: AdamW([p], lr=torch.tensor(0.1), foreach=True), ValueError, "foreach=True"),
        (lambda p: AdamW([p], foreach=True, fused=True), RuntimeError, "cannot be `True` together"),
        (lambda p: AdamW([p], fused=True, differentiable=True), RuntimeError, "differentiable"),
        (lambda p: AdamW([("a", p), nn.Parameter(p.detach())]), ValueError, "names are missing"),
        (lambda p: AdamW([{"params": p}, {"params": p}]), ValueError, "more than one parameter group"),
        (lambda p: AdamW([{"params": {p}}]), TypeError, "ordered collections"),
        (lambda p: AdamW([p * 2]), ValueError, "non-leaf"),
        (
            lambda p: AdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))]),
            ValueError,
            r"complex parameter of shape \(2,\)",
        ),
        (lambda p: AdamW([p], master_weights=True, amsgrad=True), ValueError, "master_weights"),
        (lambda p: AdamW([p.detach().double().requires_grad_()], stochastic_rounding=True), ValueError, "float64"),
        (lambda p: AdamW([p.detach().half().requires_grad_()], stochastic_rounding=True), ValueError, "float16"),
        (lambda p: AdamW([p], moment_dtype=torch.float16), ValueError, "moment_dtype"),
        (lambda p: AdamW([p], fuzed=True), TypeError, "fuzed"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make(nn.Parameter(torch.ones(2, 3)))


def test_a_refused_group_is_not_kept():
    optimizer = AdamW([nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="complex"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients \(parameter of shape \(4, 3\)\)"):
        AdamW(embedding.parameters()).step()


def test_duplicates_are_warned_of():
    p = nn.Parameter(torch.ones(1))
    with pytest.warns(UserWarning, match="duplicate"):
        AdamW([p, p])


def test_torchs_own_step_is_announced_once(caplog, monkeypatch):
    monkeypatch.setattr(library, "_said", set())
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    p.grad = torch.ones_like(p)
    optimizer = AdamW([p], lr=0.5, weight_decay=0)
    with caplog.at_level(logging.WARNING, "codeshell"):
        optimizer.step()
        optimizer.step()
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("codeshell.optim.AdamW: PyTorch takes what no kernel of codeshell serves: parameters of")
    assert p[0].item() == pytest.approx(0.0, abs=1e-6)


def test_the_scaler_skips_and_unscales():
    for make in (AdamW, torch.optim.AdamW):
        p = nn.Parameter(torch.ones(3))
        optimizer = make([p], lr=0.1, weight_decay=0.0, fused=True)
        assert optimizer._step_supports_amp_scaling
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
        p.grad = torch.full((3,), 8.0)
        optimizer.step()
        assert torch.equal(p, torch.ones(3))
        assert optimizer.state[p]["step"].item() == 0
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full((3,), 0.2))
        torch.testing.assert_close(p.grad, torch.full((3,), 2.0))
        torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))
        assert optimizer.state[p]["step"].item() == 1


def test_under_a_gradient_scaler():
    nets = [model(), model()]
    for net, make in zip(nets, (AdamW, torch.optim.AdamW), strict=True):
        optimizer = make(net.parameters(), lr=0.01, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = net(torch.randn(4, 5, generator=torch.Generator().manual_seed(step))).square().sum()
            scaler.scale(loss * (float("inf") if step == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[next(net.parameters())]["step"].item() == 3
    same(*nets, rtol=1e-5, atol=1e-6)


def test_autograd_sees_that_parameters_changed():
    p = nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    AdamW([p]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_in_a_compiled_training_step():
    nets = [model(), model()]
    optimizers = [AdamW(net.parameters(), lr=0.01) for net in nets]

    def train(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()

    compiled = torch.compile(train, backend="eager")
    for _ in range(3):
        train(nets[0], optimizers[0])
        compiled(nets[1], optimizers[1])
    same(*nets)
