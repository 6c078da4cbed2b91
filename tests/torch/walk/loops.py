"""The plain loops of accelerate and Lightning."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from .cases import case
from .sides import LAYERS, OPTIMIZER, Side, state

BOTH = (*LAYERS, *OPTIMIZER)


def _batches(side: Side) -> DataLoader:
    return DataLoader(TensorDataset(side.random(15, 3, 6, 6), side.random(15, 2, seed=3)), batch_size=5)


@case(
    "accelerate.Accelerator: prepare, backward, clip_grad_norm_, save_state, load_state",
    BOTH,
    needs=["accelerate"],
    dtype=torch.float32,
)
def accelerate(side: Side) -> dict[str, Any]:
    from accelerate import Accelerator

    def prepared() -> Any:
        network = side.network()
        optimizer = side.optimizer(network.parameters())
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return accelerator.prepare(network, optimizer, scheduler, _batches(side))

    def epoch(network: Any, optimizer: Any, scheduler: Any, batches: Any) -> None:
        for x, y in batches:
            with accelerator.accumulate(network):
                loss = (network(x) - y).square().mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(network.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    first = prepared()
    epoch(*first)
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_state(folder)
        epoch(*first)
        accelerator.load_state(folder)
    epoch(*first)
    network, optimizer, scheduler, _ = first
    accelerator.free_memory()
    return {"network": state(network), "optimizer": state(optimizer), "lr": scheduler.get_last_lr()}


@case("lightning.Trainer: fit, checkpoint, resume", BOTH, needs=["lightning"], dtype=torch.float32)
def lightning(side: Side) -> dict[str, Any]:
    from lightning.pytorch import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = side.network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            return (self.network(x) - y).square().mean()

        def configure_optimizers(self) -> Any:
            optimizer = side.optimizer(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    def fit(epochs: int, **options: Any) -> Any:
        module = Module()
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=0.5,
        )
        trainer.fit(module, _batches(side), **options)
        return trainer, module

    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = fit(1)
        trainer.save_checkpoint(f"{folder}/one.ckpt")
        trainer, module = fit(2, ckpt_path=f"{folder}/one.ckpt")
    return {"network": state(module), "optimizer": state(trainer.optimizers[0])}
