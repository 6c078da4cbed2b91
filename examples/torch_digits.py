"""Trains a small convolutional network on scikit-learn's handwritten digits: a torch script like any other.

python examples/torch_digits.py [--optim torch|samestep] [--epochs N] [--load FILE] [--save FILE]

Only the import and the two names differ from a script without samestep. A checkpoint of one optimizer can be
loaded by the other.
"""

import argparse

import torch
from sklearn.datasets import load_digits

import samestep.torch


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        samestep.torch.BatchNorm2d(16, relu=True),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 4 * 4, 10),
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optim", choices=("torch", "samestep"), default="samestep")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--load")
    parser.add_argument("--save")
    options = parser.parse_args()
    optim = samestep.torch if options.optim == "samestep" else torch.optim

    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(digits.target)
    test = torch.arange(len(x)) % 5 == 0

    model = network()
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if options.load:
        saved = torch.load(options.load)
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    for _ in range(options.epochs):
        model.train()
        for batch in torch.randperm(int((~test).sum())).split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[~test][batch]), y[~test][batch])
            loss.backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
        print(f"epoch {scheduler.last_epoch:2}  loss {loss.item():.4f}  test accuracy {accuracy:.2%}")

    if options.save:
        torch.save({name: part.state_dict() for name, part in parts.items()}, options.save)


if __name__ == "__main__":
    main()
