"""Windows of inputs against torch's own unfold and convolutions; their moments against sums over all of them."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from randomized import randomized
from torch import nn

from ptq4dm.pipelines.denoiser import Call
from ptq4dm.quantization import input_moments as of_inputs
from ptq4dm.quantization.input_moments import collecting, has_windows, in_groups, input_moments, windows
from ptq4dm.quantization.layers import quantized_form
from ptq4dm.quantization.weight_only import weight_only_form

CONVOLUTIONS = {
    "2d": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3)),
    "2d, same": nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    "2d, valid": nn.Conv2d(3, 4, (1, 3), padding="valid", stride=2),
    "1d": nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2),
    "3d": nn.Conv3d(3, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1), dilation=(2, 1, 1)),
}


def picture(layer, seed=0):
    return torch.randn(2, 3, *(9, 8, 7)[: len(layer.kernel_size)], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [kind for kind in CONVOLUTIONS if kind.startswith("2d")])
def test_windows_are_those_of_unfold(kind):
    layer = quantized_form(CONVOLUTIONS[kind])
    x = picture(layer)
    wanted = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    found = windows(x, layer)
    assert found.shape[0] == 2 and found.shape[3:] == (3, *layer.kernel_size)
    assert torch.equal(found.flatten(3).flatten(1, 2), wanted)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_weights_times_windows_are_the_convolution(kind):
    source = CONVOLUTIONS[kind].requires_grad_(False)
    x, taps = picture(source), len(source.kernel_size)
    here = windows(x, quantized_form(source)).flatten(taps + 1)  # (batch, *positions, in * taps)
    found = here @ source.weight.flatten(1).T + source.bias
    torch.testing.assert_close(found.movedim(-1, 1), source(x))


def test_windows_of_one_dimension_by_hand():
    layer = quantized_form(CONVOLUTIONS["1d"])  # taps at 0, 2, 4; steps of 2; two zeros at each end
    x = picture(layer)
    padded = torch.cat([torch.zeros(2, 3, 2), x, torch.zeros(2, 3, 2)], 2)
    found = windows(x, layer)
    assert found.shape == (2, 5, 3, 3)
    for place in range(5):
        for tap in range(3):
            assert torch.equal(found[:, place, :, tap], padded[:, :, 2 * place + 2 * tap])


def test_a_linear_layer_has_its_rows_for_windows():
    x = torch.randn(2, 5, 7)
    assert windows(x, quantized_form(nn.Linear(7, 3))) is x


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (nn.Linear(4608, 2), True),
        (nn.Linear(4609, 2), False),
        (nn.Conv2d(512, 1, 3), True),
        (nn.Conv2d(513, 1, 3), False),
        (nn.Conv2d(4, 4, 3, groups=2), False),
        (nn.ConvTranspose1d(4, 4, 3), False),
        (nn.Conv1d(4, 4, 2, padding="same"), False),
        (nn.Conv1d(4, 4, 3, padding="same"), True),
    ],
)
def test_what_has_windows(source, wanted):
    assert has_windows(quantized_form(source)) is wanted


class Net(nn.Module):
    """Layers of all kinds; `twice` is called twice a call, `never` not at all."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.twice = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 1)
        self.linear, self.never = nn.Linear(6, 5), nn.Linear(2, 2)
        self.dropout = nn.Dropout(0.5)
        self.seen = []

    def forward(self, x):
        self.seen.append(int(x[0, 0, 0, 0]))
        h = self.twice(self.twice(self.conv(self.dropout(x))))
        return self.linear(input=h.movedim(1, -1))


def layers_of(network):
    layers = {name: randomized(layer) for name, layer in network.named_children() if hasattr(layer, "weight")}
    layers["conv"].smoothing = torch.tensor([0.5, 2.0, 1.0])
    return {**layers, "linear": weight_only_form(network.linear, "linear")}


def calls(count, batch=2):
    """Each tells its number in the first value."""
    made = []
    for index in range(count):
        x = 3 * torch.randn(batch, 3, 5, 6, generator=torch.Generator().manual_seed(index))
        x[0, 0, 0, 0] = index
        made.append(Call((x,)))
    return made


def by_hand(network, layers, made):
    """All windows of all calls, one by one, in float64: sums of u, of v, and of u uᵀ."""
    inputs = {name: [] for name in layers}
    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: inputs[name].append(args[0] if args else kwargs["input"]),
            with_kwargs=True,
        )
        for name in layers
    ]
    for call in made:
        network(*call.args)
    for handle in handles:
        handle.remove()
    found = {}
    for name, rows in inputs.items():
        layer, sums = layers[name], []
        for x in rows:
            if name == "linear":
                both = [x.double()] * 2
            else:
                step = layer.input_scale.double() * (1 if layer.smoothing is None else layer.smoothing.double())
                zero = float(layer.input_zero_point)
                v = x.double() / step.float().double().view(-1, *[1] * (2 if step.dim() else 0))
                u = (torch.round(v.float()).double() + zero).clamp(0, 255) - zero
                both = [F.unfold(item, layer.kernel_size, 1, layer.padding, layer.stride) for item in (u, v)]
                both = [item.transpose(1, 2) for item in both]
            u, v = (item.flatten(0, -2) for item in both)
            sums.append((len(u), u.sum(0), v.sum(0), u.T @ u))
        if sums:
            found[name] = [sum(parts) for parts in zip(*sums, strict=True)]
    return found


@torch.no_grad()
def test_moments_of_all_windows_are_sums_over_them():
    network = Net().train()
    layers, made = layers_of(network.eval()), calls(3)
    wanted = by_hand(network, layers, made)
    network.train()
    found = dict(input_moments(network, layers, made))
    assert network.training and network.dropout.training and not network.conv._forward_pre_hooks
    assert found.keys() == wanted.keys() == {"conv", "twice", "linear"}
    for name, (count, *sums) in wanted.items():
        item = found[name]
        assert item.count == count and item.products.dtype == torch.float64
        for got, expected in zip((item.rounded, item.real, item.products), sums, strict=True):
            assert float((got - expected).norm()) < 1e-5 * float(expected.norm()), name


@torch.no_grad()
def test_of_many_windows_some_are_drawn_the_same_every_time(monkeypatch):
    monkeypatch.setattr(of_inputs, "WINDOWS", 20)
    monkeypatch.setattr(of_inputs, "PER_INPUT", 0)
    network = Net().eval()
    layers, made = layers_of(network), calls(4)
    whole = by_hand(network, layers, made)
    first, again = (dict(input_moments(network, layers, made)) for _ in range(2))
    assert {name: item.count for name, item in first.items()} == {"conv": 20, "twice": 40, "linear": 20}
    for name, item in first.items():
        assert torch.equal(item.products, again[name].products) and torch.equal(item.real, again[name].real)
        assert not torch.allclose(item.products / item.count, whole[name][3] / whole[name][0])


@torch.no_grad()
@pytest.mark.parametrize(
    ("given_", "taken"), [(3, [0, 1, 2]), (5, [0, 1, 2, 3, 4]), (7, [0, 1, 2, 4, 5]), (9, [0, 1, 3, 5, 7])]
)
def test_calls_are_taken_evenly_over_all(given_, taken, monkeypatch):
    monkeypatch.setattr(of_inputs, "CALLS", 5)
    network = Net().eval()
    list(input_moments(network, layers_of(network), calls(given_)))
    assert network.seen == taken


@torch.no_grad()
def test_the_progress_bar_counts_calls_and_what_is_done_with_layers(monkeypatch):
    steps, totals = [], []

    @contextmanager
    def counting(what, total, shown=True):
        totals.append(total)
        yield steps.append

    monkeypatch.setattr(of_inputs, "progress", counting)
    network = Net().eval()
    layers = {name: layer for name, layer in layers_of(network).items() if name in ("conv", "twice", "linear")}
    at_each = [sum(steps) for _ in input_moments(network, layers, calls(2))]
    assert at_each == [2, 3, 4] and totals == [2 + 3] and sum(steps) == 5


@torch.no_grad()
def test_a_few_layers_are_held_at_a_time(monkeypatch):
    network = Net().eval()
    layers, made = layers_of(network), calls(2)
    whole = dict(input_moments(network, layers, made))
    network.seen.clear()
    monkeypatch.setattr(of_inputs, "AT_ONCE", 36 + 36)  # `conv` (27²) alone, `twice` (6²) and `linear` (6²) together
    apart = {}
    for name, moments in input_moments(network, layers, made):
        assert len(network.seen) == (2 if name == "conv" else 4 if name in ("twice", "linear") else 6)
        apart[name] = moments
    assert apart.keys() == whole.keys()
    for name, moments in apart.items():
        torch.testing.assert_close(moments.products, whole[name].products, rtol=1e-5, atol=1e-4)


@given(st.lists(st.integers(1, 2 << 26), max_size=30))
def test_groups_hold_all_in_turn_and_little_at_once(sizes):
    named = {str(index): size for index, size in enumerate(sizes)}
    groups = in_groups(named)
    assert [name for group in groups for name in group] == list(named)
    filled = [sum(named[name] for name in group) for group in groups]
    assert all(len(group) == 1 or total <= of_inputs.AT_ONCE for group, total in zip(groups, filled, strict=True))
    assert all(
        total + named[after[0]] > of_inputs.AT_ONCE for total, after in zip(filled[:-1], groups[1:], strict=True)
    )


def test_hooks_are_gone_after_a_failing_call():
    network = Net().train()
    with pytest.raises(ZeroDivisionError), collecting(network, layers_of(network), 10):
        assert network.conv._forward_pre_hooks and not network.training
        raise ZeroDivisionError
    assert not network.conv._forward_pre_hooks and network.training


@torch.no_grad()
def test_sets_that_are_watched_together_see_what_each_would_see_alone(monkeypatch):
    monkeypatch.setattr(of_inputs, "WINDOWS", 20)
    monkeypatch.setattr(of_inputs, "PER_INPUT", 0)
    monkeypatch.setattr(of_inputs, "AT_ONCE", 36 + 36)
    network = Net().eval()
    layers, made = layers_of(network), calls(3)
    sets = [layers, {"twice": layers["twice"]}, {}]
    network.seen.clear()
    alone = [dict(input_moments(network, layers, made))]
    passes = len(network.seen)
    alone += [dict(input_moments(network, item, made)) for item in sets[1:]]
    network.seen.clear()
    found: list[dict[str, of_inputs.InputMoments]] = [{}, {}, {}]
    for place, name, moments in of_inputs.moments_of_sets(network, sets, made):
        found[place][name] = moments
    assert len(network.seen) == passes  # those of the largest set
    for one, other in zip(alone, found, strict=True):
        assert one.keys() == other.keys()
        for name, item in one.items():
            assert item.count == other[name].count
            assert torch.equal(item.products, other[name].products) and torch.equal(item.real, other[name].real)
