"""Trains a small network with batch norm on scikit-learn's handwritten digits.

python examples/digits.py [--epochs N] [--seed N]

The network is that of samestep.commands.digits, trained wholly inside the bit contract: the digest of the
weights is the same on every machine.
"""

import argparse

from samestep.commands.digits import EPOCHS, train_digits

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = train_digits(options.epochs, options.seed)
    for epoch, loss in enumerate(result.losses, 1):
        print(f"epoch {epoch:2}  loss {loss:.4f}")
    print(f"training accuracy {result.train_accuracy:.2%}, test accuracy {result.test_accuracy:.2%}")
    print(f"{result.seconds:.2f} s, weights {result.digest[:16]}")
