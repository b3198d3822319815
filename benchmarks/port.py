"""The straightforward torch port of published IsoCLR pretraining, to measure against: the other side of `benchmarks/pretrain.py`.

Every transcript is six float32 tracks of 12,288 positions, made on the CPU one transcript at a time, masked there (random positions 0.25 in every track, padding
too), collated by a DataLoader and copied; convolutions, batch norm and the mean run over all 12,288 positions, padding included; float32, eager, AdamW.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from isoclr.data.store import TranscriptStore
from isoclr.data.tracks import BASE_BITS, CODON, EXON_END
from isoclr.models.encoder import EncoderConfig

POSITIONS = 12288
ONE_HOT = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.25] * 4], np.float32)


def six_tracks(tokens: np.ndarray) -> np.ndarray:  # (6, 12288)
    tokens, tracks = tokens[:POSITIONS], np.zeros((6, POSITIONS), np.float32)
    tracks[:4, : len(tokens)] = ONE_HOT[tokens & BASE_BITS].T
    tracks[4, : len(tokens)] = (tokens & CODON) > 0
    tracks[5, : len(tokens)] = (tokens & EXON_END) > 0
    return tracks


class PairDataset(Dataset):
    "Pairs of masked transcripts, in a given order."

    def __init__(self, store: TranscriptStore, pairs: np.ndarray, mask_share: float):  # pairs (n, 2): rows of the store
        self.store, self.pairs, self.mask_share = store, pairs, mask_share

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.float32]:
        rng, members = np.random.default_rng(i), []
        for row in self.pairs[i]:
            tracks = six_tracks(self.store.tokens(row))
            tracks[:, rng.random(POSITIONS) < self.mask_share] = 0.25
            members.append(tracks)
        return *members, np.float32(1)


def loader(store: TranscriptStore, pairs: np.ndarray, batch_pairs: int, mask_share: float, n_workers: int) -> DataLoader:
    dataset = PairDataset(store, pairs, mask_share)
    return DataLoader(dataset, batch_pairs, num_workers=n_workers, drop_last=True, pin_memory=torch.cuda.is_available())


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel_size: int, dilation: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(n_in, n_out, kernel_size, padding="same", dilation=dilation), nn.BatchNorm1d(n_out, eps=1e-3)
        self.conv2, self.norm2 = nn.Conv1d(n_out, n_out, kernel_size, padding="same", dilation=dilation), nn.BatchNorm1d(n_out, eps=1e-3)
        self.shortcut = nn.Sequential(nn.Conv1d(n_in, n_out, 1), nn.BatchNorm1d(n_out, eps=1e-3)) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(F.relu(self.conv1(x))))
        y = self.norm2(F.relu(self.conv2(y)))
        return F.relu(y + self.shortcut(x))


class Shift(nn.Module):
    "In training, move a batch by a few positions."

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        shift = int(torch.randint(-self.most, self.most + 1, ())) if self.training else 0
        return F.pad(x, (shift, -shift)) if shift else x


class DilatedResNet(nn.Sequential):
    "(B, 6, 12288) → (B, D)."

    def __init__(self, config: EncoderConfig):
        n_in = config.filters[0]
        stem = nn.Conv1d(config.n_tracks, n_in, config.kernel_size, padding="same"), nn.BatchNorm1d(n_in, eps=1e-3), nn.MaxPool1d(config.stem_pool, ceil_mode=True)
        layers = []
        for width, n_blocks, dilation in zip(config.filters, config.blocks, config.dilations):
            for i in range(n_blocks):
                layers.append(Block(n_in, width, config.kernel_size, dilation * (2**i if config.dilation_doubles else 1)))
                n_in = width
                if i == 0:
                    layers.append(nn.MaxPool1d(2, ceil_mode=True))
        super().__init__(Shift(config.stochastic_shift), *stem, *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten())


def projector(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    first = nn.Linear(n_in, n_hidden), nn.BatchNorm1d(n_hidden, eps=1e-3), nn.ReLU()
    second = nn.Linear(n_hidden, n_hidden), nn.BatchNorm1d(n_hidden, eps=1e-3), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Linear(n_hidden, n_out, bias=False))


def with_values_of(module: nn.Module, other: nn.Module) -> nn.Module:
    "Give a module the parameters and buffers of another one of the same shapes in the same order; anything else is an error."
    mine, theirs = module.state_dict(), other.state_dict()
    shapes = [[tuple(tensor.shape) for tensor in state.values()] for state in (mine, theirs)]
    if shapes[0] != shapes[1]:
        raise SystemExit(f"the two sides are not the same model: {len(mine)} and {len(theirs)} tensors, {shapes[0]} and {shapes[1]}")
    module.load_state_dict(dict(zip(mine, theirs.values())))
    return module


def dcl_loss(z1: Tensor, z2: Tensor, weight: Tensor, temperature: float = 0.1) -> Tensor:
    "The published form: log-sum-exps within and across the sides, weights on the positive term."
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    itself = torch.eye(len(z1), device=z1.device) * 1e9
    loss = 0.0
    for a, b in ((z1, z2), (z2, z1)):
        positive = (a * b).sum(1) / temperature
        within, across = (torch.logsumexp(a @ other.T / temperature - itself, 1) for other in (a, b))
        loss = loss + (within + across - weight * positive).mean()
    return loss


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: list[Tensor], device: torch.device) -> None:
    x1, x2, weight = (tensor.to(device, non_blocking=True) for tensor in batch)
    z1, z2 = model(torch.cat([x1, x2])).chunk(2)
    loss = dcl_loss(z1, z2, weight)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
