"""Transcripts a second in embedding: isoclr beside fixed-length padding, same encoder, same transcripts, measured in one process. Prints one table.

    python benchmarks/embed.py            # about 4 minutes on two cores
    python benchmarks/embed.py --quick    # few transcripts, one round, in a minute: whether it runs, not how fast

What is measured:
  ours           isoclr.probe.embed.embed, from the store to the AnnData: transcripts of about equal length in a batch, tracks made on the device. It makes batches
                 smaller than the budget where they would hold more than 5% padding.
  fixed length   of a sample (each costs the same): each transcript six float32 tracks of 12,288 positions, made on the CPU one transcript at a time and stacked; batches in the order of the rows
                 of the same budget, padding included; the same encoder in evaluation and inference mode, told the lengths; vectors collected
  padding        share of the positions of ours that are padding
  difference     largest absolute difference between the embeddings of the two sides, beside the largest absolute value

Transcripts are real ones of human and mouse (up to 12,288 nt), shuffled; ours embeds all, fixed length a sample evenly spaced in the order of their lengths. Both sides compute
in the same precision (float32 on a CPU; on a GPU as `embed` chooses). Sides take turns (A B A B …) after a warm-up; a number is the median of the rounds, with lowest and
highest. "ratio" is ours over fixed length.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from port import POSITIONS, six_tracks
from pretrain import generated_store, number, rate, real_store, row, spread, taking_turns, times
from report import machine, page

from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import build_encoder
from isoclr.probe.embed import embed, evaluating, fitting_budget, padding_share, precision_on

HERE = Path(__file__).parent
MODELS = ("demo", "dilated_small")


def sample(store: TranscriptStore, n: int, seed: int = 0) -> np.ndarray:  # rows, shuffled
    "Rows that are evenly spaced in the order of their lengths."
    by_length, n = np.argsort(store.transcripts["length_nt"].to_numpy(), kind="stable"), min(n, len(store))
    return np.random.default_rng(seed).permutation(by_length[(2 * np.arange(n) + 1) * len(store) // (2 * n)])


def embed_at_fixed_length(store: TranscriptStore, encoder: torch.nn.Module, rows: np.ndarray, token_budget: int, device: torch.device) -> np.ndarray:  # (n, D)
    "Every transcript padded to 12,288 positions."
    vectors, at_once, bf16 = [], max(1, token_budget // POSITIONS), precision_on("auto", device) == "bf16-mixed"
    with evaluating(encoder, device), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for first in range(0, len(rows), at_once):
            tokens = [store.tokens(i) for i in rows[first : first + at_once].tolist()]
            tracks = torch.as_tensor(np.stack([six_tracks(each) for each in tokens]), device=device)
            lengths = torch.tensor([min(len(each), POSITIONS) for each in tokens], device=device)
            vectors.append(encoder(tracks, lengths).float().cpu().numpy())
    return np.concatenate(vectors)


def lines_of(store: TranscriptStore, arguments: argparse.Namespace) -> Iterator[dict]:
    device, budget, few = arguments.device, arguments.budget, sample(store, arguments.transcripts)
    rows = few if arguments.quick else sample(store, len(store))
    lengths = store.transcripts["length_nt"].to_numpy()[rows]
    share = padding_share(lengths, fitting_budget(lengths, budget))
    for model in MODELS:
        encoder, made = build_encoder(model).to(device), {}

        def ours() -> int:
            made["ours"] = embed(store, encoder, rows, budget, progress=False).X[np.argsort(rows)]
            return len(rows)

        def fixed() -> int:
            made["fixed"] = embed_at_fixed_length(store, encoder, few, budget, device)
            return len(few)

        embed(store, encoder, few[:20], budget, progress=False), embed_at_fixed_length(store, encoder, few[:20], budget, device)
        measured = taking_turns({"ours": lambda: rate(ours, device), "fixed": lambda: rate(fixed, device)}, arguments.rounds)
        goal = "≥ 4×" if device.type == "cpu" else ""
        name = f"embedding, {model}, ours {share:.1%} padding"
        yield row(name, "transcripts/s", measured["ours"], f"{spread(measured['fixed'])} fixed length", times(measured["ours"], measured["fixed"]), goal)
        difference, largest = np.abs(made["ours"][np.searchsorted(np.sort(rows), few)] - made["fixed"]).max(), np.abs(made["fixed"]).max()
        yield {"measured": f"difference, {model}", "unit": "", "ours": f"{difference:.1e}", "against": f"{number(largest)} largest value", "ratio": "",
               "goal": "≤ 1e-5" if device.type == "cpu" else ""}


def markdown(lines: list[dict], arguments: argparse.Namespace, about: str, load: float) -> str:
    device = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else f"{arguments.threads} threads, no GPU"
    facts = f"{machine(device, 'torch')} Load average when it began: {load:.2f}.\n{about} {arguments.rounds} rounds; {arguments.budget:,} positions in a batch."
    return page("Transcripts a second in embedding", facts, __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 transcripts on both sides, one round")
    parser.add_argument("--transcripts", type=int, default=400, help="of fixed length")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=2**17, help="positions in a batch, padding included")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parser.add_argument("--threads", type=int, default=2, help="of a CPU")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "embed.md", metavar="FILE", help="also to this file (results/embed.md)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.transcripts, arguments.rounds = 40, 1
    load, lines = os.getloadavg()[0], []
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data"))
        store = real_store(Path(folder), data) if data.is_dir() else generated_store(Path(folder), 2_000)
        of_all, of_sample = (store.transcripts["length_nt"].iloc[sample(store, n)] for n in (len(store), arguments.transcripts))
        about = f"{store.path.name} store: {len(of_all):,} transcripts, mean {of_all.mean():,.0f} nt, median {of_all.median():,.0f}; "
        about += f"the sample: {len(of_sample):,}, mean {of_sample.mean():,.0f}, median {of_sample.median():,.0f}."
        for line in lines_of(store, arguments):
            lines.append(line)
            sys.stderr.write("  ".join(line.values()) + "\n")
    text = markdown(lines, arguments, about, load)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
