"""Trains the network of digits.py on any number of processes: however many they are, they print one digest.

python examples/digits_torchrun.py                       one process, without torch
torchrun --nproc-per-node 3 examples/digits_torchrun.py  three, joined by torch.distributed

Each batch of 64 images is cut into 8 leaves, which are numbered. A worker computes the gradients of its own
leaves; Sharded adds those of all workers along one tree.
"""

import argparse
import os

import samestep as ss
from samestep.backends.reference.sampling import Sampler
from samestep.commands import digits

LEAVES = 8  # part of the recipe, as the batch size is: other leaves are another result


def my_group():
    """This process's place among all workers: torch.distributed's, if torchrun has started it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ss.parallel.threads(1)[0]
    import torch.distributed as dist

    dist.init_process_group("gloo")
    return ss.parallel.torch_distributed()


def train(group, epochs, seed):
    """The accuracy on the test images and the digest of the weights."""
    x, labels, x_test, labels_test = digits.load()
    sampler = Sampler(seed)  # every worker draws the same weights and the same batches
    network = digits.new_network(x.shape[1], sampler)
    optimizer = ss.parallel.Sharded(
        lambda part: ss.Adam(part, lr=digits.LR), network.params, group, leaves=LEAVES
    )
    size = digits.BATCH // LEAVES
    for lr, batches in digits.batches(sampler, len(x), epochs):
        optimizer.optimizer.lr = lr
        for batch in batches:
            for leaf in optimizer.leaves:
                rows = batch[leaf * size : (leaf + 1) * size]
                _, gradients = network.loss_and_gradients(x[rows], labels[rows])
                optimizer.add(leaf, gradients)
            optimizer.step()
    # Each worker's running statistics are those of its own leaves. These are of all training images.
    network.norm.momentum = 1.0
    network.logits(x)
    return digits.accuracy(network, x_test, labels_test), ss.digest(network.params)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=digits.EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    group = my_group()
    accuracy, digest = train(group, options.epochs, options.seed)
    if group.rank == 0:
        print(f"workers {group.size}: test accuracy {accuracy:.2%}, weights {digest[:16]}")


if __name__ == "__main__":
    main()
