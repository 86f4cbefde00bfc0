"""Flags of `llama_prune`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dms_jax.training.plan import Steps
from experiments import bounds
from experiments.flags import Budgets, Hosts, Searching, default


@dataclass(frozen=True)
class Config:
    """Prune a language model of the Llama family to a budget."""

    model: Path | None = None
    """Hugging Face directory: config.json and safetensors. None: a small decoder of bytes, pretrained first."""
    data: Path | None = None
    """Text: a file, a directory, .parquet or .jsonl. None: the source of the Python standard library."""
    test: Path | None = None
    """Evaluation text. None: one document in ten of --data, by name."""
    column: str = "text"
    """Text column of parquet and jsonl files."""
    pipeline: Literal["p", "p-"] = "p"
    """p: search, then finetune. p-: search the structure alone, weights as they are."""
    tie: Literal["none", "layers"] = "none"
    """layers: the same heads and hidden size in every layer, whole layers removed: an ordinary smaller model."""
    search_width: bool = False
    """Also search the width of the residual stream; it pays at small budgets."""
    pretrain_steps: int = 600
    """Pretraining steps of the bundled decoder."""
    steps: int = 150
    """Search steps."""
    finetune_steps: int = 350
    """Finetuning steps of the small network (pipeline p)."""
    batch: int = 8
    """Global batch size, in windows."""
    length: int = 128
    """Window length, in tokens."""
    learning_rate: float = 2e-3
    """Peak of AdamW's cosine schedule; the search runs at a constant half of it. About 1e-5 for a large model."""
    distill: float = 0.5
    """Weight of the distillation loss, in [0, 1]; 0 disables the teacher."""
    temperature: float = 1.0
    """Distillation temperature."""
    test_windows: int = 512
    """Maximum number of evaluation windows, evenly spread over the test documents."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype; parameters stay float32."""
    remat: bool = False
    """Rematerialize every layer in the backward pass, for large models."""
    fsdp: int = 1
    """FSDP sharding degree."""
    seed: int = 0
    """Random seed."""
    workdir: Path = Path("runs/llama")
    """Run directory; an unfinished run of the same job resumes."""
    pretrained: Annotated[Path | None, default("cache, beside the workdir")] = None
    """Directory of the pretrained bundled decoder, shared by runs with other budgets."""
    budgets: tyro.conf.OmitArgPrefixes[Budgets] = field(default_factory=Budgets)
    searching: tyro.conf.OmitArgPrefixes[Searching] = field(default_factory=Searching)
    hosts: tyro.conf.OmitArgPrefixes[Hosts] = field(default_factory=Hosts)

    @property
    def budget(self) -> dict[str, float | str]:
        """The budgets asked for; else 0.8 of the parameters with --model, 0.2 of the MACs of the bundled decoder."""
        return self.budgets.amounts or ({"macs": 0.2} if self.model is None else {"params": 0.8})

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the job the one it is, defaults filled in."""
        # where and how it is computed is no part of it
        idle = ("workdir", "pretrained", "fsdp", "remat", "hosts", "budgets", "searching")
        given = {name: value for name, value in dataclasses.asdict(self).items() if name not in idle}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        asked = self.budgets.identity(self.budget)
        return {"experiment": "llama_prune", **plain, **self.searching.identity, **asked}

    @property
    def phases(self) -> Steps:
        """The steps of every phase."""
        before = self.pretrain_steps if self.model is None else 0
        after = 0 if self.pipeline == "p-" else self.finetune_steps
        return Steps(before, self.steps, after, trial=self.searching.block_trial)

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        bounds.check(self)
        self.searching.check(self.budgets)
        _ = self.phases  # which refuses a trial without a finetuning
