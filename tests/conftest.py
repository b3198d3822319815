"""Fixtures that many tests share: where the real data lie, and a reason when they are absent."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _shared(folder: str) -> Path:
    data = Path(os.environ.get("ISOCLR_TEST_DATA", ROOT.parent / "shared" / "data"))
    path = data if folder == "data" else data.parent / folder
    if not path.is_dir():
        pytest.skip(f"no real data at {path}: set ISOCLR_TEST_DATA to the folder that holds genome/, annotation/, …")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    "Real human, mouse and yeast data."
    return _shared("data")


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    "Outputs of the published code, beside the data."
    return _shared("reference")
