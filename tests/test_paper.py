"""The paper's recipe as an experiment: every value named and valid, and the whole of it on tiny parameters."""
import dataclasses
import json

import pytest

from isoclr import runs
from isoclr.config import ConfigError
from isoclr.data.manifest import read_manifest
from isoclr.data.selection import StoreConfig
from isoclr.models.encoder import EncoderConfig, preset
from isoclr.parameters import check_parameters, experiment_notebook, experiment_parameters
from isoclr.pretrain.pretrain import PretrainConfig

PAPER = {
    "species": ["human", "mouse", "rat", "chimpanzee", "cow", "dog", "chicken", "zebrafish", "drosophila", "celegans"],
    "homology": "homologene", "max_length_nt": 12288, "encoder": "less_dilated_medium", "batch_pairs": 768, "mask_share": 0.15, "loss": "dcl",
    "projector_hidden": 2048, "projector_dim": 512, "epochs": 500, "learning_rate": 0.005,
}
SCRIPT = {
    "n_tracks": 6, "kernel_size": 2, "norm": "sync_batch", "pooling": "mean", "dropout": 0.1, "temperature": 0.1, "projector_layers": 2, "optimizer": "adamw",
    "clip_norm": 1.0, "partner": "different", "gene_weight": "log", "mask_members": "both", "schedule": "reciprocal_sqrt", "warmup_epochs": 10, "cooldown_epochs": 50,
}
TINY = {
    "species": [], "homology": "", "build": {"simulate_families": 16}, "encoder": "dilated_extra_tiny", "batch_pairs": 6, "token_budget": 50_000,
    "projector_hidden": 16, "projector_dim": 8, "epochs": 1, "warmup_epochs": 0, "cooldown_epochs": 0, "holdout": 0.4, "accelerator": "cpu",
    "log_every": 2, "checkpoint_every": 4, "monitor_every": 0,
}


@pytest.fixture(scope="module")
def defaults() -> dict:
    return {name: parameter.default for name, parameter in experiment_parameters("paper_isoclr").items()}


def settings_of(kind, values, **changed):
    "The settings of a kind that the notebook names."
    return {field.name: changed.get(field.name, values.get(field.name)) for field in dataclasses.fields(kind) if field.name in {**values, **changed}}


def test_the_defaults_are_those_of_the_paper(defaults):
    assert {name: defaults[name] for name in {**PAPER, **SCRIPT}} == {**PAPER, **SCRIPT}
    assert defaults["weight_decay"] * defaults["learning_rate"] == pytest.approx(1e-6)


def test_where_a_value_is_from_stands_behind_it():
    plain = {"taxa", "build", "accelerator", "train", "run_folder"}
    for name, parameter in experiment_parameters("paper_isoclr").items():
        said = [source for source in ("paper", "script", "ours") if source in parameter.help.replace("DCL paper", "").split("; ")[-1]]
        assert said or name in plain, f"{name}: {parameter.help}"
        assert name not in PAPER or "paper" in said, name
        assert name not in SCRIPT or "script" in said, name


def test_every_setting_is_named_and_valid(defaults):
    share = {name: defaults[f"{name}_epochs"] / defaults["epochs"] for name in ("warmup", "cooldown")}
    pretraining = settings_of(PretrainConfig, defaults, steps=defaults["epochs"], warmup_share=share["warmup"], cooldown_share=share["cooldown"])
    assert set(pretraining) == {field.name for field in dataclasses.fields(PretrainConfig)}, "a setting is not named"
    config = PretrainConfig.from_dict(pretraining)
    assert config.token_budget >= 2 * defaults["max_length_nt"], "the longest pair must fit"
    assert config.rate(9) == pytest.approx(0.005, rel=0.1) and config.rate(499) < 1e-4
    StoreConfig.from_dict(settings_of(StoreConfig, defaults))
    encoder = preset(defaults["encoder"], **settings_of(EncoderConfig, defaults))
    assert (encoder.filters, encoder.blocks, encoder.dilations, encoder.kernel_size) == ((64, 128, 256, 512), (3, 4, 6, 3), (1, 2, 4, 8), 2)
    check_parameters("build", {**{name: defaults[name] for name in ("coding_only", "keep_x", "keep_y", "max_length_nt", "too_long")}, "sources": defaults["species"]})


def test_the_ten_species_are_in_homologene(defaults):
    taxa = {name: read_manifest(name).taxon for name in defaults["species"]}
    assert taxa == {"human": 9606, "mouse": 10090, "rat": 10116, "chimpanzee": 9598, "cow": 9913, "dog": 9615, "chicken": 9031, "zebrafish": 7955, "drosophila": 7227, "celegans": 6239}
    assert read_manifest(defaults["homology"]).kind == "homology"


def test_the_recipe_runs_on_tiny_parameters(tmp_path):
    "From nothing to an encoder; the store is a run of its own, which other settings of the training find built."
    done = runs.run("paper_isoclr", runs_folder=tmp_path, progress=False, **TINY)
    (build,) = (tmp_path / "build").iterdir()
    built, training = runs.Run(build), json.loads((done.path("encoder") / "training.json").read_text())
    assert done.results["steps"] == done.results["batches_an_epoch"] == -(-done.results["genes"] // TINY["batch_pairs"]) == training["step"]
    assert 0 < done.results["genes"] < built.results["genes"], "held-out genes are not visited"
    assert training["pretrain"]["mask_share"] == 0.15 and training["encoder"]["kernel_size"] == 2
    assert training["store"]["content_hash"] == built.results["content_hash"] and done.results["store"] == str(built.path("store").resolve())
    recipe = json.loads(done.path("recipe.json").read_text())
    assert recipe["pretrain"] == training["pretrain"] and recipe["encoder"].items() <= training["encoder"].items()
    assert "seed" not in json.loads((build / "config.json").read_text())["parameters"]


def test_a_wrong_setting_is_an_error_before_anything_is_built(tmp_path):
    cells = [c for c in json.loads(experiment_notebook("paper_isoclr").read_text())["cells"] if c["cell_type"] == "code"]
    checked, built = (next(i for i, cell in enumerate(cells) if text in "".join(cell["source"])) for text in ("config = PretrainConfig(", "run_experiment(\n"))
    assert checked < built
    names = {"run_folder": str(tmp_path)}
    with pytest.raises(ConfigError, match="temperature = 0.0 must be above 0"):
        for cell in cells[: checked + 1]:
            exec("".join(cell["source"]), names)  # noqa: S102
            names |= {"run_folder": str(tmp_path), "temperature": 0.0}
