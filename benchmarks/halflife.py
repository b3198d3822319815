"""Half-life of human and mouse genes from frozen representations: trained encoders beside every baseline, on splits that keep homologous genes together. Prints tables.

    python benchmarks/halflife.py            # real regions at ../shared/data (or $ISOCLR_TEST_DATA): store, pretraining, probes; about fifteen minutes on two cores
    python benchmarks/halflife.py --write    # into benchmarks/results/halflife.md

The label is PC1 of half-lives over many experiments (Agarwal & Kelley 2022), one a gene; a gene's representation is the mean over its transcripts. Ridge regression, and gradient-boosted trees on the
engineered features; ten splits by homology group, 15 % of the labelled genes tested. Two tables:
  all families       all labelled genes may be tested. A trained encoder has met these sequences in pretraining, without labels.
  held-out families  only genes of families that pretraining has never seen are tested: the fair comparison of trained and untrained.
Intervals (95 %) are corrected for the overlap of the splits (Nadeau & Bengio 2003). Differences are paired over the splits; positive: the trained encoder is ahead; p is corrected for the number of
comparisons (Holm).
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pretrain import real_store
from report import machine, markdown_table

from isoclr.data.identifiers import read_identifiers
from isoclr.data.store import TranscriptStore
from isoclr.models.encoder import build_encoder
from isoclr.pretrain.pretrain import PretrainConfig, pretrain
from isoclr.probe.baselines import baseline_representations
from isoclr.probe.catalog import builtin_task
from isoclr.probe.embed import embed
from isoclr.probe.intervals import compare, holm, summarise
from isoclr.probe.leakage import leakage_report
from isoclr.probe.probe import probe_all, side_by_side
from isoclr.probe.splits import SplitConfig, task_splits
from isoclr.probe.tasks import Task

HERE = Path(__file__).parent
ENCODERS = {
    "motif": {"batch_pairs": 64, "projector_dim": 0, "mask_share": 0.05},
    "demo": {"batch_pairs": 64, "projector_dim": 128},  # a dilated ResNet
}
HELD_OUT = {"holdout": 0.4, "holdout_seed": 1}


def half_life_tasks(store: TranscriptStore, data: Path) -> list[Task]:
    "PC1 of both species, by symbol; HGNC's table finds the four human genes that were renamed. By Ensembl id there is one mouse gene less: Nav1 has another id in the labels."
    hgnc = read_identifiers(data / "misc/hgnc_2023-10.id_map.tsv.gz", "human")
    return [builtin_task(f"half_life_{species}", store.transcripts, data / "halflife", hgnc if species == "human" else None) for species in ("human", "mouse")]


def representations(store: TranscriptStore, folder: Path, steps: int, seeds: list[int], untrained_seeds: list[int]) -> tuple[dict, np.ndarray, pd.DataFrame]:
    "Trained encoders, untrained ones and all other baselines; what is held out of pretraining; what the trainings took."
    found, took, heldout = {}, [], None
    for preset, settings in ENCODERS.items():
        draws = []
        for seed in seeds:
            began = time.perf_counter()
            config = PretrainConfig.from_dict({**settings, **HELD_OUT, "steps": steps, "seed": seed})
            encoder = pretrain(store, folder / f"{preset}-{seed}", preset, config, accelerator="cpu", progress=False)
            took.append({"encoder": preset, "seed": seed, "steps": steps, "minutes": round((time.perf_counter() - began) / 60, 1)})
            draws.append(embed(store, encoder, progress=False).X)
            heldout = store.transcripts["group"].isin(encoder.pretraining["heldout_groups"]).to_numpy()
        found[f"{preset}, trained"] = draws
        found[f"{preset}, untrained"] = [embed(store, build_encoder(preset, seed=seed), progress=False).X for seed in untrained_seeds]
    return {**found, **baseline_representations(store, None, names=("k-mer", "k-mer PCA", "codon usage", "features"), progress=False)}, heldout, pd.DataFrame(took)


def scores_of(found: dict, tasks: list[Task], store: TranscriptStore, config: SplitConfig, heldout: np.ndarray | None) -> pd.DataFrame:
    "Linear probes of everything, and trees on the features."
    linear = probe_all(found, tasks, store.transcripts, config, heldout, progress=False)
    trees = probe_all({"features": found["features"]}, tasks, store.transcripts, config, heldout, "trees", progress=False)
    return pd.concat([linear, trees.assign(representation="features, boosted trees")], ignore_index=True)


def score_table(scores: pd.DataFrame) -> pd.DataFrame:
    "A row a representation, a column a task."
    summary = summarise(scores).query("metric == 'pearson'").assign(method="")
    return side_by_side(summary, ["pearson"]).T.rename_axis(None).droplevel("metric", axis=1).rename_axis(None, axis=1).reset_index(names="Pearson r")


def difference_table(scores: pd.DataFrame) -> pd.DataFrame:
    "The first encoder and the second against everything that is not trained."
    linear = scores[scores["method"] == "linear"]
    names = list(pd.unique(linear["representation"]))
    rows = [
        compare(linear, trained, other).query("metric == 'pearson'").assign(trained=trained, against=other)
        for trained in names if trained.endswith(", trained") for other in names if not other.endswith(", trained")
    ]
    table = pd.concat(rows, ignore_index=True)
    table["Holm's p"] = holm(table["p"]).round(3)
    table["difference"] = [f"{one.difference:+.2f} [{one.low:+.2f}, {one.high:+.2f}]" for one in table.itertuples()]
    return table[["trained", "against", "task", "difference", "Holm's p"]]


def pair_correlation(tasks: list[Task], store: TranscriptStore) -> tuple[float, int]:
    "Correlation of the labels of human and mouse genes in homology groups with one labelled gene of each species."
    labels = [pd.DataFrame({"group": task.of_units(store.transcripts["group"].to_numpy(object)), "label": task.labels}) for task in tasks]
    single = [one[~one["group"].duplicated(keep=False)].set_index("group")["label"] for one in labels]
    pairs = pd.concat(single, axis=1, join="inner")
    return float(pairs.corr().iloc[0, 1]), len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ISOCLR_TEST_DATA", HERE.parents[1] / "shared" / "data")))
    parser.add_argument("--steps", type=int, default=100, help="of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the pretrainings, whose scores are averaged")
    parser.add_argument("--untrained-seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep store and runs here, and go on with what is there")
    parser.add_argument("--write", nargs="?", const=HERE / "results" / "halflife.md", type=Path, help="write the tables to a file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        store = TranscriptStore.open(folder / "real") if (folder / "real").exists() else real_store(folder, arguments.data, 14_000)  # long enough for LYST (13,466 nt), which has a label
        tasks = half_life_tasks(store, arguments.data)
        found, heldout, took = representations(store, folder, arguments.steps, arguments.seeds, arguments.untrained_seeds)
        config = SplitConfig(seeds=tuple(range(10)))
        everything, unseen = (scores_of(found, tasks, store, config, only) for only in (None, heldout))
        r, n_pairs = pair_correlation(tasks, store)
        sizes = unseen.groupby("task", sort=False)[["n_train", "n_test", "n_eligible"]].mean().round().astype(int).reset_index()
        leaks = pd.concat([leakage_report(task, task_splits(task, store.transcripts, config, heldout), store.transcripts, store).assign(task=task.name) for task in tasks])
        leaks = leaks.groupby("task", sort=False)[["shared_genes", "shared_groups", "nearest_50", "nearest_90", "nearest_max"]].max().round(3).reset_index()
        report = [
            "# Half-life from frozen representations",
            f"{machine(f'{arguments.threads} threads', 'torch')} Load average when it ended: {os.getloadavg()[0]:.2f}.",
            "```\n" + __doc__.split("\n\n", 2)[2].strip() + "\n```",
            f"{' and '.join(f'{len(task)} {task.config.species}' for task in tasks)} genes with a label (by symbol, renamed ones included; by Ensembl id 283 and 215); splits of seeds 0–9; pretraining seeds {', '.join(map(str, arguments.seeds))}, "
            f"untrained seeds {', '.join(map(str, arguments.untrained_seeds))} (scores averaged, split by split).",
            f"How well a measurement predicts its homolog's, which no sequence can be expected to exceed by much: r = {r:.3f} over {n_pairs} human–mouse pairs with both labels.",
            "## Held-out families", markdown_table(score_table(unseen)), markdown_table(sizes),
            "## All families", markdown_table(score_table(everything)),
            "## Paired differences, held-out families", markdown_table(difference_table(unseen)),
            "## What the splits share (held-out families; largest over the splits)", markdown_table(leaks),
            "## What the trainings took", markdown_table(took),
        ]
    text = "\n\n".join(report) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
