"""Messages of failed runs from public issues get the cause that was written down for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import yaml

from telltune.research.diagnosis.diagnose import diagnose
from telltune.research.diagnosis.rules import load_rules

EXCERPTS = yaml.safe_load(Path(__file__).with_name("public.yaml").read_text(encoding="utf-8"))


def test_there_are_excerpts_of_many_causes_and_sources() -> None:
    assert len({excerpt["source"] for excerpt in EXCERPTS}) == len(EXCERPTS) >= 200
    assert len({excerpt["cause"] for excerpt in EXCERPTS}) >= 18
    assert {excerpt["cause"] for excerpt in EXCERPTS} <= {rule.cause for rule in load_rules()}


def test_nearly_all_are_named() -> None:
    rules = load_rules()
    named = Counter(
        excerpt["round"]
        for excerpt in EXCERPTS
        if diagnose(excerpt["log"].splitlines(), rules=rules).cause == excerpt["cause"]
    )
    # Five excerpts do not tell their cause, or tell another one last.
    assert named == {1: 69, 2: 44, 3: 41, 4: 42}


def test_faults_of_gpus_links_and_nodes_are_restarted_but_not_broken_drivers() -> None:
    restarted = {rule.cause for rule in load_rules() if rule.restart}
    assert {"gpu_failure", "nvlink_failure", "infiniband_failure", "node_failure"} <= restarted
    assert {"evicted", "communication", "storage", "data_loading"} <= restarted
    assert not {"gpu_driver", "gpu_mismatch", "out_of_memory", "disk_full"} & restarted
