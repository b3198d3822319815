"""Isoforms and homologs of families that pretraining never saw: trained encoders beside the same encoders untrained and k-mers. Prints one table.

    python benchmarks/retrieval.py            # real regions of human and mouse, and the lifted orthologs of ten vertebrates, at ../shared/data (or $ISOCLR_TEST_DATA)
    python benchmarks/retrieval.py --write    # into benchmarks/results/retrieval.md

One store holds twelve species; a second is its human and mouse part, so that both name their homology groups alike and hold out the same 20 % of them. Every row is measured on the same transcripts: human and mouse, of held-out groups,
each looking for its nearest neighbour by cosine among all of them. Intervals (95 %) resample families; several seeds are averaged before. An isoform counts when the nearest of all other transcripts is of the same gene,
a homolog when the nearest of all transcripts of other genes is of the same group.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from report import machine, markdown_table

from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.features import kmer_frequencies
from isoclr.data.homology import read_homology
from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import build_encoder
from isoclr.pretrain.monitor import transcript_vectors
from isoclr.pretrain.pairs import holdout_groups
from isoclr.pretrain.pretrain import PretrainConfig, pretrain
from isoclr.pretrain.watch import read_metrics
from isoclr.probe.probe import retrieval

HERE = Path(__file__).parent
TEN = ("rat", "rhesus", "dog", "cow", "rabbit", "elephant", "armadillo", "tenrec", "opossum", "chicken")
HUMAN_MOUSE = ("human", "mouse")


def stores(data: Path, folder: Path) -> tuple[TranscriptStore, TranscriptStore]:
    "Human and mouse, and with ten more vertebrates."
    lifted = data / "orthologs" / "lifted_transcripts.tsv.gz"
    sources = [
        SpeciesSource("human", str(data / "genome/hg38.regions.fa.gz"), str(data / "annotation/hg38.regions.refseq.genePred.tsv.gz")),
        SpeciesSource("mouse", str(data / "genome/mm10.regions.fa.gz"), str(data / "annotation/mm10.regions.gencodeVM18.genePred.tsv.gz")),
        *(SpeciesSource(species, "", str(lifted)) for species in TEN),
    ]
    homology = read_homology(data / "homology/homologene_build68.tsv.gz", {"human": 9606, "mouse": 10090})
    store = build_store(folder / "twelve", sources, pd.concat([homology, lifted_homology(lifted, homology)], ignore_index=True).fillna(""), progress=False)
    part = store.subset(folder / "two", np.flatnonzero(store.transcripts.species.isin(HUMAN_MOUSE)))
    return part, store


def lifted_homology(path: Path, homology: pd.DataFrame) -> pd.DataFrame:
    "Rows of a homology table for lifted transcripts: their genes bear the human symbol, and belong to its group."
    lifted = pd.read_csv(path, sep="\t", usecols=["gene_id", "species"]).drop_duplicates().rename(columns={"gene_id": "gene_name"})
    groups = homology[homology.species == "human"].drop_duplicates("gene_name").set_index("gene_name").homology_group
    human = lifted[~lifted.gene_name.isin(groups.index)].drop_duplicates("gene_name").assign(species="human")
    rows = pd.concat([lifted, human], ignore_index=True)
    return rows.assign(homology_group=rows.gene_name.map(groups).fillna("symbol:" + rows.gene_name), source=homology.source.iloc[0])


def kmers(store: TranscriptStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    "Frequencies of words, as they are, centred and standardised over the rows."
    forms = {}
    for k in (4, 5, 6, 7):
        plain = kmer_frequencies(store, (k,))[rows]
        centred = plain - plain.mean(0)
        deviation = centred.std(0)
        forms |= {f"{k}-mers": plain, f"{k}-mers, centred": centred, f"{k}-mers, standardised": centred / np.where(deviation > 0, deviation, 1)}
    return forms


def trained(arguments: argparse.Namespace, folder: Path, by_name: dict[str, TranscriptStore]) -> tuple[dict[str, list], pd.DataFrame]:
    "Vectors of held-out human and mouse transcripts by every encoder, and what its training took."
    vectors, took = {}, []
    two = by_name["human, mouse"]
    rows = heldout_rows(two)
    for preset, settings in ((name, ENCODERS[name]) for name in arguments.encoders):
        steps = settings.get("steps", arguments.steps)
        for name, store in by_name.items():
            for seed in arguments.seeds if preset == "motif" else arguments.seeds[:1]:
                config = PretrainConfig.from_dict({**SETTINGS, **settings, "steps": steps, "seed": seed})
                run = folder / f"{preset}-{name}-{seed}"
                encoder = pretrain(store, run, preset, config, accelerator="cpu", progress=arguments.progress)
                metrics = read_metrics(run).dropna(subset="loss")
                vectors.setdefault(f"{preset}, trained on {name}", []).append(transcript_vectors(encoder, two, rows).numpy())
                took.append({"encoder": preset, "training": name, "seed": seed, "transcripts": len(store), "steps": steps, "pairs a step": config.batch_pairs,
                             "epochs": round(metrics.epoch.iloc[-1], 1), "minutes": round(metrics.seconds.iloc[-1] / 60, 1),
                             "accuracy on training pairs": round(metrics.accuracy.iloc[-1], 3)})
        fresh = [build_encoder(preset, seed).eval() for seed in arguments.seeds]
        vectors[f"{preset}, untrained"] = [transcript_vectors(encoder, two, rows).numpy() for encoder in fresh]
    return vectors, pd.DataFrame(took)


SETTINGS = {"batch_pairs": 64, "holdout": 0.2, "holdout_seed": 1, "log_every": 10}  # the families of seed 0 were looked at while "motif" was designed
ENCODERS = {
    "motif": {"projector_dim": 0, "mask_share": 0.05},
    "demo": {"steps": 100, "projector_dim": 128},  # a dilated ResNet; ten times as many families would suit it better
}


def heldout_rows(store: TranscriptStore) -> np.ndarray:
    "Rows of held-out groups."
    return np.flatnonzero(holdout_groups(store.transcripts["group"], SETTINGS["holdout"], SETTINGS["holdout_seed"]))


def table(vectors: dict[str, list], store: TranscriptStore) -> pd.DataFrame:
    "A row each representation."
    rows = heldout_rows(store)
    found = retrieval(vectors, store.transcripts.gene_id.to_numpy()[rows], store.transcripts.group.to_numpy()[rows])
    found["text"] = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in zip(found["mean"], found["low"], found["high"])]
    wide = found.pivot(index="representation", columns="task", values="text").loc[list(vectors)]
    return wide[["isoform@1", "homolog@1"]].reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data")))
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of weights, pairs and masking")
    parser.add_argument("--encoders", nargs="+", choices=list(ENCODERS), default=list(ENCODERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    parser.add_argument("--folder", type=Path, help="keep stores and runs here, and go on with what is there")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "retrieval.md", type=Path, help="write the table to a file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        two, twelve = stores(arguments.data, folder) if not (folder / "two").exists() else (TranscriptStore.open(folder / "two"), TranscriptStore.open(folder / "twelve"))
        vectors, took = trained(arguments, folder, {"human, mouse": two, "human, mouse, ten more": twelve})
        vectors |= kmers(two, heldout_rows(two))
        rows = heldout_rows(two)
        report = [
            "# Retrieval on held-out families",
            machine(f"{arguments.threads} threads", "torch"),
            f"{len(rows)} transcripts of {two.transcripts.group.iloc[rows].nunique()} held-out groups of human and mouse; seeds {', '.join(map(str, arguments.seeds))}.",
            markdown_table(table(vectors, two)),
            "What the trainings took:",
            markdown_table(took),
        ]
    text = "\n\n".join(report) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
