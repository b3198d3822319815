"""The simulator, checked on the files it writes with code of our own: pyfaidx, line splitting, Biopython. Nothing of isoclr's readers or of the writers' structures is used."""
import gzip
import itertools
import json
import re
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pyfaidx
import pytest
from Bio.Align import PairwiseAligner
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from isoclr.config import ConfigError, InputError
from isoclr.data.evolution import FIXED, FREE, IN_PLACE, TRANSITION_BIAS, base_model, codon_frequencies, codon_model, drift, family_tree
from isoclr.data.placement import ucsc_bin
from isoclr.data.simulate import SimulateConfig, simulate

STOPS = {"TAA", "TAG", "TGA"}
N_FAMILIES = 120  # enough for correlations between homologs; the default of 300 is checked for its size only


def text(path):
    opened = gzip.open(path, "rt") if str(path).endswith(".gz") else open(path)
    with opened as file:
        return file.read()


def read_gene_pred(path):
    "transcript → dict, by splitting lines; CDS from start codon through stop codon on the chromosome."
    header, *lines = text(path).splitlines()
    names = header.lstrip("#").split("\t")
    for line in lines:
        row = dict(zip(names, line.split("\t"), strict=True))
        starts, ends = ([int(x) for x in row[key].split(",")[:-1]] for key in ("exonStarts", "exonEnds"))
        yield row["name"], {
            "gene": row["name2"], "symbol": row["name2"], "chrom": row["chrom"], "strand": row["strand"], "exons": list(zip(starts, ends, strict=True)),
            "cds": (int(row["cdsStart"]), int(row["cdsEnd"])), "row": row,
        }


def read_gtf(path):
    "The same from GTF: coordinates to 0-based half-open, the stop codon joined to the CDS."
    found = {}
    for line in text(path).splitlines():
        if line.startswith("#"):
            continue
        chrom, _, kind, start, end, _, strand, frame, attributes = line.split("\t")
        values = dict(re.findall(r'(\w+) "([^"]*)";', attributes))
        if kind == "gene":
            continue
        entry = found.setdefault(values["transcript_id"], {
            "gene": values["gene_id"], "symbol": values["gene_name"], "chrom": chrom, "strand": strand, "features": defaultdict(list)})
        entry["features"][kind].append((int(start) - 1, int(end), frame))
    for name, entry in found.items():
        features = entry["features"]
        entry["exons"] = sorted(piece[:2] for piece in features["exon"])
        coding = features["CDS"] + features["stop_codon"]
        entry["cds"] = (min(p[0] for p in coding), max(p[1] for p in coding))
        yield name, entry


def splice(genome, entry):
    "Mature transcript and CDS, with pyfaidx: exon by exon, then reverse complement."
    chromosome = genome[entry["chrom"]]
    exons = [chromosome[start:end].seq.upper() for start, end in entry["exons"]]
    position = [p for start, end in entry["exons"] for p in range(start, end)]
    mature = "".join(exons)
    inside = [i for i, p in enumerate(position) if entry["cds"][0] <= p < entry["cds"][1]]
    first, last = inside[0], inside[-1] + 1
    if entry["strand"] == "-":
        mature = str(Seq(mature).reverse_complement())
        first, last = len(mature) - last, len(mature) - first
    introns = [chromosome[left:right].seq.upper() for (_, left), (right, _) in itertools.pairwise(entry["exons"])]
    if entry["strand"] == "-":
        introns = [str(Seq(intron).reverse_complement()) for intron in introns]
    return {**entry, "mature": mature, "cds_in_mature": (first, last), "introns": introns}


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("simulated") / "data", SimulateConfig(n_families=N_FAMILIES), progress=False)


@pytest.fixture(scope="module")
def transcripts(simulation):
    "(species, transcript_id) → spliced transcript, read back from the files."
    found = {}
    for source in simulation.sources:
        reader = read_gtf if source["annotation"].endswith(".gtf") else read_gene_pred
        genome = pyfaidx.Fasta(source["genome"])
        for name, entry in reader(source["annotation"]):
            found[source["species"], name] = splice(genome, entry)
    return found


@pytest.fixture(scope="module")
def families(simulation):
    "(species, symbol) → family, from the homology table and, for genes without homologs, the truth."
    table = simulation.truth["genes"]
    return {(row.species, row.gene_name): row.family for row in table.itertuples()}


def reference_transcripts(transcripts, simulation):
    "One transcript a gene: the reference isoform."
    truth = simulation.truth["transcripts"]
    reference = truth[truth.events == "reference"]
    return {key: transcripts[key] for key in zip(reference.species, reference.transcript_id)}


# ---------------------------------------------------------------- models of evolution against slow oracles

def rate_matrix(codons, frequency, omega):
    "GY94 by its definition, pair by pair; scaled to one neutral substitution per nucleotide."
    def rate(one, other, omega):
        changed = [(a, b) for a, b in zip(one, other) if a != b]
        if len(changed) != 1:
            return 0.0
        transition = set(changed[0]) in ({"A", "G"}, {"C", "T"})
        synonymous = Seq(one).translate() == Seq(other).translate()
        return (TRANSITION_BIAS if transition else 1.0) * (1.0 if synonymous else omega) * frequency[other]

    neutral = sum(frequency[one] * rate(one, other, 1.0) for one in codons for other in codons) / 3
    rates = np.array([[rate(one, other, omega) / neutral for other in codons] for one in codons])
    np.fill_diagonal(rates, -rates.sum(1))
    return rates


@pytest.mark.parametrize("optimality, gc, omega, time", [(0.9, 0.35, 0.06, 0.3), (0.2, 0.6, 0.5, 1.1)])
def test_codon_model_is_the_exponential_of_its_rate_matrix(optimality, gc, omega, time):
    letters = ["".join(bases) for bases in itertools.product("ACGT", repeat=3)]
    codons = [codon for codon in letters if codon not in STOPS]
    frequency = dict(zip(letters, codon_frequencies(optimality, gc)))
    model = codon_model(optimality, gc, omega)
    assert [letters[code] for code in model.codes] == codons
    np.testing.assert_allclose(model.transition(time), expm(rate_matrix(codons, frequency, omega) * time), atol=1e-10)
    rng = np.random.default_rng(0)
    ended = model.evolve(np.full(40_000, letters.index("CTG")), time, rng)  # drawn as often as the probabilities say
    expected = model.transition(time)[codons.index("CTG")]
    seen = np.bincount(ended, minlength=64)[model.codes] / len(ended)
    assert np.abs(seen - expected).max() < 0.01


def test_base_model_is_hky85():
    frequency, time = np.array([0.3, 0.2, 0.2, 0.3]), 0.7
    rates = np.array([[0 if i == j else (TRANSITION_BIAS if (i - j) % 4 == 2 else 1) * frequency[j] for j in range(4)] for i in range(4)])
    np.fill_diagonal(rates, -rates.sum(1))
    rates /= -(frequency @ np.diag(rates))
    np.testing.assert_allclose(base_model(0.4).transition(time), expm(rates * time), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([FREE, FREE, FREE, IN_PLACE, FIXED]), min_size=1, max_size=200), st.floats(0, 2))
def test_drift_keeps_what_is_guarded(seed, guard, time):
    rng, guard = np.random.default_rng(seed), np.array(guard, np.uint8)
    bases, block = rng.integers(0, 4, len(guard)).astype(np.uint8), np.sort(rng.integers(0, 3, len(guard)))
    after, guard_after, block_after = drift(bases, guard, block, time, base_model(0.5), rng)
    assert len(after) == len(guard_after) == len(block_after) and (np.diff(block_after) >= 0).all() and set(after.tolist()) <= {0, 1, 2, 3}
    for kept, kept_after in ((guard > FREE, guard_after > FREE), (guard == FIXED, guard_after == FIXED)):
        assert kept.sum() == kept_after.sum() and (block[kept] == block_after[kept_after]).all() and (guard[kept] == guard_after[kept_after]).all()
    assert (bases[guard == FIXED] == after[guard_after == FIXED]).all()
    text, text_after = ("".join(map(str, g)) for g in (guard, guard_after))
    assert all(run in text_after for run in text.split("0") if run)  # nothing is inserted into what is kept


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_every_gene_of_a_tree_is_as_old_as_the_root(seed, n_species):
    species = tuple("abcde"[:n_species])
    nodes = family_tree(species, np.random.default_rng(seed), divergence=2.0)
    age = [0.0]
    for node in nodes[1:]:
        age.append(age[node.parent] + node.length)
    tips = [i for i, node in enumerate(nodes) if node.species]
    assert tips and np.allclose([age[i] for i in tips], 2 * 0.8) and not {nodes[i].parent for i in range(1, len(nodes))} & set(tips)
    assert nodes == family_tree(species, np.random.default_rng(seed), divergence=2.0)


@given(st.integers(0, 2**29 - 2), st.integers(1, 2**22))
def test_ucsc_bin_is_the_smallest_that_holds_the_interval(start, length):
    end = min(start + length, 2**29)
    sizes = {585: 2**17, 73: 2**20, 9: 2**23, 1: 2**26, 0: 2**29}
    holding = [(size, first + start // size) for first, size in sizes.items() if start // size * size <= start and end <= (start // size + 1) * size]
    assert ucsc_bin(start, end) == min(holding)[1]


# ---------------------------------------------------------------- the biology of single transcripts

def test_every_cds_translates(transcripts):
    for key, transcript in transcripts.items():
        first, last = transcript["cds_in_mature"]
        codons = [transcript["mature"][i : i + 3] for i in range(first, last, 3)]
        assert (last - first) % 3 == 0 and codons[0] == "ATG" and codons[-1] in STOPS and not STOPS & set(codons[:-1]), key


def test_every_intron_is_gt_ag(transcripts):
    introns = [intron for transcript in transcripts.values() for intron in transcript["introns"]]
    assert len(introns) > 1000
    assert {(intron[:2], intron[-2:]) for intron in introns} == {("GT", "AG")} and min(map(len, introns)) >= 30


def test_both_strands_all_exon_counts_and_isoform_counts(transcripts):
    strands = Counter(transcript["strand"] for transcript in transcripts.values())
    assert min(strands.values()) > 0.4 * len(transcripts)
    assert {len(transcript["exons"]) for transcript in transcripts.values()} == set(range(1, 9))
    isoforms = Counter((species, transcript["gene"]) for (species, _), transcript in transcripts.items())
    assert set(isoforms.values()) == set(range(1, 7))


def test_isoforms_of_a_gene_are_distinct_and_share_sequence(transcripts):
    by_gene = defaultdict(list)
    for (species, _), transcript in transcripts.items():
        by_gene[species, transcript["gene"]].append(transcript["mature"])
    shared = []
    for isoforms in by_gene.values():
        assert len(set(isoforms)) == len(isoforms)
        for one, other in itertools.combinations(isoforms, 2):
            pieces = [{text[i : i + 12] for i in range(len(text) - 11)} for text in (one, other)]
            shared.append(len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1]))
    assert min(shared) > 0.2 and 0.6 < np.median(shared) < 0.95


def test_every_kind_of_event_is_seen_on_the_chromosome(transcripts, simulation):
    truth = simulation.truth["transcripts"].set_index(["species", "transcript_id"])
    reference = {key: t for key, t in reference_transcripts(transcripts, simulation).items()}
    by_gene = {(key[0], t["gene"]): t for key, t in reference.items()}
    seen = Counter()
    for key, transcript in transcripts.items():
        event = truth.loc[key, "events"]
        if event == "reference" or ";" in event:
            continue
        usual = by_gene[key[0], transcript["gene"]]
        ours, theirs = set(transcript["exons"]), set(usual["exons"])
        if event.startswith("skipped exon"):
            assert ours < theirs and len(theirs - ours) == 1
            lost = next(end - start for start, end in theirs - ours)
            assert (lost % 3 == 0) == (event == "skipped exon")
        elif event in ("alternative donor", "alternative acceptor"):
            (a, b), (c, d) = (ours - theirs).pop(), (theirs - ours).pop()
            assert len(ours - theirs) == len(theirs - ours) == 1
            assert (b == d, a == c) == ((False, True) if (event == "alternative donor") == (transcript["strand"] == "+") else (True, False))
        else:  # the changed end of the transcript: first for another first exon, last for another polyadenylation site
            at_left = (event == "alternative first exon") == (transcript["strand"] == "+")
            changed = [interval for interval in ours ^ theirs]
            edge = min(usual["exons"])[0] if at_left else max(usual["exons"])[1]
            assert edge in {x for interval in changed for x in interval}
        seen[event] += 1
    assert len(seen) == 6 and sum(seen.values()) > 150, seen


# ---------------------------------------------------------------- file formats

def test_gene_pred_fields_agree(simulation, transcripts):
    for (species, _), transcript in transcripts.items():
        if "row" not in transcript:
            continue
        row, exons = transcript["row"], transcript["exons"]
        assert (int(row["txStart"]), int(row["txEnd"]), int(row["exonCount"])) == (exons[0][0], exons[-1][1], len(exons))
        assert exons == sorted(exons) and row["cdsStartStat"] == row["cdsEndStat"] == "cmpl"
        frames, before = [int(x) for x in row["exonFrames"].split(",")[:-1]], 0
        order = range(len(exons)) if row["strand"] == "+" else reversed(range(len(exons)))
        for i in order:
            coding = sum(transcript["cds"][0] <= p < transcript["cds"][1] for p in range(*exons[i]))
            assert frames[i] == (before % 3 if coding else -1)
            before += coding
        widths = [(17, 585), (20, 73), (23, 9), (26, 1)]
        expected = next(first + (exons[0][0] >> shift) for shift, first in widths if exons[0][0] >> shift == (exons[-1][1] - 1) >> shift)
        assert int(row["bin"]) == expected
    lines = text(simulation.sources[0]["annotation"]).splitlines()[1:]
    places = [(line.split("\t")[2], int(line.split("\t")[4])) for line in lines]
    assert places == sorted(places)  # as the table browser gives it


def test_gtf_features_agree(transcripts):
    checked = 0
    for transcript in transcripts.values():
        if "features" not in transcript:
            continue
        features, checked = transcript["features"], checked + 1
        positions = {kind: {p for start, end, _ in pieces for p in range(start, end)} for kind, pieces in features.items()}
        assert not positions["CDS"] & positions["stop_codon"] and len(positions["stop_codon"]) == len(positions["start_codon"]) == 3
        assert positions["start_codon"] <= positions["CDS"]
        assert positions["CDS"] | positions["stop_codon"] | positions.get("UTR", set()) == positions["exon"]
        assert not (positions["CDS"] | positions["stop_codon"]) & positions.get("UTR", set())
        done = 0  # the phase of GTF: bases until the next codon starts
        for start, end, frame in sorted(features["CDS"], reverse=transcript["strand"] == "-"):
            assert int(frame) == (3 - done % 3) % 3
            done += end - start
    assert checked > 100


def test_genomes_have_gaps_masked_stretches_and_room_between_genes(simulation, transcripts):
    for source in simulation.sources:
        genome = pyfaidx.Fasta(source["genome"])
        assert list(genome.keys()) == ["chr1", "chr2", "chr3"]
        for name in genome.keys():
            letters = Counter(str(genome[name][:]))
            assert set("ACGTacgtN") <= set(letters) <= set("ACGTacgtNn")
            assert 0.05 < sum(letters[x] for x in "acgt") / sum(letters.values()) < 0.3
    raw = open(simulation.sources[1]["genome"], "rb").read(18)
    assert raw[:4] == b"\x1f\x8b\x08\x04" and raw[12:14] == b"BC"  # gzip with bgzip's extra field
    spans = defaultdict(set)
    for (species, _), t in transcripts.items():
        spans[species, t["chrom"], t["gene"]] |= {t["exons"][0][0], t["exons"][-1][1]}
    ordered = sorted((species, chrom, min(ends), max(ends)) for (species, chrom, _), ends in spans.items())
    assert all(a[:2] != b[:2] or a[3] < b[2] for a, b in itertools.pairwise(ordered))  # genes do not overlap


def test_homology_table(simulation, families):
    table = pd.read_csv(simulation.homology, sep="\t")
    assert list(table.columns) == ["hid", "tax_id", "gene_id", "symbol"] and table.tax_id.min() >= 9_000_000 and table.gene_id.is_unique
    assert set(table.tax_id) == set(simulation.taxa.values())
    species = {taxon: name for name, taxon in simulation.taxa.items()}
    named = {(species[row.tax_id], row.symbol): row.hid for row in table.itertuples()}
    sizes = Counter(families.values())
    assert set(named) == {gene for gene, family in families.items() if sizes[family] > 1}
    assert len({(hid, families[gene]) for gene, hid in named.items()}) == len(set(named.values()))  # hid and family are one to one
    assert any(count > 1 for count in Counter((hid, gene[0]) for gene, hid in named.items()).values())  # paralogs share it


# ---------------------------------------------------------------- evolution

def test_homologs_are_as_far_apart_as_they_should_be(transcripts, simulation, families):
    aligner = PairwiseAligner(mode="global", match_score=1, mismatch_score=-1, open_gap_score=-4, extend_gap_score=-1)
    by_family = defaultdict(list)
    for (species, _), transcript in reference_transcripts(transcripts, simulation).items():
        by_family[families[species, transcript["symbol"]]].append((species, transcript))
    identity = defaultdict(list)
    for members in list(by_family.values())[:50]:
        for (species, one), (other_species, other) in itertools.combinations(members, 2):
            for part, cut in (("cds", lambda t: t["mature"][slice(*t["cds_in_mature"])]), ("utr3", lambda t: t["mature"][t["cds_in_mature"][1] :])):
                counts = aligner.align(cut(one), cut(other))[0].counts()
                share = counts.identities / max(len(cut(one)), len(cut(other)))
                identity["paralogs" if species == other_species else "orthologs", part].append(share)
    assert all(0.70 < np.median(identity[kind, "cds"]) < 0.85 for kind in ("orthologs", "paralogs"))
    assert all(0.45 < np.median(identity[kind, "utr3"]) < 0.65 for kind in ("orthologs", "paralogs"))
    assert min(identity["orthologs", "cds"]) > 0.6


def codon_optimality(transcript):
    "The definition in words: begins with A or C and ends in G or C, or begins with G or T and ends in A or T; Met, Trp and stops have no choice."
    first, last = transcript["cds_in_mature"]
    codons = [transcript["mature"][i : i + 3] for i in range(first, last, 3)]
    return np.mean([0 if codon in STOPS | {"ATG", "TGG"} else 1 if (codon[0] in "AC") == (codon[2] in "GC") else -1 for codon in codons])


def overlapping(motif, sequence):
    return len(re.findall(f"(?={motif})", sequence))


def components(transcript):
    "What the labels depend on, measured anew from the spliced sequence."
    first, last = transcript["cds_in_mature"]
    leader, trailer, mature = transcript["mature"][:first], transcript["mature"][last:], transcript["mature"]
    starts = [m.start() for m in re.finditer("(?=ATG)", leader)]
    upstream = sum(any(leader[i : i + 3] in STOPS for i in range(at, len(leader) - 2, 3)) for at in starts)
    context = leader[-6:]
    kozak = sum(weight for weight, fits, base in zip((1, 1, 1, 3, 1, 1), ("G", "C", "C", "AG", "C", "C"), context) if base in fits) / 8
    return {
        "optimality": codon_optimality(transcript), "au_rich_elements": overlapping("ATTTA", trailer),
        "junctions_per_kb": 1000 * len(transcript["introns"]) / len(mature), "upstream_orfs": upstream, "utr5_log_nt": np.log(len(leader)),
        "utr5_gc": sum(base in "GC" for base in leader) / len(leader), "kozak": kozak,
    }


@pytest.fixture(scope="module")
def measured(transcripts):
    return pd.DataFrame([{"species": key[0], "transcript_id": key[1], **components(t)} for key, t in transcripts.items()])


def test_traits_are_inherited(measured, transcripts, simulation, families):
    reference = measured.set_index(["species", "transcript_id"]).loc[list(reference_transcripts(transcripts, simulation))].reset_index()
    reference["family"] = [families[row.species, transcripts[row.species, row.transcript_id]["symbol"]] for row in reference.itertuples()]
    means = reference.groupby(["family", "species"]).mean(numeric_only=True).unstack().dropna()
    correlation = {trait: means[trait].corr().iloc[0, 1] for trait in ("optimality", "au_rich_elements", "junctions_per_kb", "upstream_orfs", "utr5_gc")}
    assert correlation["optimality"] > 0.9 and correlation["junctions_per_kb"] > 0.85
    assert min(correlation.values()) > 0.5, correlation
    assert reference.optimality.std() > 0.3 and reference.au_rich_elements.std() > 1.5 and reference.junctions_per_kb.std() > 1.5


def test_optimality_is_not_base_composition(measured, transcripts):
    rows = []
    for transcript in transcripts.values():
        first, last = transcript["cds_in_mature"]
        cds = transcript["mature"][first:last]
        rows.append([sum(base in "GC" for base in cds) / len(cds), sum(base in "GC" for base in cds[2::3]) / (len(cds) // 3)])
    for composition in np.array(rows).T:
        assert abs(np.corrcoef(composition, measured.optimality)[0, 1]) < 0.4
        assert composition.std() > 0.03


def test_au_rich_elements_stand_beyond_chance(transcripts, measured):
    rng, by_chance = np.random.default_rng(0), []
    for transcript in transcripts.values():
        trailer = list(transcript["mature"][transcript["cds_in_mature"][1] :])
        by_chance.append(overlapping("ATTTA", "".join(rng.permutation(trailer))))
    assert measured.au_rich_elements.mean() > 4 * np.mean(by_chance)


# ---------------------------------------------------------------- planted truth

@pytest.mark.parametrize("label", ["half_life", "ribosome_load"])
def test_planted_components_explain_the_label(simulation, measured, label):
    truth = simulation.truth[label]
    parts = [column for column in truth.columns if column in measured.columns and column not in ("species", "transcript_id")]
    ours = measured.merge(pd.read_csv(simulation.folder / "labels" / f"{label}.tsv", sep="\t"), on=["species", "transcript_id"], validate="1:1")
    assert len(ours) == len(truth) == len(measured)
    again = truth.merge(measured, on=["species", "transcript_id"], suffixes=("", "_measured"))
    for part in parts:  # the truth tables say what stands in the files
        assert np.allclose(again[part], again[part + "_measured"], atol=1e-5), part
    design = np.column_stack([np.ones(len(ours)), *(ours[part] for part in parts)])
    fitted = design @ np.linalg.lstsq(design, ours[label], rcond=None)[0]
    explained = 1 - ((ours[label] - fitted) ** 2).sum() / ((ours[label] - ours[label].mean()) ** 2).sum()
    assert 0.85 < explained < 0.95
    for part in parts:  # each part matters
        fewer = np.delete(design, 1 + parts.index(part), axis=1)
        rest = ours[label] - fewer @ np.linalg.lstsq(fewer, ours[label], rcond=None)[0]
        assert 1 - rest.var() / ours[label].var() < explained - 0.05, part
    assert np.allclose(truth.explained + truth.noise, truth[label], atol=1e-5)


def test_directions_of_the_planted_effects(simulation):
    signs = {"half_life": {"optimality": 1, "au_rich_elements": -1, "junctions_per_kb": 1},
             "ribosome_load": {"upstream_orfs": -1, "utr5_log_nt": -1, "utr5_gc": -1, "kozak": 1}}
    for label, expected in signs.items():
        truth = simulation.truth[label]
        assert {part: np.sign(truth[part].corr(truth[label])) for part in expected} == expected


def test_function_classes_span_families_and_are_shared_by_homologs(simulation):
    labels = pd.read_csv(simulation.folder / "labels" / "function.tsv", sep="\t")
    genes = simulation.truth["genes"].merge(labels, on=["species", "gene_id"], validate="1:1", suffixes=("", "_label"))
    assert list(labels.columns) == ["species", "gene_id", "function_class"] and len(genes) == len(labels) and (genes.function_class == genes.function_class_label).all()
    assert genes.groupby("family").function_class.nunique().max() == 1
    assert genes.function_class.nunique() == 8 and genes.groupby("function_class").family.nunique().min() >= 5
    content = genes.domains.map(lambda names: frozenset(names.split(";")))
    assert pd.crosstab(content.map(sorted).map(";".join), genes.function_class).gt(0).sum(axis=1).max() == 1  # domains determine the class


def test_domains_are_encoded(transcripts, simulation):
    "Proteins that share a domain share peptides, proteins of different domains do not: 4-residue words against a chance level."
    genes = simulation.truth["genes"].set_index(["species", "gene_id"])
    words, family, domains = [], [], []
    for (species, _), t in reference_transcripts(transcripts, simulation).items():
        protein = str(Seq(t["mature"][slice(*t["cds_in_mature"])]).translate(to_stop=True))
        words.append({protein[i : i + 4] for i in range(len(protein) - 3)})
        row = genes.loc[(species, t["gene"])]
        family.append(row.family)
        domains.append(set(row.domains.split(";")))
    shared = {True: [], False: []}
    for i, j in itertools.combinations(range(len(words)), 2):
        if family[i] != family[j]:
            shared[bool(domains[i] & domains[j])].append(len(words[i] & words[j]))
    assert np.mean(shared[True]) > 20 * np.mean(shared[False])


def test_labels_match_the_annotation_and_the_tasks_name_them(simulation, transcripts):
    assert [task["name"] for task in simulation.tasks] == ["half_life", "ribosome_load", "function"]
    for task in simulation.tasks:
        table = pd.read_csv(task["path"], sep="\t")
        assert {task["key"], task["value"], "species"} <= set(table.columns) and table[task["value"]].notna().all() and not task["species"]
        ids = {(s, name) for s, name in transcripts} if task["match"] == "transcript_id" else {(s, t["gene"]) for (s, _), t in transcripts.items()}
        assert set(zip(table.species, table[task["key"]])) == ids and not table.duplicated(["species", task["key"]]).any()


# ---------------------------------------------------------------- the door

def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    config = SimulateConfig(n_families=6, species=("alpha", "beta", "gamma"))
    first, again, other = (simulate(tmp_path / name, c, progress=False) for name, c in (("a", config), ("b", config), ("c", config.replace(seed=1))))
    one, two, three = (content(s.folder) for s in (first, again, other))
    assert one == two and set(one) == set(three)
    same = {name for name in one if one[name] == three[name]}
    assert same == set(), same
    assert one["gamma/gamma.fa"].startswith(b">chr1\n") and b"#bin" in one["gamma/gamma.genePred.tsv"]  # the third species is like the first


def test_a_family_does_not_depend_on_how_many_there_are(tmp_path):
    few, more = (simulate(tmp_path / str(n), SimulateConfig(n_families=n), progress=False).truth["families"] for n in (4, 9))
    assert len(more) == 9 and few.equals(more.iloc[:4])


def test_divergence_stretches_branches(tmp_path):
    kept = []
    for divergence in (0.2, 1.0):
        done = simulate(tmp_path / str(divergence), SimulateConfig(n_families=15, divergence=divergence), progress=False)
        found = {}
        for source in done.sources:
            reader = read_gtf if source["annotation"].endswith(".gtf") else read_gene_pred
            genome = pyfaidx.Fasta(source["genome"])
            found |= {(source["species"], name): splice(genome, entry) for name, entry in reader(source["annotation"])}
        genes = done.truth["genes"].set_index(["species", "gene_id"]).family
        words = defaultdict(dict)
        for (species, _), t in reference_transcripts(found, done).items():
            cds = t["mature"][slice(*t["cds_in_mature"])]
            words[genes[species, t["gene"]]][species] = {cds[i : i + 8] for i in range(len(cds) - 7)}
        kept.append(np.mean([len(w["alpha"] & w["beta"]) / len(w["alpha"] | w["beta"]) for w in words.values() if len(w) == 2]))
    assert kept[0] > 2 * kept[1]


def test_a_folder_is_reused_replaced_on_request_and_never_taken_from_others(tmp_path):
    config = SimulateConfig(n_families=3)
    first = simulate(tmp_path / "data", config, progress=False)
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    assert simulate(tmp_path / "data", config, progress=False).sources == first.sources
    assert (first.folder / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="another simulation"):
        simulate(tmp_path / "data", config.replace(seed=5), progress=False)
    assert simulate(tmp_path / "data", config.replace(seed=5), overwrite=True, progress=False).config.seed == 5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="not a simulation"):
        simulate(tmp_path / "mine", config, overwrite=True, progress=False)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (first.folder / "homology.tsv").unlink()  # a damaged folder is written anew
    assert simulate(tmp_path / "data", config.replace(seed=5), overwrite=True, progress=False).homology.exists()


def test_the_manifest_lists_every_file(simulation):
    manifest = json.loads((simulation.folder / "manifest.json").read_text())
    written = {name for name in content(simulation.folder) if not name.endswith((".fai", ".gzi"))} - {"manifest.json"}
    assert set(manifest["files"]) == written and manifest["config"]["n_families"] == N_FAMILIES


@pytest.mark.parametrize("settings", [{"n_families": 0}, {"species": ()}, {"species": ("a", "a")}, {"species": ("a/b",)}, {"divergence": 0.0}, {"seed": -1}])
def test_settings_that_make_no_data_are_refused(settings):
    with pytest.raises(ConfigError):
        SimulateConfig(**settings)


def test_default_size(tmp_path):
    done = simulate(tmp_path / "default", progress=False)
    table = done.truth["transcripts"]
    assert 1_700 <= len(table) <= 2_400 and done.truth["genes"].family.nunique() == 300
    assert 700 <= table.length_nt.median() <= 1_000 and table.length_nt.between(400, 1_500).mean() > 0.95
