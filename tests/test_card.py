"""Model cards: the hub can read them, what they say to run runs, and what is not known is said."""
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from isoclr.models.card import model_card
from isoclr.models.encoder import EncoderConfig, SalukiConfig, build_encoder, load_encoder  # noqa: F401, used by the card

TRAINING = {
    "encoder": {"filters": [8]},
    "store": {"content_hash": "0123abcd", "species": {"human": 1176, "mouse": 902}, "transcripts": 2078},
    "pretrain": {"steps": 400, "batch_size": 64},
    "heldout_groups": [f"hg{i}" for i in range(53)],
    "heldout_retrieval": {"trained": {"isoform@1": 0.9712, "homolog@1": 0.7}, "untrained": {"isoform@1": 0.55, "homolog@1": None}},
    "training_seconds": 12.5,
}
PROBES = [
    {"task": "half_life", "metric": "pearson", "mean": 0.512345, "low": 0.44, "high": 0.58, "seeds": 10},
    {"task": "a|b", "metric": "auroc", "mean": 0.8, "low": float("nan"), "high": float("nan"), "seeds": 1, "note": "one split"},
]


@pytest.fixture(scope="module", params=[EncoderConfig(filters=(8,), blocks=(1,), dilations=(1,)), SalukiConfig(filters=8)])
def encoder(request):
    return build_encoder(request.param)


def test_the_hub_reads_the_front_matter(encoder):
    for license in ("unknown", "cc-by-4.0", "other: see 'LICENSE' #1"):
        text = model_card(encoder, TRAINING, PROBES, license)
        data = ModelCard(text).data.to_dict()
        assert (data["library_name"], data["license"]) == ("isoclr", license) and "rna" in data["tags"]
        assert yaml.safe_load(text.split("---\n")[1]) == data


def test_data_training_and_probes_are_said(encoder):
    text = model_card(encoder, TRAINING, PROBES, "cc-by-4.0")
    for said in (
        "content hash: 0123abcd", "human 1,176, mouse 902", "transcripts: 2,078", "held out: 53 (hg0, hg1, hg2, …)", '"steps": 400',
        "training seconds: 12.5", "| trained | 0.9712 | 0.7 |", "| untrained | 0.55 | not known |", "## Limits",
    ):  # fmt: skip
        assert said in text, said
    assert "| half_life | pearson | 0.5123 | 0.44 | 0.58 | 10 | – |" in text
    assert r"| a\|b | auroc | 0.8 | – | – | 1 | one split |" in text
    assert f"{sum(p.numel() for p in encoder.parameters()):,} parameters" in text and f'"family": "{encoder.family}"' in text


def test_what_is_not_known_is_said(encoder):
    text = model_card(encoder)
    assert "Not recorded" in text and "None recorded" in text and 'license: "unknown"' in text
    assert "## Training" not in text and "Not recorded." in model_card(encoder, {})


def test_the_lines_that_load_it_run(encoder, tmp_path):
    encoder.eval().save_pretrained(tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) == 3
    names = {"tracks": torch.rand(2, 6, 400), "lengths": torch.tensor([400, 350])}
    with torch.no_grad():
        exec(code.replace("FOLDER_OR_REPOSITORY", str(tmp_path)), names)
        assert torch.equal(names["vectors"], encoder(names["tracks"], names["lengths"]))
