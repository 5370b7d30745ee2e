"""Data parallel in PyTorch over gloo. Started as a bare `torchrun train.py`: the rendezvous is in the environment."""

import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import incl


def main():
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(rank)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = torch.arange(8.0).reshape(8, 1)
    for step in range(1, 101):
        x = torch.randn(64, 8)
        loss = torch.nn.functional.mse_loss(model(x), x @ truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        incl.log({"loss": loss.item()}, step=step)
    checksum = sum(p.sum().item() for p in model.parameters())
    print(f"rank {rank} of {size} on node {os.environ['INCL_NODE_RANK']}: checksum {checksum:.6f}")
    (incl.output_dir / f"checksum-{rank}.txt").write_text(f"{checksum:.6f}\n")
    dist.destroy_process_group()


main()
