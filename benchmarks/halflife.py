"""Half-life of human and mouse genes from frozen representations: trained encoders beside every baseline, on splits that keep homologous genes together. Prints tables.

    python benchmarks/halflife.py            # real regions at ../shared/data (or $ISOCLR_TEST_DATA): store, pretraining, probes; about ten minutes on two cores
    python benchmarks/halflife.py --write    # into benchmarks/results/halflife.md

The label is PC1 of half-lives over many experiments (Agarwal & Kelley 2022), per gene; a gene's representation is the mean over its transcripts. Ridge regression (and gradient-boosted trees, on the features), ten splits by homology group.
Two tables:
  all families       what every representation reaches when all labelled genes may be tested. The trained encoder has met these sequences in pretraining, without labels.
  held-out families  only genes of families that pretraining has never seen are tested: fewer, with wider intervals, and the only fair comparison of trained with untrained.
Intervals (95 %) are corrected for the overlap of the splits. Differences are paired over the splits; positive: the encoder is ahead.
"""

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pretrain import real_store

from isoclr.data.store import TranscriptStore
from isoclr.pretrain.pretrain import PretrainConfig, pretrain
from isoclr.probe.catalog import builtin_task
from isoclr.probe.intervals import compare, summarise
from isoclr.probe.probe import probe_all, side_by_side
from isoclr.probe.sheet import benchmark_sheet
from isoclr.probe.splits import SplitConfig
from isoclr.probe.tasks import Task

HERE = Path(__file__).parent
