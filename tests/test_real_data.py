"""The same four experiments on real input: human and mouse regions, HomoloGene, and half-life measured in both species."""
import json

import pandas as pd
import pytest

from isoclr import runs
from isoclr.data.store import TranscriptStore
from isoclr.probe.embed import open_embeddings

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def stages(shared_data, tmp_path_factory) -> dict[str, runs.Run]:
    folder = tmp_path_factory.mktemp("real")
    sources = [
        {"species": "human", "genome": str(shared_data / "genome/hg38.regions.fa.gz"), "annotation": str(shared_data / "annotation/hg38.regions.refseq.genePred.tsv.gz")},
        {"species": "mouse", "genome": str(shared_data / "genome/mm10.regions.fa.gz"), "annotation": str(shared_data / "annotation/mm10.regions.gencodeVM18.genePred.tsv.gz")},
    ]
    tasks = [
        {"name": f"half_life_{species}", "path": str(shared_data / f"halflife/saluki_all_HLs_{species}_PC1.txt.gz"), "value": f"{species}_PC1",
         "key": "external_gene_name", "match": "gene_name", "species": species, "kind": "regression"}
        for species in ("human", "mouse")
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return runs.chain(
        runs_folder=folder / "runs", progress=False,
        build={"sources": sources, "homology": str(shared_data / "homology/homologene_build68.tsv.gz"), "taxa": {"human": 9606, "mouse": 10090}},
        pretrain={"steps": 30, "batch_pairs": 16},
        probe={"tasks": str(folder / "tasks.json"), "seeds": [0, 1, 2, 3, 4]},
        explore={"projection": "pca", "color": ["species", "half_life_human"]},
    )


def test_the_store_accounts_for_every_row(stages):
    store = TranscriptStore.open(stages["build"].path("store"))
    counts = store.report.counts
    assert {species: count["read"] for species, count in counts.items()} == {"human": 1176, "mouse": 902}
    assert all(count["read"] == count["kept"] + sum(count["dropped"].values()) for count in counts.values())
    species_of_group = store.transcripts.groupby("group").species.nunique()
    assert (species_of_group == 2).sum() > 200, "human and mouse genes share HomoloGene groups"


def test_half_life_is_probed_in_both_species(stages):
    labels = stages["probe"].results["labels"]
    assert labels["half_life_human"]["matched"] == 278 and labels["half_life_mouse"]["matched"] == 215  # by symbol; see test_tasks.py
    table = pd.DataFrame(stages["probe"].results["scores"])
    table = table[table["method"] != "trees"].set_index(["task", "metric", "representation"])
    assert table.loc[("half_life_human", "pearson", "features"), "mean"] > 0.3, "length, GC and exon density know something of real half-life"
    assert table.loc[("isoform@1", "share", "k-mer"), "mean"] > 0.85


def test_training_went_on_held_out_groups_stayed_out(stages):
    results = stages["pretrain"].results
    store = TranscriptStore.open(stages["build"].path("store"))
    assert results["step"] == 30 and 0.3 < results["heldout_groups"] / store.transcripts.group.nunique() < 0.5
    tested = pd.read_csv(stages["probe"].path("splits.csv"))
    assert set(tested.group) <= set(stages["probe"].results["heldout_groups"])


def test_the_map_is_drawn(stages):
    adata = open_embeddings(stages["explore"].path("embeddings.h5ad"))
    assert adata.obsm["X_pca"].shape[0] == adata.n_obs == len(TranscriptStore.open(stages["build"].path("store")))
    assert stages["explore"].path("map.html").stat().st_size > 1e6
