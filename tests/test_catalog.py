"""Built-in tasks: on the real label files with their counts, on small files in the published layouts, and what is wrong with either."""
import gzip
import itertools
import json
import re
from collections import Counter

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from isoclr.config import ConfigError, InputError
from isoclr.data.build import SpeciesSource, build_store
from isoclr.data.identifiers import read_identifiers
from isoclr.data.selection import StoreConfig
from isoclr.data.simulate import SimulateConfig, simulate
from isoclr.probe.catalog import (
    CATALOG, FILES, builtin_catalogue, builtin_names, builtin_sequences, builtin_table, builtin_task, builtin_tasks, label_files, named_tasks,
)
from isoclr.probe.labels import half_life_samples
from isoclr.probe.tasks import TaskConfig

REGIONS = {"human": "hg38.regions.refseq", "mouse": "mm10.regions.gencodeVM18"}
PER_SPECIES = {"human": (10, 54), "mouse": (5, 27)}  # measurements that a gene with PC1 has at least; samples


def region(folder, species, coding=True, max_length_nt=None):
    "Transcripts of a real region, as a store has them: gene id and name are the symbol."
    table = pd.read_csv(folder / f"annotation/{REGIONS[species]}.genePred.tsv.gz", sep="\t")
    starts, ends = ([np.array(text.strip(",").split(","), int) for text in table[column]] for column in ("exonStarts", "exonEnds"))
    length = np.array([(end - start).sum() for start, end in zip(starts, ends)])
    obs = pd.DataFrame({"transcript_id": table["name"], "species": species, "gene_id": species + ":" + table["name2"], "gene_name": table["name2"],
                        "cds_start": np.where(table["cdsStart"] < table["cdsEnd"], 0, -1)})
    keep = ((not coding) | (obs["cds_start"] >= 0)) & (length <= (max_length_nt or np.inf))
    return obs[keep].reset_index(drop=True)


def by_ensembl(folder, species):
    "The coding genes of a real region under their Ensembl ids alone."
    genes = pd.read_csv(folder / f"annotation/{'hg38' if species == 'human' else 'mm10'}.regions.genes.tsv.gz", sep="\t")
    genes = genes[genes["ensembl_gene_id"].notna() & (genes["n_coding_transcripts"] > 0)].reset_index(drop=True)
    return pd.DataFrame({"transcript_id": "t_" + genes["gene"], "species": species, "gene_id": species + ":" + genes["ensembl_gene_id"] + ".1", "gene_name": ""})


@pytest.fixture(scope="module")
def regions(shared_data):
    return pd.concat([region(shared_data, species) for species in REGIONS], ignore_index=True)


@pytest.fixture(scope="module")
def hgnc(shared_data):
    return read_identifiers(shared_data / "misc/hgnc_2023-10.id_map.tsv.gz", "human")


def genes_of(task):
    return {unit.partition(":")[2]: label for unit, label in zip(task.units, task.labels)}


# ---- half-life, real

def test_half_life_of_the_real_regions(shared_data, regions, hgnc):
    "By symbol 279 and 216 coding genes; by Ensembl id, or with the table of identifiers, the 283 and 215 of the README (the symbol Nav1 has another id in the labels)."
    counts = {}
    for species in REGIONS:
        by_symbol = builtin_task(f"half_life_{species}", regions, shared_data)
        by_id = builtin_task(f"half_life_{species}", by_ensembl(shared_data, species), shared_data)
        short = builtin_task(f"half_life_{species}", region(shared_data, species, max_length_nt=12288), shared_data)
        assert (by_symbol.config.key, by_id.config.key, by_id.config.match) == ("symbol", "ensembl", "gene_id")
        assert by_symbol.counts()["lines"] == {"human": 13921, "mouse": 14463}[species] and by_symbol.counts()["conflicting"] == 0
        counts[species] = len(by_symbol), len(by_id), len(short)
        lost = set(genes_of(by_symbol)) - set(genes_of(short))
        assert lost == {"human": {"LYST"}, "mouse": {"Lyst"}}[species]
    assert counts == {"human": (279, 283, 278), "mouse": (216, 215, 215)}
    renamed = builtin_task("half_life_human", regions, shared_data, hgnc)
    assert len(renamed) == 283
    before, after = genes_of(builtin_task("half_life_human", regions, shared_data)), genes_of(renamed)
    assert set(after) - set(before) == {"ADISSP", "DNAAF9", "IFT25", "METTL13"} and all(after[gene] == before[gene] for gene in before)


@pytest.mark.parametrize("species, genes, scale", [("human", 263, 12981), ("mouse", 209, 13744)])
def test_folds_and_z_scores(shared_data, species, genes, scale):
    task = builtin_task(f"half_life_{species}_folds", by_ensembl(shared_data, species), shared_data)
    assert len(task) == genes and set(task.folds) == {str(fold) for fold in range(1, 11)} and task.config.unit == "z-score"
    table = builtin_table(f"half_life_{species}_folds", shared_data)
    assert len(table) == scale and table["ensembl"].is_unique
    values, pc1 = table["value"].astype(float), builtin_table(f"half_life_{species}", shared_data).drop_duplicates("ensembl").set_index("ensembl")["value"].astype(float)
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    assert table["fold"].value_counts().between(scale // 10, scale // 10 + 5).all()
    assert np.corrcoef(values, pc1.reindex(table["ensembl"]))[0, 1] > 0.9999  # the same measure on another scale


@pytest.mark.parametrize("species, genes, correlation", [("human", 19503, 0.86), ("mouse", 22499, 0.92)])
def test_all_samples(shared_data, species, genes, correlation):
    minimum, samples = PER_SPECIES[species]
    path = shared_data / f"halflife/saluki_all_HLs_{species}.txt.gz"
    listed = half_life_samples(path)
    matrix = pd.read_csv(path, sep="\t").set_index("ensembl_gene_id").drop(columns="external_gene_name")
    assert len(listed) == samples and matrix.shape == (genes, samples) and np.allclose(listed["sd"], matrix.std())
    name = f"half_life_{species}_samples"
    table = builtin_table(name, shared_data)
    assert len(table) == genes and np.array_equal(table["samples"], matrix.notna().sum(axis=1))
    gene = int(np.flatnonzero(matrix.notna().sum(axis=1) >= minimum)[5])  # by hand
    of_gene = [(matrix.iat[gene, j] - matrix.iloc[:, j].mean()) / matrix.iloc[:, j].std() for j in range(samples) if not np.isnan(matrix.iat[gene, j])]
    assert table["value"][gene] == pytest.approx(np.mean(of_gene))
    assert np.array_equal(table["value"].notna(), matrix.notna().sum(axis=1) >= minimum)
    pc1 = builtin_table(f"half_life_{species}", shared_data).drop_duplicates("ensembl").set_index("ensembl")["value"].astype(float)
    both = table[table["value"].notna() & table["ensembl"].isin(pc1.index)]
    assert np.corrcoef(both["value"], pc1[both["ensembl"]])[0, 1] == pytest.approx(correlation, abs=0.005)
    one = builtin_table(name, shared_data, sample=listed["sample"][3])
    assert np.array_equal(one["value"], matrix.iloc[:, 3], equal_nan=True)
    with pytest.raises(ConfigError, match="is no column of"):
        builtin_table(name, shared_data, sample="nowhere")


def test_homologs_agree_about_half_life(shared_data):
    "Pearson r over the human-mouse pairs of HomoloGene or of Ensembl's one-to-one orthologs, both of whose genes have a label."
    genes, labels = {}, {}
    for species, build in (("human", "hg38"), ("mouse", "mm10")):
        genes[species] = pd.read_csv(shared_data / f"annotation/{build}.regions.genes.tsv.gz", sep="\t").dropna(subset="ensembl_gene_id").add_prefix(f"{species}_")
        task = builtin_task(f"half_life_{species}", by_ensembl(shared_data, species), shared_data)
        labels[species] = {gene.removesuffix(".1"): value for gene, value in genes_of(task).items()}
    ortholog = genes["human"].merge(genes["mouse"], left_on="human_mouse_1to1_ensembl", right_on="mouse_ensembl_gene_id")
    group = genes["human"].dropna(subset="human_homologene_hid").merge(genes["mouse"], left_on="human_homologene_hid", right_on="mouse_homologene_hid")
    found = {}
    for name, table in (("ortholog", ortholog), ("group", group), ("either", pd.concat([ortholog, group]))):
        pairs = table[["human_ensembl_gene_id", "mouse_ensembl_gene_id"]].drop_duplicates().itertuples(index=False)
        both = np.array([(labels["human"][human], labels["mouse"][mouse]) for human, mouse in pairs if human in labels["human"] and mouse in labels["mouse"]])
        found[name] = len(both), np.corrcoef(both.T)[0, 1]
    assert found["either"] == (183, pytest.approx(0.770, abs=0.005))
    assert (found["ortholog"][0], found["group"][0]) == (167, 172)
    whole = {species: builtin_table(f"half_life_{species}", shared_data).set_index("ensembl")["value"].astype(float) for species in REGIONS}
    pairs = pd.read_csv(shared_data / "homology/saluki_1to1_orthologs_expression.txt.gz", sep="\t", header=None)
    pairs = pairs[pairs[0].isin(whole["human"].index) & pairs[1].isin(whole["mouse"].index)]
    assert len(pairs) == 10955 and np.corrcoef(whole["human"][pairs[0]], whole["mouse"][pairs[1]])[0, 1] == pytest.approx(0.775, abs=0.005)


# ---- the other real files

@pytest.fixture(scope="module")
def everything(shared_data, regions):
    "All built-in tasks of the real files, and what the warning says."
    with pytest.warns(UserWarning) as caught:
        tasks = named_tasks("all", regions, shared_data)
    (said,) = [str(warning.message) for warning in caught if warning.category is UserWarning]
    return {task.name: task for task in tasks}, said


def test_everything_at_once_on_real_files(everything):
    tasks, said = everything
    assert {name: len(task) for name, task in tasks.items()} == {
        "half_life_human": 279, "half_life_human_folds": 259, "half_life_human_samples": 279, "half_life_mouse": 216, "half_life_mouse_folds": 210,
        "half_life_mouse_samples": 216, "localisation": 194, "go_molecular_function": 204, "go_cellular_component": 139}
    assert said.startswith(f"9 of {len(CATALOG)} built-in tasks were made. Without a file: 5 (ribosome_load_isoforms, simulated_half_life,")
    assert "Refused: 4." in said and [re.match(r"- (\w+): ", line)[1] for line in said.splitlines() if line.startswith("- ")] == [
        "decay_rate", "ribosome_load_5utr", "go_biological_process", "rna_class"]
    assert "2018.txt.gz and" in said and "may both be the gene sets of GO biological process terms" in said  # gene sets of two years


def slow_go(folder, regions, namespace):
    "Gene of the human region → terms three levels below the root that 50 genes bear, and 10 of the region."
    graph, root = nx.DiGraph(), None
    for block in gzip.open(folder / "go/go_isa_from_ontologyIndex.obo.gz", "rt").read().split("[Term]\n"):
        term = re.search(r"^id: (\S+)", block, re.M)
        if term and f"namespace: {namespace}\n" in block and "is_obsolete: true" not in block:
            graph.add_edges_from((term[1], parent) for parent in re.findall(r"^is_a: (\S+)", block, re.M))
            root = term[1] if f"name: {namespace}\n" in block else root
    level = nx.single_source_shortest_path_length(graph.reverse(), root)
    bears = {}
    for line in gzip.open(folder / f"go/enrichr.GO_{namespace.title()}_2018.txt.gz", "rt"):
        term = re.search(r"\((GO:\d{7})\)", line)
        if term[1] in graph:
            implied = {other for other in {term[1]} | nx.descendants(graph, term[1]) if level[other] == 3}
            for gene in filter(None, re.split(r"[,\t]", line[term.end():].lstrip('"').strip("\n"))):
                bears.setdefault(gene, set()).update(implied)
    wide = {term for term, count in Counter(itertools.chain(*bears.values())).items() if count >= 50}
    here = {gene: bears[gene] & wide for gene in set(regions.loc[regions["species"] == "human", "gene_name"]) & set(bears) if bears[gene] & wide}
    kept = {term for term, count in Counter(itertools.chain(*here.values())).items() if count >= 10}
    return {gene: terms & kept for gene, terms in here.items()}


def test_go_of_the_real_regions(shared_data, regions, everything):
    files = {"go_ontology": shared_data / "go/go_isa_from_ontologyIndex.obo.gz", "go_sets_biological_process": shared_data / "go/enrichr.GO_Biological_Process_2018.txt.gz"}
    tasks = {**everything[0], "go_biological_process": builtin_task("go_biological_process", regions, files)}
    counts = {}
    for namespace in ("molecular_function", "biological_process", "cellular_component"):
        task = tasks[f"go_{namespace}"]
        assert task.kind == "multilabel" and task.classes == tuple(sorted(task.classes)) and (task.labels.sum(axis=0) >= 10).all()
        counts[namespace] = task.labels.shape
    assert counts == {"molecular_function": (204, 13), "biological_process": (282, 63), "cellular_component": (139, 6)}
    for namespace in ("molecular_function", "cellular_component"):
        task, expected = tasks[f"go_{namespace}"], slow_go(shared_data, regions, namespace)
        assert {gene: {task.classes[i] for i in np.flatnonzero(labels)} for gene, labels in genes_of(task).items()} == expected
    general = builtin_task("go_molecular_function", regions, shared_data, levels_below_root=1, min_units=1)
    assert len(general) == 213 and "GO:0005488" in general.classes and "GO:0003674" not in general.classes  # binding; the root
    with pytest.raises(ConfigError, match="carry no evidence codes"):
        builtin_task("go_cellular_component", regions, shared_data, evidence=("IDA",))


def test_localisation_of_the_real_regions(shared_data, regions):
    task = builtin_task("localisation", regions, shared_data)
    symbols = set(regions.loc[regions["species"] == "human", "gene_name"])
    expected = {}
    table = pd.read_csv(shared_data / "misc/hpa_subcellular_location.tsv.gz", sep="\t", dtype=str, keep_default_na=False)
    for _, row in table.iterrows():
        places = set(filter(None, ";".join([row["Validated"], row["Supported"], row["Approved"]]).split(";")))
        if row["Gene name"] in symbols and places:
            expected[row["Gene name"]] = places
    assert len(task) == len(expected) == 194 and task.counts()["lines"] == 12003
    counts = pd.Series(list(itertools.chain(*expected.values()))).value_counts()
    assert set(task.classes) == set(counts[counts >= 10].index)
    for gene, labels in genes_of(task).items():
        assert {task.classes[i] for i in np.flatnonzero(labels)} == expected[gene] & set(task.classes)
    assert len(builtin_task("localisation", regions, shared_data, reliability=("Uncertain",), min_units=1)) < len(task)


def test_decay_rates_of_real_coding_sequences(shared_data, tmp_path):
    table = builtin_table("decay_rate", shared_data)
    raw = pd.read_csv(shared_data / "halflife/icodon_testing.tsv.gz", sep="\t")
    raw["specie"] = raw["specie"].replace("fish", "zebrafish")
    assert len(table) == 3444 and table["transcript_id"].is_unique and table["measurements"].sum() <= len(raw) == 7576
    assert table["species"].value_counts().to_dict() == raw.groupby("specie")["coding"].nunique().to_dict()
    for row in table.sample(40, random_state=0).itertuples():
        measured = raw[(raw.specie == row.species) & (raw.coding == row.sequence)].drop_duplicates(["cell_type", "datatype", "decay_rate"])
        assert row.value == pytest.approx(measured["decay_rate"].mean()) and row.measurements == len(measured) and row.gene_id == measured["gene_id"].min()
    sequences = builtin_sequences("decay_rate", shared_data)
    few = sequences.groupby("species").head(30)
    store = own_store(tmp_path, few)
    task = builtin_task("decay_rate", store.transcripts, shared_data)
    assert task.config.level == "transcript" and len(task) == len(store) == len(few) == 120
    labels = dict(zip(table["species"] + "|" + table["transcript_id"], table["value"]))
    assert task.labels == pytest.approx([labels[unit] for unit in task.units], rel=1e-12)


def own_store(folder, sequences, **settings):
    "A store of the sequences that a task brings along."
    sources = []
    for species, rows in sequences.groupby("species"):
        rows.to_csv(folder / f"{species}.tsv", sep="\t", index=False)
        sources.append(SpeciesSource(species, genome="", annotation=str(folder / f"{species}.tsv")))
    return build_store(folder / "store", sources, config=StoreConfig(**settings), progress=False)


def test_ribosome_load_of_real_5utrs(shared_data, tmp_path):
    table = builtin_table("ribosome_load_5utr", shared_data)
    values = table["value"].astype(float)
    assert len(table) == 50600 and table["sequence"].is_unique and values.mean() == pytest.approx(5.586, abs=5e-4) and values.std() == pytest.approx(1.347, abs=5e-4)
    assert table["group"].value_counts().max() == 71
    groups = dict(zip(table["sequence"], table["group"]))
    tested = 0
    for sequence in table["sequence"].sample(300, random_state=0):  # all that differ in one letter are in one group
        for i, letter in itertools.product(range(50), "ACGT"):
            other = groups.get(sequence[:i] + letter + sequence[i + 1:])
            tested += other is not None and sequence[i] != letter
            assert other in (None, groups[sequence])
    assert tested > 50
    few = builtin_sequences("ribosome_load_5utr", shared_data).head(40)
    store = own_store(tmp_path, few, coding_only=False)
    task = builtin_task("ribosome_load_5utr", store.transcripts, shared_data)
    assert len(task) == len(store) == 40 and np.allclose(task.labels, values[:40])


def test_rna_class_of_the_real_regions(shared_data):
    obs = region(shared_data, "human", coding=False)
    task = builtin_task("rna_class", obs)
    assert task.classes == ("non-coding", "protein-coding") and np.bincount(task.labels).tolist() == [257, 911]
    assert task.counts()["ambiguous"] == 4 and obs["transcript_id"].duplicated(keep=False).sum() == 8  # four transcripts lie at two loci each
    with pytest.raises(InputError, match="all 911 matched labels of the table are protein-coding"):
        builtin_task("rna_class", region(shared_data, "human"))
    with pytest.raises(InputError, match="no column cds_start"):
        builtin_task("rna_class", obs.drop(columns="cds_start"))
    with pytest.raises(ConfigError, match="give obs"):
        builtin_table("rna_class")


# ---- simulations

@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    found = simulate(folder / "run" / "simulated", SimulateConfig(n_families=12), progress=False)
    (folder / "run" / "tasks.json").write_text(json.dumps(found.tasks))
    transcripts = found.truth["half_life"]
    genes = found.truth["genes"].drop_duplicates(["species", "gene_id"])
    obs = transcripts[["transcript_id", "species", "gene_id"]].merge(genes[["species", "gene_id"]], how="left")
    obs["gene_name"], obs["gene_id"] = obs["gene_id"], obs["species"] + ":" + obs["gene_id"]
    return found, folder / "run", obs.assign(cds_start=0)


def test_simulated_truths(simulation):
    found, folder, obs = simulation
    with pytest.warns(UserWarning, match="4 of 18 built-in tasks were made"):
        tasks = {task.name: task for task in named_tasks("all", obs, folder)}
    assert list(tasks) == ["simulated_half_life", "simulated_ribosome_load", "simulated_function", "simulated_domains"]
    assert (tasks["simulated_function"].kind, tasks["simulated_domains"].kind) == ("multiclass", "multilabel")
    truth = found.truth["half_life"]
    truth = dict(zip(truth["species"] + "|" + truth["transcript_id"], truth["half_life"]))
    task = tasks["simulated_half_life"]
    assert len(task) == len(truth) and all(label == pytest.approx(truth[unit], abs=1e-5) for unit, label in zip(task.units, task.labels))
    genes = {f"{row.species}:{row.gene_id}": row for row in found.truth["genes"].itertuples()}
    task = tasks["simulated_function"]
    assert [task.classes[code] for code in task.labels] == [genes[unit].function_class for unit in task.units]
    task = tasks["simulated_domains"]
    for unit, has in zip(task.units, task.labels):
        assert {task.classes[i] for i in np.flatnonzero(has)} == set(filter(None, genes[unit].domains.split(";"))) - set(task.left_out)


def test_a_list_of_tasks_names_the_same_labels(simulation):
    found, folder, obs = simulation
    tasks = {task.name: task for task in named_tasks(str(folder / "tasks.json"), obs)}
    assert list(tasks) == ["half_life", "ribosome_load", "function"]
    for name, task in tasks.items():
        builtin = builtin_task(f"simulated_{name}", obs, folder)
        assert task.units.tolist() == builtin.units.tolist() and np.allclose(task.labels, builtin.labels) and task.classes == builtin.classes
    assert [task.name for task in named_tasks(folder / "tasks.json", obs)] == list(tasks)


# ---- small files in the published layouts

GENES = pd.DataFrame({"transcript_id": ["t1", "t2", "t3"], "species": "human", "gene_id": ["human:AAA", "human:BBB", "human:CCC"],
                      "gene_name": ["AAA", "BBB", "CCC"], "cds_start": [0, 0, 0]})
PC1 = "ensembl_gene_id\texternal_gene_name\thuman_PC1\nENSG00000000001\tAAA\t1\nENSG00000000002\tBBB\t2\nENSG00000000003\tZZZ\t3\n"


@pytest.fixture
def small(tmp_path):
    (tmp_path / "all_HLs_human_PC1.txt").write_text(PC1)
    return tmp_path


def test_names(small):
    assert builtin_names() == list(CATALOG) and len(CATALOG) == 18
    assert [task.name for task in named_tasks("half_life_human", GENES, small)] == ["half_life_human"]
    obs = GENES.assign(cds_start=[0, -1, 0])
    for given in ("rna_class,half_life_human", " rna_class , half_life_human,", ["rna_class", "half_life_human"], ("rna_class", "half_life_human", "rna_class")):
        assert [task.name for task in named_tasks(given, obs, small)] == ["rna_class", "half_life_human"]
    assert named_tasks("", obs, small) == [] == named_tasks([], obs, small)
    for given in ("half_life_humam", ["rna_class", "half_life_humam"]):
        with pytest.raises(ConfigError, match="no built-in task 'half_life_humam'. Did you mean 'half_life_human'"):
            named_tasks(given, obs, small)
    with pytest.raises(ConfigError, match="Give it alone"):
        named_tasks("all,rna_class", obs, small)
    with pytest.raises(InputError, match="nowhere.json does not exist"):
        named_tasks("nowhere.json", obs, small)
    with pytest.raises(InputError, match=r"There is no file 'icodon' .*files=\{'icodon': PATH\}, or a folder in which it is called icodon_\*\.tsv"):
        named_tasks("half_life_human,decay_rate", obs, small)


def test_all_when_there_is_nothing(tmp_path):
    with pytest.raises(InputError, match=r"None of the 18 built-in tasks can be made. Without a file: 17 .*\nRefused: 1\.\n- rna_class: "):
        named_tasks("all", GENES, tmp_path)


def test_the_catalogue_names_everything():
    table = builtin_catalogue()
    assert table["name"].tolist() == list(CATALOG) and set(table["kind"]) == {"regression", "binary", "multiclass", "multilabel"}
    for row in table.itertuples():
        real = not row.name.startswith("simulated") and row.name != "rna_class"
        assert bool(row.citation) == real and (row.unit or row.kind != "regression")
        assert set(re.findall(r"\w+", row.files.replace(" or ", " "))) <= set(FILES)
    for builtin in CATALOG.values():
        TaskConfig.from_dict({"name": "x", "value": "value", **builtin.settings})


@pytest.mark.parametrize("name, settings, message", [
    ("half_life_human", {"sampel": "x"}, "Task half_life_human has no setting 'sampel'"),
    ("half_life_human_samples", {"sampel": "x"}, "Did you mean 'sample'"),
    ("go_molecular_function", {"level_below_root": 2}, "Did you mean 'levels_below_root'"),
    ("half_life_huma", {}, "Did you mean 'half_life_human'"),
    ("half_life_human", {"kind": "regresion"}, "Did you mean 'regression'"),
])
def test_unknown_names_and_settings(small, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        builtin_task(name, GENES, small, **settings)


def test_unknown_roles(small):
    with pytest.raises(ConfigError, match="there is no 'saluki_human_pc'. Did you mean 'saluki_human_pc1'"):
        builtin_task("half_life_human", GENES, {"saluki_human_pc": small})
    with pytest.raises(InputError, match="gone.txt does not exist"):
        builtin_task("half_life_human", GENES, {"saluki_human_pc1": small / "gone.txt"})
    with pytest.raises(InputError, match="gone is no folder"):
        builtin_task("half_life_human", GENES, small / "gone")
    (small / "x").mkdir()
    (small / "x" / "saluki_all_HLs_human_PC1.txt.gz").write_bytes(gzip.compress(PC1.encode()))
    with pytest.raises(InputError, match=r"may both be the half-life, first principal component.*Give files=\{'saluki_human_pc1': PATH\}"):
        builtin_task("half_life_human", GENES, small)
    with pytest.raises(InputError, match="may both be"):
        label_files(small)
    assert label_files(small, ["icodon"]) == {}


@pytest.mark.parametrize("role, name", [(role, name) for name, builtin in CATALOG.items() for role in builtin.files])
def test_a_missing_file_says_where_to_put_it(tmp_path, monkeypatch, role, name):
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path / "cache"))
    with pytest.raises(InputError) as caught:
        builtin_table(name, tmp_path)
    assert "Give files" in str(caught.value) or "give files" in str(caught.value)
    first = CATALOG[name].files[0]
    assert f"'{first}'" in str(caught.value) and FILES[first].patterns[0] in str(caught.value)
    if FILES[first].data_set:
        assert f"isoclr data fetch {FILES[first].data_set}" in str(caught.value)


def test_a_file_that_was_fetched_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path / "cache"))
    (tmp_path / "cache/hpa").mkdir(parents=True)
    (tmp_path / "cache/hpa/subcellular_location.tsv").write_text("Gene\tGene name\tEnhanced\tUncertain\nE1\tAAA\tCytosol\t\nE2\tBBB\tNucleus\tCytosol\nE3\tCCC\t\tNucleus\n")
    task = builtin_task("localisation", GENES, min_units=1)
    assert task.units.tolist() == ["human:AAA", "human:BBB"] and task.classes == ("Cytosol", "Nucleus") and task.counts()["missing"] == 1


@pytest.mark.parametrize("text, message", [
    (PC1.replace("AAA", "QQQ").replace("BBB", "RRR"), r"no label of the table can be used \(3 unmatched\)"),
    (PC1.replace("\t2\n", "\t1\n"), r"all 2 matched labels of the table are 1\.0"),
    (PC1.replace("\t1\n", "\tNA\n").replace("\t2\n", "\t\n"), r"can be used \(2 missing, 1 unmatched\)"),
    (PC1.replace("\t2\n", "\tlong\n"), r"'long' in column 'value' is not a finite number"),
    (PC1.replace("human_PC1", "PC1"), r"all_HLs_human_PC1.txt:1: no column 'human_PC1'.*Did you mean 'PC1'|no column 'human_PC1'"),
    ("", r"not a table with a header"),
])
def test_labels_that_cannot_be_used(small, text, message):
    (small / "all_HLs_human_PC1.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        builtin_task("half_life_human", GENES, small)


def test_labels_that_are_missing_are_counted(small):
    (small / "all_HLs_human_PC1.txt").write_text(PC1 + "ENSG00000000004\tCCC\tNA\n")
    task = builtin_task("half_life_human", GENES, small)
    assert task.counts() == {"lines": 4, "matched": 2, "repeated": 0, "unmatched": 1, "ambiguous": 0, "conflicting": 0, "missing": 1, "unlabelled": 1}
    assert task.unlabelled.tolist() == ["human:CCC"]


def test_a_gene_that_two_ids_share_takes_its_symbol_once(small):
    (small / "binnedgenes_human.txt").write_text("BIN\tGENEID\tHALFLIFE\n1\tENSG00000000001\t0.5\n2\tENSG00000000002\t-0.5\n3\tENSG00000000009\t0\n")
    (small / "all_HLs_human_PC1.txt").write_text(PC1 + "ENSG00000000001\tALSO\t9\n")
    table = builtin_table("half_life_human_folds", small)
    assert table["symbol"].tolist() == ["AAA", "BBB", ""]
    task = builtin_task("half_life_human_folds", GENES, small)
    assert task.folds.tolist() == ["1", "2"] and task.labels.tolist() == [0.5, -0.5]
    (small / "all_HLs_human_PC1.txt").unlink()  # without symbols, Ensembl ids alone reach nothing here
    with pytest.raises(InputError, match="3 unmatched"):
        builtin_task("half_life_human_folds", GENES, small)


def test_species_of_another_name(small):
    obs = GENES.assign(species="hs", gene_id="hs:" + GENES["gene_name"])
    with pytest.raises(InputError, match="no transcript is of species 'human'"):
        builtin_task("half_life_human", obs, small)
    assert builtin_task("half_life_human", obs, small, species="hs").units.tolist() == ["hs:AAA", "hs:BBB"]


@pytest.mark.parametrize("role, name, text, message", [
    ("saluki_human_samples", "half_life_human_samples", "ensembl_gene_id\texternal_gene_name\ts\nE1\tA\t1\nE2\tB\tfast\n", r"f.txt:3: 'fast' in column 's'"),
    ("saluki_human_samples", "half_life_human_samples", "gene\ts\nE1\t1\n", r"f.txt:1: no columns ensembl_gene_id"),
    ("icodon", "decay_rate", "gene_id\tspecie\tcell_type\tdatatype\tdecay_rate\tcoding\nE\thuman\tk\tm\tslow\tATG\n", r"f.txt:2: 'slow' in column 'value'"),
    ("icodon", "decay_rate", "gene_id\tspecies\tcell_type\tdatatype\tdecay_rate\tcoding\n", r"f.txt:1: no column 'specie'"),
    ("sample2019", "ribosome_load_5utr", "utr\tmrl\nACGT\t1\n", r"f.txt:1: no column 'rl'"),
    ("hpa", "localisation", "Gene\tGene name\tMain location\n", r"f.txt:1: the table has Gene, Gene name, Main location; wanted are"),
    ("hp5", "ribosome_load_isoforms", "not parquet", r"f.txt is not read as Parquet or NPZ"),
])
def test_files_of_another_layout(tmp_path, role, name, text, message):
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        builtin_table(name, {role: tmp_path / "f.txt"})


def hp5_files(folder, sequences, codons, ends, targets):
    "Isoforms in both published forms."
    marks = {"cds": [np.isin(np.arange(len(s)), at).astype(int).tolist() for s, at in zip(sequences, codons)],
             "splice": [np.isin(np.arange(len(s)), at).astype(int).tolist() for s, at in zip(sequences, ends)]}
    genes = [f"G{i}" for i in range(len(sequences))]
    pd.DataFrame({"gene": genes, "sequence": sequences, **marks, "target": [[value] for value in targets]}).to_parquet(folder / "mrl-sugimoto.parquet")
    tracks = np.zeros((len(sequences), 60, 6), np.int8)
    for i, sequence in enumerate(sequences):
        tracks[i, np.arange(len(sequence)), ["ACGT".index(letter) for letter in sequence]] = 1
        tracks[i, codons[i], 4], tracks[i, ends[i], 5] = 1, 1
    np.savez(folder / "mrl_isoform_resolved.npz", X=tracks, y=np.array(targets)[:, None], genes=genes)


def test_isoforms_with_ribosome_load_in_both_forms(tmp_path):
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in (40, 50, 33)]
    hp5_files(tmp_path, sequences, [range(4, 28, 3), range(10, 40, 3), []], [[12, 39], [49], [5, 20, 32]], [6.5, 3.25, 4.0])
    tables = [builtin_table("ribosome_load_isoforms", {"hp5": tmp_path / name}) for name in ("mrl-sugimoto.parquet", "mrl_isoform_resolved.npz")]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["sequence"].tolist() == sequences and tables[0]["cds_start"].tolist() == [4, 10, ""] and tables[0]["cds_end"].tolist() == [28, 40, ""]
    assert tables[0]["splice_sites"].tolist() == ["12,39", "49", "5,20,32"]
    with pytest.raises(InputError, match="may both be the isoforms"):
        builtin_table("ribosome_load_isoforms", tmp_path)
    store = own_store(tmp_path, builtin_sequences("ribosome_load_isoforms", {"hp5": tmp_path / "mrl-sugimoto.parquet"}), coding_only=False)
    task = builtin_task("ribosome_load_isoforms", store.transcripts, {"hp5": tmp_path / "mrl-sugimoto.parquet"})
    assert task.labels.tolist() == [6.5, 3.25, 4.0]
    with pytest.raises(ConfigError, match="has no sequences of its own.*decay_rate, ribosome_load_5utr, ribosome_load_isoforms"):
        builtin_sequences("half_life_human", tmp_path)


def test_isoform_files_that_are_wrong(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.zeros((1, 4, 6)), y=np.zeros((1, 1)))
    np.savez(tmp_path / "b.npz", X=np.zeros((1, 4, 6)), y=np.zeros((1, 1)), genes=np.array(["A"], dtype=object))
    pd.DataFrame({"gene": ["A"], "sequence": ["ACG"], "cds": [[0, 0, 0]], "target": [1.0]}).to_parquet(tmp_path / "c.parquet")
    pd.DataFrame({"gene": ["A"], "sequence": ["ACG"], "cds": [[0, 0, 0]], "splice": [[0, 0, 1]], "target": [[1.0, 2.0]]}).to_parquet(tmp_path / "d.parquet")
    for name, message in (("a.npz", "should have X, y and genes"), ("b.npz", "is not read as Parquet or NPZ"), ("c.parquet", "no column 'splice'"),
                          ("d.parquet", r"targets of shape \(1, 2\) for 1 transcripts")):
        with pytest.raises(InputError, match=message):
            builtin_table("ribosome_load_isoforms", {"hp5": tmp_path / name})


def test_go_from_gaf_and_its_evidence(tmp_path):
    "GAF is taken before gene sets, and its evidence can be asked for."
    names = {1: "molecular_function", 2: "binding", 3: "RNA binding", 4: "DNA binding"}
    (tmp_path / "go-basic.obo").write_text("".join(
        f"[Term]\nid: GO:{i:07d}\nname: {name}\nnamespace: molecular_function\n" + (f"is_a: GO:{1 if i == 2 else 2:07d}\n" if i > 1 else "") + "\n" for i, name in names.items()))
    line = "U\tP\t{}\tenables\tGO:{:07d}\tPMID:1\t{}\t\tF\t\t\tprotein\ttaxon:9606\t20200101\tU\n"
    (tmp_path / "goa_human.gaf").write_text("!gaf-version: 2.2\n" + "".join(
        line.format(*row) for row in (("AAA", 3, "IDA"), ("BBB", 3, "IDA"), ("BBB", 4, "IEA"), ("CCC", 4, "IDA"), ("ZZZ", 4, "IDA"))))
    (tmp_path / "GO_Molecular_Function_2018.txt").write_text("RNA binding (GO:0000003),QQQ\n")
    options = {"levels_below_root": 2, "min_genes": 1, "min_units": 1}
    task = builtin_task("go_molecular_function", GENES, tmp_path, **options)
    assert task.classes == ("GO:0000003", "GO:0000004") and task.labels.tolist() == [[1, 0], [1, 1], [0, 1]]
    measured = builtin_task("go_molecular_function", GENES, tmp_path, without_evidence=("IEA",), **options)
    assert measured.labels.tolist() == [[1, 0], [1, 0], [0, 1]]
    with pytest.raises(InputError, match="No term of molecular_function is 2 levels below the root and borne by 50 genes"):
        builtin_task("go_molecular_function", GENES, tmp_path, levels_below_root=2)
    (tmp_path / "goa_human.gaf").unlink()
    with pytest.raises(InputError, match=r"no label of the table can be used \(1 unmatched\)"):
        builtin_task("go_molecular_function", GENES, tmp_path, **options)
    (tmp_path / "GO_Molecular_Function_2018.txt").unlink()
    with pytest.raises(InputError, match=r"There is no file 'go_annotations' .*; nor 'go_sets_molecular_function'"):
        builtin_task("go_molecular_function", GENES, tmp_path, **options)


def test_no_folder_means_what_was_fetched(tmp_path, monkeypatch):
    "An empty `files` does not search the folder that one happens to be in."
    (tmp_path / "half_life.tsv").write_text("transcript_id\tspecies\thalf_life\nt\tx\t1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISOCLR_DATA", str(tmp_path / "cache"))
    obs = pd.DataFrame({"transcript_id": ["t"], "species": "x", "gene_id": "x:g", "gene_name": "", "cds_start": [0]})
    with pytest.raises(InputError, match="There is no file 'simulated_half_life'"):
        named_tasks("simulated_half_life", obs, "")
