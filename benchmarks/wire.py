"""What the counter of bytes says, against what a network interface has sent: a few steps by two ranks, in both meshes.

Each rank in a network namespace of its own (as root), joined by a pair of virtual interfaces:

    for i in 1 2; do ip netns add n$i; done; ip link add v1 netns n1 type veth peer name v2 netns n2
    for i in 1 2; do ip -n n$i addr add 10.77.0.$i/24 dev v$i; ip -n n$i link set v$i up; done
    for i in 1 2; do ip -n n$i link set lo up; GLOO_SOCKET_IFNAME=v$i ip netns exec n$i torchrun --nnodes 2 \\
        --rdzv-backend c10d --rdzv-id wire --rdzv-conf is_host=$((i == 1)) --rdzv-endpoint 10.77.0.1:29500 \\
        --local-addr 10.77.0.$i benchmarks/wire.py & done
"""

import os
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh

from monosem.ranks import joined
from monosem.sae.autoencoder import Autoencoder, SaeConfig
from monosem.sae.losses import AuxK
from monosem.sae.objective import Objective
from monosem.train.optim import OptimSettings
from monosem.train.parallel import Together
from monosem.train.step import StepSettings, TrainStep

D, N, K, BATCH, STEPS = 256, 4096, 16, 1024, 5


def sent() -> int:
    """Bytes that the interface has sent."""
    interface = os.environ["GLOO_SOCKET_IFNAME"]
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_bytes").read_text())


def main() -> None:
    device = torch.device("cpu")
    with joined(patience=60) as ranks:
        for shape in ((1, 2), (2, 1)):
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "latent"))
            exchange = Together(mesh, device, ranks)
            config = SaeConfig(D, N, K, normalisation="none")
            sae = Autoencoder(config, torch.Generator().manual_seed(0), exchange=exchange)
            step = TrainStep(sae, StepSettings(OptimSettings(), Objective(AuxK(32), exact=True)))
            own = exchange.reads(BATCH)
            wire = counted = 0
            for number in range(STEPS + 1):
                if number == 1:  # connections are there
                    ranks.barrier("begin")
                    wire, counted = sent(), exchange.traffic.total
                x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(number))[own.start : own.stop]
                step.step(exchange.gather_batch(x, torch.empty(BATCH // exchange.data.ranks, D))())
            ranks.barrier("end")
            wire, counted = sent() - wire, exchange.traffic.total - counted
            print(
                f"rank {ranks.rank}, mesh {shape}: counted {counted:,}, sent {wire:,} ({wire / counted:.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
