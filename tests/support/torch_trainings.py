"""What the tests of torch's optimizers train, and the bits that a training leaves."""

import torch
from torch.nn import Parameter

import samestep.torch

# Matrices, vectors, channels last, a scalar, nothing.
SHAPES = [(3, 4), (1500,), (2, 3, 4, 5), (), (0, 3), (7,)]


def parameters(dtype=torch.float32, seed=0, shapes=SHAPES, device="cpu"):
    """One of each shape; those with four axes have their channels last."""
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    made = [w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w for w in made]
    return [Parameter(w.to(device)) for w in made]


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def set_gradients(params, seed, skip=(5,)):
    """Gives each a gradient that lies as it does, but for those of these numbers, which get none."""
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = None if i in skip else torch.empty_like(p).copy_(grad)


def run(optimizer, steps, first=0):
    """Steps from number ``first`` on: in each another parameter has no gradient; the sixth never has one."""
    params = params_of(optimizer)
    for t in range(first, first + steps):
        set_gradients(params, 100 + t, skip=(5, t % 3))
        optimizer.step()
    return params


def train_network(net, x, target, steps):
    """Trains a classifier; the loss before every step."""
    optimizer, losses = samestep.torch.AdamW(net.parameters(), lr=0.05), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = samestep.torch.CrossEntropyLoss()(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def bits(optimizer):
    """Of every parameter and state, by name; of step counts their number."""
    found = {}
    for i, p in enumerate(params_of(optimizer)):
        for name, tensor in {"w": p.detach(), **optimizer.state.get(p, {})}.items():
            if name == "step":
                found[i, name] = float(tensor)
            elif tensor is not None:
                whole = torch.view_as_real(tensor) if tensor.is_complex() else tensor
                flat = whole.cpu().contiguous().reshape(-1)
                found[i, name] = str(whole.dtype), flat.view(torch.uint8).numpy().tobytes()
    return found
