"""Our optimiser beside PyTorch's: the same steps, and a state that travels."""

import torch
from offrl_training.adam import Adam
from torch import nn


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, generator=generator())) for shape in ((3, 4), (5,), ())]


def gradients(step: int) -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(step)
    return tuple(torch.randn(each.shape, generator=source) for each in parameters())


def test_steps_are_those_of_pytorch() -> None:
    mine, theirs = parameters(), parameters()
    ours, reference = Adam(mine, 0.01), torch.optim.Adam(theirs, lr=0.01)
    for step in range(20):
        ours.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.01 / (step + 1)
        ours.descend(gradients(step))
        for parameter, gradient in zip(theirs, gradients(step), strict=True):
            parameter.grad = gradient
        reference.step()
        torch.testing.assert_close(mine, theirs)


def test_a_restored_optimiser_goes_on_to_the_bit() -> None:
    straight, copies = parameters(), parameters()
    first, second = Adam(straight, 0.01), Adam(copies, 0.01)
    for step in range(5):
        first.descend(gradients(step))
    with torch.no_grad():
        for source, copy in zip(straight, copies, strict=True):
            copy.copy_(source)
    second.load_state_dict(first.state_dict())
    for step in range(5, 9):
        first.descend(gradients(step))
        second.descend(gradients(step))
    assert all(torch.equal(a, b) for a, b in zip(straight, copies, strict=True))


def test_a_state_follows_the_parameters_to_their_device() -> None:
    first = Adam(parameters(), 0.01)
    second = Adam([nn.Parameter(each.to("meta")) for each in parameters()], 0.01)
    second.load_state_dict(first.state_dict())
    found = {value.device.type for state in second.state.values() for value in state.values()}
    assert found == {"meta"}
