"""What many tests share: the order of the files, where the real data lie, and a reason when they are absent."""
import os
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in its background so, and tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
LONGEST = ("test_tutorials.py", "test_demo.py", "test_notebooks.py", "test_pretrain_faults.py", "test_runs.py", "test_real_data.py", "test_explore_browser.py", "test_docs.py", "test_sweep.py", "test_finetune.py", "test_attribute.py")


def pytest_collection_modifyitems(items) -> None:
    "Long files first: what begins last is short, so that no worker waits for another."
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
