"""Pairs a second in pretraining: isoclr beside a straightforward torch port (`benchmarks/port.py`), same model, same pairs, measured in one run. Prints one table.

    python benchmarks/pretrain.py                    # on a GPU where there is one, otherwise on the CPU; about 15 minutes on two cores
    python benchmarks/pretrain.py --quick            # the smallest of everything, in a minute: whether it runs, not how fast
    python benchmarks/pretrain.py --scale 1000000    # generated stores up to this size (default 100,000; a million transcripts are 3 GB on disk)

What is measured:
  training step      pairs drawn, gathered or loaded, masked; forward, loss, backward, AdamW. Ours over the batches of a whole epoch (so over all lengths),
                     the port over the same pairs in the same order, each padded to 12,288 positions. float32 on a CPU; on a GPU ours in bfloat16, the port
                     in float32 as it comes (TF32 in convolutions). Both start from the same weights, with which they give the same representations.
  batch preparation  all that comes before the encoder; of ours once until masked tokens, and once until float tracks, both on the device. The port's loader
                     with 0 workers, 2, and one for each core but one: the best counts. The published loader gave 318 pairs/s on two cores.
  peak memory        of steps in a process of its own, of ours the two largest of the epoch: resident set on a CPU, what CUDA allocated on a GPU
  traffic            bytes of a step of ours, against a copy on the device: each operation of forward and backward reads its inputs and writes its outputs
                     once, views are free; and of its convolutions alone, as if all that lies between were fused into them. FLOPs as torch.utils.flop_counter
                     counts them, against a large bfloat16 product. Counted over batches of all lengths, without torch.compile.
  sampling, feeding  generated stores of 1,000 transcripts and more: an epoch's plan, shared out over its pairs, and pairs gathered and masked

Sides take turns (A B A B …); a number is the median of the rounds, with lowest and highest. Warm-up steps are not counted, and the device is waited for at both ends.
"ratio" is ours over what it is held against.
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Callable, Iterable, Iterator

import numpy as np
import pandas as pd
import port
import torch
from report import machine, page
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from isoclr.data.store import TranscriptStore, write_store
from isoclr.data.tracks import tracks_from_tokens
from isoclr.models.encoder import EncoderConfig, build_encoder, preset
from isoclr.pretrain.feed import PairFeed
from isoclr.pretrain.gradcache import cached_backward
from isoclr.pretrain.learner import ContrastiveModel, PretrainConfig
from isoclr.pretrain.losses import dcl_loss
from isoclr.pretrain.masking import augment
from isoclr.pretrain.optimizer import make_optimizer
from isoclr.pretrain.pairs import PairBatch, PairSampler

HERE = Path(__file__).parent
PUBLISHED_LOADER = 318  # pairs/s
LENGTHS = (  # nt: 0, 5, … 100 % quantiles of 1,556 coding transcripts of human and mouse, of up to 12,288 nt
    120, 762, 960, 1122, 1383, 1587, 1752, 1938, 2119, 2330, 2566, 2772, 2973, 3184, 3486, 3829, 4345, 4918, 5798, 7262, 11810,
)


def real_store(folder: Path, data: Path, max_length_nt: int = 12_288) -> TranscriptStore:
    "Human and mouse regions with HomoloGene."
    from isoclr.data.build import SpeciesSource, StoreConfig, build_store
    from isoclr.data.homology import read_homology

    files = {"human": ("hg38", "refseq"), "mouse": ("mm10", "gencodeVM18")}
    sources = [
        SpeciesSource(species, str(data / f"genome/{genome}.regions.fa.gz"), str(data / f"annotation/{genome}.regions.{annotation}.genePred.tsv.gz"))
        for species, (genome, annotation) in files.items()
    ]
    homology = read_homology(data / "homology/homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    return build_store(folder / "real", sources, homology, StoreConfig(max_length_nt=max_length_nt), progress=False)


def generated_store(folder: Path, n: int, seed: int = 0) -> TranscriptStore:
    "Random transcripts with real lengths, of two species: genes of 1 to 4, half of them with an ortholog."
    rng = np.random.default_rng(seed)
    lengths = np.interp(rng.random(n), np.linspace(0, 1, len(LENGTHS)), LENGTHS).astype(np.int64)
    gene = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    species = np.where(gene % 2, "mouse", "human")
    group = np.where(gene // 2 % 2, gene, gene // 2 * 2)
    table = pd.DataFrame({
        "transcript_id": [f"t{i}" for i in range(n)], "gene_id": [f"{name}:{number}" for name, number in zip(species, gene)], "gene_name": gene.astype(str),
        "species": species, "chrom": "chr1", "strand": "+", "exon_starts": [[0]] * n, "exon_ends": lengths[:, None].tolist(), "length_nt": lengths,
        "cds_start": -1, "cds_end": -1, "group": [f"g{number}" for number in group],
    })
    left = np.arange(int(lengths.sum()), 0, -(2**24))
    return write_store(folder / f"generated_{n}", table, (rng.integers(0, 4, min(2**24, nt), np.uint8) for nt in left.tolist()))


class Preparation:
    "What isoclr does before the encoder: pairs of a store drawn, fed, masked."

    def __init__(self, store: TranscriptStore, batch_pairs: int, token_budget: int, device: torch.device):
        self.config, self.device = PretrainConfig(batch_pairs=batch_pairs, token_budget=token_budget), device
        self.sampler = PairSampler(store, None, self.config, 0)
        self.feed = PairFeed(store, self.sampler, device)
        self.generator = torch.Generator(device).manual_seed(0)
        self.n_steps = self.sampler.batches_per_epoch

    def prepare(self, step: int) -> list[PairBatch]:
        return [augment(chunk, self.config, self.generator) for chunk in self.feed.batch(step)]

    def round(self, steps: Iterable[int], tracks: bool = False) -> float:
        def run() -> int:
            n = 0
            for chunk in chain.from_iterable(map(self.prepare, steps)):
                n += len(chunk)
                if tracks:
                    tracks_from_tokens(chunk.tokens_1), tracks_from_tokens(chunk.tokens_2)
            return n

        return rate(run, self.device)

    def microseconds(self, n_steps: int, epochs: Iterator[int]) -> float:
        "A pair's share in the plan of its epoch, and its share in its batch, over at least so many batches."
        plans, feeds = [], []
        while n_steps > 0:
            epoch = next(epochs)
            plans.append(1e6 / rate(lambda: sum(len(pairs.weight) for pairs in self.sampler.plan(epoch)), self.device))
            first = epoch * self.n_steps
            self.feed.batch(first)  # waits for the plan, which is measured by itself
            steps = range(first + 1, first + min(self.n_steps, 1 + n_steps))
            feeds.append(1e6 / self.round(steps))
            n_steps -= len(steps)
        return median(plans) + median(feeds)


class Ours(Preparation):
    "isoclr, over the steps of its first epoch again and again."

    def __init__(
        self, store: TranscriptStore, encoder: EncoderConfig, batch_pairs: int, token_budget: int, device: torch.device,
        most_steps: int | None = None, compiled: bool = False,
    ):
        super().__init__(store, batch_pairs, token_budget, device)
        self.model = ContrastiveModel(build_encoder(encoder, 0), self.config).to(device).train()
        if compiled:
            self.model.encoder = torch.compile(self.model.encoder, dynamic=True)
        self.optimizer = make_optimizer("adamw", self.model, 1e-4, self.config.weight_decay)
        pairs, size, real = [], [], 0
        for chunks in map(self.feed.batch, range(self.n_steps)):
            pairs += [torch.stack([chunk.rows_1, chunk.rows_2], 1).cpu() for chunk in chunks]
            size.append(sum(2 * len(chunk) * max(chunk.tokens_1.shape[1], chunk.tokens_2.shape[1]) for chunk in chunks))
            real += sum(int(chunk.lengths_1.sum() + chunk.lengths_2.sum()) for chunk in chunks)
        self.pairs, self.padding = torch.cat(pairs).numpy(), 1 - real / sum(size)
        self.by_size = np.argsort(size)  # steps, the largest last
        every = max(1, self.n_steps // (most_steps or self.n_steps))
        self.steps = np.sort(self.by_size[every // 2 :: every]).tolist()

    def train(self, step: int) -> int:
        chunks = self.prepare(step)
        weight, group = (torch.cat([getattr(chunk, name) for chunk in chunks]) for name in ("weight", "group"))

        def represent(i: int) -> tuple[Tensor, Tensor]:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                return self.model(chunks[i].tokens_1, chunks[i].lengths_1, chunks[i].tokens_2, chunks[i].lengths_2)

        def loss(h1: Tensor, h2: Tensor) -> Tensor:
            return dcl_loss(*self.model.project(h1, h2), self.config.temperature, weight, group)

        self.optimizer.zero_grad()
        cached_backward(represent, len(chunks), loss, Tensor.backward, self.model, nullcontext, self.model.projector)
        self.optimizer.step()
        return len(weight)

    def training_round(self) -> float:
        return rate(lambda: sum(map(self.train, self.steps)), self.device)


class Port:
    "The straightforward port, over pairs in a given order."

    def __init__(
        self, store: TranscriptStore, encoder: EncoderConfig, batch_pairs: int, device: torch.device,
        pairs: np.ndarray, like: nn.Module, n_workers: int, n_steps: int,
    ):
        self.device, self.n_steps = device, n_steps
        pairs = np.resize(pairs, ((n_steps + 1) * batch_pairs, 2))
        config = PretrainConfig()
        self.loader = port.loader(store, pairs, batch_pairs, config.mask_share, n_workers)
        model = nn.Sequential(port.DilatedResNet(encoder), port.projector(encoder.filters[-1], config.projector_hidden, config.projector_dim))
        self.model = port.with_values_of(model, like).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def training_round(self) -> float:
        batches = iter(self.loader)
        train = lambda: self.train(next(batches))  # noqa: E731
        train()
        return rate(lambda: sum(train() for _ in range(self.n_steps)), self.device)

    def train(self, batch: list[Tensor]) -> int:
        port.train_step(self.model, self.optimizer, batch, self.device)
        return len(batch[0])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rate(work: Callable[[], int], device: torch.device) -> float:
    "Pairs a second of work that returns how many pairs it did."
    wait(device)
    began = time.perf_counter()
    n = work()
    wait(device)
    return n / (time.perf_counter() - began)


def taking_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            measured[name].append(side())
    return measured


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values: list[float]) -> str:
    return number(median(values)) + (f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else "")


def row(measured: str, unit: str, ours: list[float], against: str = "", ratio: str = "", goal: str = "") -> dict:
    return {"measured": measured, "unit": unit, "ours": spread(ours), "against": against, "ratio": ratio, "goal": goal}


def times(ours: list[float], other: list[float]) -> str:
    return f"{median(ours) / median(other):.3g}×"


@dataclasses.dataclass
class Sizes:
    "How much of everything is measured."

    rounds: int
    batch_pairs: int
    token_budget: int  # of ours, 0: a step is one forward
    compiled: bool  # ours, by torch.compile
    most_steps: int | None  # of an epoch of ours; None: all
    port_steps: int
    models: tuple[str, ...]
    prepared: tuple[int, ...]  # pairs in a batch, for preparation alone
    prepared_epochs: int
    largest_store: int

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Sizes":
        on_gpu, scale = arguments.device.type == "cuda", arguments.scale
        models = ("dilated_small", "less_dilated_medium") if on_gpu else ("demo", "dilated_small")
        if arguments.quick:
            return cls(1, arguments.batch or 4, arguments.budget, arguments.compile, 2, 1, models if on_gpu else models[:1], (16,), 1, scale or 10_000)
        batch, rounds, scale = arguments.batch or (256 if on_gpu else 16), arguments.rounds, scale or 100_000
        if on_gpu:
            return cls(rounds, batch, arguments.budget, arguments.compile, None, 30, models, (batch,), 1, scale)
        return cls(rounds, batch, arguments.budget, arguments.compile, None, 3, models, (batch, 128), 10, scale)


def check_same_model(encoder: EncoderConfig) -> None:
    "Both sides give one representation where ours lets padding take part too."
    ours = build_encoder(encoder.replace(padding="published"), 1).eval()
    theirs = port.with_values_of(port.DilatedResNet(encoder), ours).eval()
    x = torch.randn(2, encoder.n_tracks, 1024, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, torch.tensor([1024, 1024])), theirs(x), rtol=1e-4, atol=1e-4)


def best_workers(store: TranscriptStore, batch_pairs: int) -> int:
    "How many workers of the port's loader give most pairs a second."
    pairs, rates = np.random.default_rng(0).integers(len(store), size=(1000, 2)), {}
    for n_workers in sorted({0, 2, max(1, os.cpu_count() - 1)}):
        try:
            rates[n_workers] = loader_round(store, pairs, batch_pairs, n_workers)
        except RuntimeError:  # a machine with too little shared memory for that many batches
            rates[n_workers] = 0.0
    return max(rates, key=rates.get)


def loader_round(store: TranscriptStore, pairs: np.ndarray, batch_pairs: int, n_workers: int) -> float:
    made_ahead = 2 * n_workers + 1  # batches that are not counted
    pairs = np.resize(pairs, ((made_ahead + 2 * n_workers + 8) * batch_pairs, 2))
    batches = iter(port.loader(store, pairs, batch_pairs, PretrainConfig().mask_share, n_workers))
    for _ in range(made_ahead):
        next(batches)
    return rate(lambda: sum(len(batch[0]) for batch in batches), torch.device("cpu"))


def training_rows(store: TranscriptStore, sizes: Sizes, device: torch.device, n_workers: int) -> Iterator[dict]:
    for model in sizes.models:
        encoder = preset(model)
        check_same_model(encoder)
        make = partial(Ours, store, encoder, sizes.batch_pairs, sizes.token_budget, device)
        ours = make(sizes.most_steps, sizes.compiled)
        theirs = Port(store, encoder, sizes.batch_pairs, device, ours.pairs, ours.model, n_workers, sizes.port_steps)
        for step in ours.by_size[[0, len(ours.by_size) // 2, -1]].tolist():
            ours.train(step)
        measured = taking_turns({"ours": ours.training_round, "port": theirs.training_round}, sizes.rounds)
        goal = ("≥ 10×" if device.type == "cuda" else "≥ 4×") + (", ≥ 20,000" if device.type == "cuda" and model == "dilated_small" else "")
        name = f"training step, {model}, {sizes.batch_pairs} pairs, ours {ours.padding:.0%} padding"
        yield row(name, "pairs/s", measured["ours"], f"{spread(measured['port'])} port", times(measured["ours"], measured["port"]), goal)
        if device.type == "cuda":
            yield from traffic_rows(model, make(8), median(measured["ours"]))


def preparation_rows(store: TranscriptStore, sizes: Sizes, device: torch.device, n_workers: int) -> Iterator[dict]:
    for batch_pairs in sizes.prepared:
        ours = Preparation(store, batch_pairs, 0, device)
        steps = range(ours.n_steps * sizes.prepared_epochs)
        pairs = np.stack([np.concatenate(rows) for rows in zip(*((pairs.rows_1, pairs.rows_2) for pairs in ours.sampler.plan(0)))], 1)
        ours.round(steps[: ours.n_steps], tracks=True)
        measured = taking_turns({
            "tokens": lambda: ours.round(steps), "tracks": lambda: ours.round(steps, tracks=True),
            "port": lambda: loader_round(store, pairs, batch_pairs, n_workers),
        }, sizes.rounds)
        for what in ("tokens", "tracks"):
            name = f"batch preparation until {what}, {batch_pairs} pairs"
            yield row(name, "pairs/s", measured[what], f"{spread(measured['port'])} port", times(measured[what], measured["port"]))
            yield row(name, "pairs/s", measured[what], f"{PUBLISHED_LOADER} published loader", times(measured[what], [PUBLISHED_LOADER]), "≥ 100×")


def memory_rows(store: TranscriptStore, sizes: Sizes, arguments: argparse.Namespace) -> Iterator[dict]:
    for model in sizes.models:
        peak = {}
        for side in ("ours", "port"):
            options = {"memory-of": side, "model": model, "store": store.path, "batch": sizes.batch_pairs, "budget": sizes.token_budget,
                       "device": arguments.device, "threads": arguments.threads}
            command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items()), *(["--compile"] * sizes.compiled)]
            peak[side] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        for what in peak["ours"]:
            ours, other = peak["ours"][what], peak["port"][what]
            yield row(f"{what}, {model}, {sizes.batch_pairs} pairs", "MB", [ours], f"{number(other)} port", times([ours], [other]))


def memory_of(arguments: argparse.Namespace) -> dict[str, float]:
    "Peak memory of a few steps of one side, in MB; run in a process of its own."
    store, encoder, device = TranscriptStore.open(arguments.store), preset(arguments.model), arguments.device
    side = Ours(store, encoder, arguments.batch, arguments.budget, device, compiled=arguments.compile)
    side.steps = side.by_size[-2:].tolist()
    if arguments.memory_of == "port":
        side = Port(store, encoder, arguments.batch, device, side.pairs, side.model, 0, 1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        side.training_round()
        return {"peak memory allocated on the GPU": torch.cuda.max_memory_allocated(device) / 1e6}
    before = status_mb("VmRSS")
    side.training_round()
    return {"peak resident memory": status_mb("VmHWM"), "peak resident memory above the start": status_mb("VmHWM") - before}


def status_mb(key: str) -> float:
    "A line of /proc/self/status."
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1]) * 1024 / 1e6


class ByteCounter(TorchDispatchMode):
    "Bytes that operations read and write: every tensor that goes in or comes out, once an operation; views are free."

    def __init__(self):
        super().__init__()
        self.all = self.convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and not name.startswith(("empty", "_unsafe_view")):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            moved = sum(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in tensors)
            self.all += moved
            self.convolutions += moved if "convolution" in name else 0
        return out


def counted(ours: Ours) -> dict[str, float]:
    "Bytes and FLOPs a pair."
    with FlopCounterMode(display=False) as flops, ByteCounter() as traffic:
        n = sum(map(ours.train, ours.steps))
    return {"FLOPs": flops.get_total_flops() / n, "bytes": traffic.all / n, "bytes of convolutions": traffic.convolutions / n}


def traffic_rows(model: str, ours: Ours, pairs_per_second: float) -> Iterator[dict]:
    a_pair = counted(ours)
    copied, multiplied = ceilings(ours.device)
    for what, ceiling in (("bytes", copied), ("bytes of convolutions", copied), ("FLOPs", multiplied)):
        achieved, scale, unit = a_pair[what] * pairs_per_second, *((1e12, "TFLOP/s") if what == "FLOPs" else (1e9, "GB/s"))
        limit = f"at the ceiling: {number(ceiling / a_pair[what])} pairs/s"
        against = f"{number(ceiling / scale)} {'matrix product' if what == 'FLOPs' else 'copy'}"
        yield row(f"{what} achieved, {model}: {number(a_pair[what] / 1e6)} M a pair; {limit}", unit, [achieved / scale], against, f"{achieved / ceiling:.0%}")


def ceilings(device: torch.device) -> tuple[float, float]:
    "Bytes/s of a large copy (read and written), and FLOP/s of a large bfloat16 product."
    source, target = torch.zeros(2, 2**30, dtype=torch.uint8, device=device)
    a, b = torch.randn(2, 8192, 8192, device=device, dtype=torch.bfloat16)
    best = {}
    for name, work, amount in (("copy", lambda: target.copy_(source), 2 * 2**30), ("product", lambda: a @ b, 2 * 8192**3)):
        work()
        best[name] = max(rate(lambda: [work() for _ in range(20)] and 20 * amount, device) for _ in range(3))
    return best["copy"], best["product"]


def scaling_rows(folder: Path, sizes: Sizes, device: torch.device) -> Iterator[dict]:
    "Microseconds a pair of planning, feeding and masking, over the number of transcripts."
    first = None
    for n in (size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= sizes.largest_store):
        preparation, epochs = Preparation(generated_store(folder, n), 64, 0, device), count()
        preparation.microseconds(10, epochs)
        measured = [preparation.microseconds(200, epochs) for _ in range(sizes.rounds)]
        first = first or measured
        name = f"sampling, feeding, masking, 64 pairs: {n:,} transcripts"
        yield row(name, "µs/pair", measured, f"{spread(first)} 1,000 transcripts", times(measured, first), "0.8–1.2×")


def markdown(lines: list[dict], sizes: Sizes, arguments: argparse.Namespace, store: TranscriptStore, n_workers: int) -> str:
    device = f"{arguments.threads} threads; no GPU here: rows of bfloat16, FLOP/s and bytes/s are left out"
    if arguments.device.type == "cuda":
        device = torch.cuda.get_device_name(arguments.device)
    about = f"{store.path.name} store: {len(store):,} transcripts, median {store.transcripts.length_nt.median():,.0f} nt. "
    about += f"{sizes.rounds} rounds{', ours compiled' * sizes.compiled}. The port's loader has {n_workers} workers."
    return page("Pairs a second in pretraining", f"{machine(device, 'torch')}\n{about}", __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--scale", type=int, help="largest generated store, in transcripts")
    parser.add_argument("--batch", type=int, help="pairs in a batch (CPU 16, GPU 256)")
    parser.add_argument("--budget", type=int, default=0, help="nucleotides in one forward of ours; gradients are cached (0: a step is one forward)")
    parser.add_argument("--compile", action="store_true", help="the encoder of ours by torch.compile (bytes and FLOPs are counted without)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "pretrain.md", metavar="FILE", help="also to this file (results/pretrain.md)")
    for name in ("--memory-of", "--model", "--store"):  # for the processes that it starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.memory_of:
        sys.stdout.write(json.dumps(memory_of(arguments)) + "\n")
        return
    sizes, lines = Sizes.of(arguments), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data"))
        if arguments.device.type == "cuda":  # an epoch of the real regions is three batches there
            store = generated_store(folder, 5_000 if arguments.quick else 50_000)
        else:
            store = real_store(folder, data) if data.is_dir() else generated_store(folder, 2_000)
        n_workers = best_workers(store, sizes.batch_pairs)
        for rows in (
            training_rows(store, sizes, arguments.device, n_workers), preparation_rows(store, sizes, arguments.device, n_workers),
            memory_rows(store, sizes, arguments), scaling_rows(folder, sizes, arguments.device),
        ):
            for line in rows:
                lines.append(line)
                sys.stderr.write("  ".join(line.values()) + "\n")
    text = markdown(lines, sizes, arguments, store, n_workers)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
