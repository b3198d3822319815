"""Seconds of in-silico mutagenesis: isoclr beside forward passes one by one, on the same transcript and encoder, measured in one run. Prints one table.

    python benchmarks/attribute.py            # about four minutes on two cores
    python benchmarks/attribute.py --quick    # small: whether it runs, not how fast

What is measured:
  data          a generated transcript of random bases, four exons, a CDS of three fifths; encoders with initial weights, in evaluation mode, float32.
  ours          `isoclr.latent.attribute.ism` of every substitution at every position (distance moved), from tokens to scores, the recording of the
                transcript included. The first call, on 40 positions, warms up and is not counted.
  one by one    for each substitution, the changed tokens, their tracks and a forward pass of the encoder over the whole transcript as a batch of one, in
                inference mode. Of substitutions at positions drawn evenly from the whole transcript; seconds times the share that was drawn.
  batched       the same in batches of 16 (what is commonly done), of as many substitutions.

Ours is cut into pieces of neighbouring positions; after each, some forward passes one by one and a batch follow, so that all meet the same state of the machine. "ratio" is
the other's seconds over ours. "apart" is the largest difference of an embedding's coordinate between ours and one by one; the benchmark stops where it exceeds 1e-4.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Iterator

import numpy as np
import torch
from report import machine, page, timed

from isoclr.data.tracks import BASE_BITS, tokens_from_exons, tracks_from_tokens
from isoclr.latent.attribute import ism
from isoclr.models.encoder import build_encoder
from isoclr.models.substitute import substituted

HERE = Path(__file__).parent
LIMIT = 1e-4


def transcript(length: int) -> np.ndarray:
    "Tokens of a generated transcript."
    bases = np.random.default_rng(0).integers(0, 4, length).astype(np.uint8)
    exons = np.full(4, length // 4)
    exons[-1] += length - exons.sum()
    return tokens_from_exons(bases, exons, length // 10, length // 10 + length * 3 // 5 // 3 * 3)


def forward(encoder: torch.nn.Module, tokens: np.ndarray, at: np.ndarray, base: np.ndarray) -> torch.Tensor:
    "Embeddings of substitutions by a forward pass."
    batch = np.tile(tokens, (len(at), 1))
    rows = np.arange(len(at))
    batch[rows, at] = batch[rows, at] // 8 * 8 + base
    with torch.inference_mode():
        return encoder(tracks_from_tokens(torch.as_tensor(batch), encoder.n_tracks), torch.full((len(at),), len(tokens)))


def by_ours(encoder: torch.nn.Module, tokens: np.ndarray, at: np.ndarray, base: np.ndarray) -> torch.Tensor:
    "Embeddings of substitutions by what `ism` uses, each by itself."
    with torch.inference_mode():
        tracks = tracks_from_tokens(torch.as_tensor(tokens)[None], encoder.n_tracks)[0]
        vectors = substituted(encoder, tracks)
        return torch.cat([vectors(torch.tensor([a]), torch.eye(4)[[b]]) for a, b in zip(at, base)])


def seconds(value: float) -> str:
    return f"{value:.3g}"


def lines_of(name: str, tokens: np.ndarray, n_drawn: int, n_pieces: int) -> Iterator[dict]:
    encoder, L, spent = build_encoder(name).eval(), len(tokens), {"ours": 0.0, "one": 0.0, "batched": 0.0}
    at = np.linspace(0, L - 1, n_drawn).astype(int)
    base = ((tokens[at] & BASE_BITS) + 1 + np.arange(n_drawn) % 3) % 4
    ism(encoder, tokens, positions=range(min(40, L)))
    forward(encoder, tokens, at[:1], base[:1]), forward(encoder, tokens, at[:16], base[:16])
    apart, n_batched = 0.0, 0
    for positions, drawn in zip(np.array_split(np.arange(L), n_pieces), np.array_split(np.arange(n_drawn), n_pieces)):
        spent["ours"] += timed(lambda: ism(encoder, tokens, positions=positions))[1]
        for i in drawn:
            expected, once = timed(lambda: forward(encoder, tokens, at[[i]], base[[i]]))
            spent["one"] += once
            apart = max(apart, float((by_ours(encoder, tokens, at[[i]], base[[i]]) - expected).abs().max()))
        some = np.resize(drawn, 16)
        spent["batched"] += timed(lambda: forward(encoder, tokens, at[some], base[some]))[1]
        n_batched += 16
    if apart > LIMIT:
        raise AssertionError(f"{name}: embeddings are {apart:.1e} apart, not the same computation")
    all_of_them = 3 * L
    for other, label, n, goal in (("one", "one by one", n_drawn, "≥ 10×"), ("batched", "in batches of 16", n_batched, "")):
        estimate = spent[other] / n * all_of_them
        yield {
            "measured": f"ISM of {L:,} nt, {name} ({type(substituted(encoder, torch.zeros(encoder.n_tracks, 99))).__name__})", "unit": "s", "ours": seconds(spent["ours"]),
            "against": f"{seconds(estimate)} {label} ({n} of {all_of_them:,}, {spent[other] / n * 1e3:.3g} ms each)", "ratio": f"{estimate / spent['ours']:.3g}×",
            "apart": f"{apart:.0e}" if other == "one" else "", "goal": goal,
        }


def markdown(lines: list[dict], arguments: argparse.Namespace, load: float) -> str:
    facts = f"{machine(f'{arguments.threads} thread(s) on all sides, no GPU', 'numpy', 'torch')} Load average when it began: {load:.2f}."
    return page("Seconds of in-silico mutagenesis", facts, __doc__, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 nt, 20 substitutions one by one")
    parser.add_argument("--length", type=int, default=3_000, help="nt of the transcript")
    parser.add_argument("--drawn", type=int, default=600, help="substitutions one by one")
    parser.add_argument("--pieces", type=int, default=20, help="of ours, between which the others take their turns")
    parser.add_argument("--presets", nargs="+", default=["demo", "dilated_small", "motif"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "attribute.md", metavar="FILE", help="also to this file (results/attribute.md)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.length, arguments.drawn, arguments.pieces = 500, 20, 4
    load, lines = os.getloadavg()[0], []
    torch.set_num_threads(arguments.threads)
    tokens = transcript(arguments.length)
    for name in arguments.presets:
        for line in lines_of(name, tokens, arguments.drawn, arguments.pieces):
            lines.append(line)
            sys.stderr.write("  ".join(line.values()) + "\n")
    text = markdown(lines, arguments, load)
    sys.stdout.write(text)
    if arguments.write:
        Path(arguments.write).write_text(text)


if __name__ == "__main__":
    main()
