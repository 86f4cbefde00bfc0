"""Prune a language model of the Llama family to a budget, with the original as its teacher.

    python -m experiments.llama_prune --model=DIR --data=TEXT --params=0.8

reads a Hugging Face directory (Llama, Mistral, Qwen2, Qwen3), searches key/value heads, query heads, FFN hidden sizes
and layers (with --search-width the residual width as well) under 80 % of its parameters, shrinks it and finetunes it,
distilling from the original all the while, and writes a run directory with `report.html` and the small model in
Hugging Face format (`huggingface/`).

With no --model, a small decoder of bytes is first pretrained on the source of the Python standard library and pruned to
20 % of its MACs; another budget beside that run directory pretrains nothing. Stop it at any time; the same command
goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import dms_jax
from dms_jax import export, models
from dms_jax.adapters import marked
from dms_jax.command_line import parse_job
from dms_jax.conduct import Experiment, conduct, warm_cosine
from dms_jax.data import text
from dms_jax.elements import Searchable
from dms_jax.errors import UserError, exit_on_user_error
from dms_jax.method.schedule import Schedule
from dms_jax.method.search import Search
from dms_jax.pretrained import llama as pretrained
from dms_jax.space import SearchSpace
from dms_jax.training import make_mesh, optimizers, place, processes, shard_batch
from dms_jax.training.distillation import Distillation, taught
from dms_jax.training.job import Job
from dms_jax.training.joint import Lessons
from dms_jax.training.language import bits_per_token, language_loss
from dms_jax.training.pipeline import Finished, Pipeline, Steps
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from dms_jax.training.sizes import Sizes
from experiments import bounds
from experiments.flags import Budgets, Hosts, Searching, default

COMMAND = "python -m experiments.llama_prune"
BUNDLED = "llama_bytes"
TIED = ("layer*/attention/heads", "layer*/attention/queries", "layer*/feed_forward/hidden")


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
        return Steps(before, self.steps, 0 if self.pipeline == "p-" else self.finetune_steps)

    def check(self) -> None:
        """Refuse what no run can be made of, before anything is computed."""
        bounds.check(self)
        self.searching.check()
        _ = self.budgets.family  # which refuses what are no sizes


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    prune(*parse_job(Config, arguments, prog=COMMAND, description=__doc__))


def prune(config: Config, command: str) -> None:
    """Run the job, or what is left of it, and write the small network in Hugging Face format."""
    config.check()
    config.hosts.join()
    if config.batch % len(jax.devices()):
        raise UserError(f"--batch {config.batch} cannot be cut over {len(jax.devices())} devices; take a multiple")
    distillation = Distillation(config.distill, config.temperature) if config.distill else None
    mesh = make_mesh(fsdp=config.fsdp)
    model, variables = _network(config, mesh)
    tokens = text.byte_tokens() if config.model is None else text.huggingface_tokens(config.model, model.vocabulary)
    data = text.load(config.data, tokens, config.length, test=config.test, column=config.column)
    search = _search(config, model, distillation)
    shown = config.model.name if config.model else f"{BUNDLED}, a small decoder,"
    bytes_ = tokens.name == "bytes"

    def evaluate(network: Any, v: Any) -> tuple[float, float]:
        bits = bits_per_token(network, v, _in_batches(data.test, config.test_windows, 4 * config.batch), mesh)
        if bytes_:
            return bits.value, bits.stderr
        return bits.perplexity, math.log(2) * bits.perplexity * bits.stderr

    conduct(
        Experiment(
            directory=config.workdir,
            identity=config.identity,
            command=command,
            subject=f"{shown} on {data.name}",
            data=f"{data.name}: {len(data.train['tokens']):,} training and {len(data.test['tokens']):,} test windows "
            f"of {config.length} tokens, split by document",
            pipeline=config.pipeline,
            seed=config.seed,
            search=search,
            steps=config.phases,
            quality=_quality(evaluate, bytes_),
            phases=lambda run: _phases(config, run, mesh, search, data, variables, distillation),
            latency_batches=(1, config.batch) if config.batch > 1 else (1,),
        )
    )
    _export(config)


def _quality(evaluate: Any, bytes_: bool) -> Quality:
    """Bits of a byte, or the perplexity of a token; each beside the other."""
    if bytes_:
        return Quality("bits per byte", "", evaluate, {"perplexity per byte": lambda bits: 2.0**bits})
    return Quality("perplexity", "", evaluate, {"bits per token": math.log2})


def _network(config: Config, mesh: jax.sharding.Mesh) -> tuple[Any, Any]:
    """The network to prune and its variables, on the devices; new ones for the bundled network."""
    if config.model is None:
        model = models.create(BUNDLED, dtype=config.dtype, remat=config.remat, search_width=config.search_width)
        inputs = jnp.zeros((1, config.length), jnp.int32)
        return model, place(jax.jit(model.init)(jax.random.key(config.seed), inputs), mesh)
    model, variables = pretrained.load(
        config.model,
        dtype=config.dtype,
        param_dtype=jnp.float32,
        place=lambda path, array: place(array, mesh),
        remat=config.remat,
        search_width=config.search_width,
    )
    if model.structure is not None:
        raise UserError(f"{config.model} has layers of different sizes: it was pruned already; give the original")
    return model, variables


def _search(config: Config, model: Searchable, distillation: Distillation | None) -> Search:
    tie = TIED if config.tie == "layers" else ()
    space = SearchSpace.from_model(model, jax.ShapeDtypeStruct((1, config.length), jnp.int32), tie=tie)
    space = space.with_resources(*config.budgets.resources(config.budget))
    return Search(
        space,
        language_loss(model, distillation),
        None if config.pipeline == "p-" else adamw(optax.constant_schedule(config.learning_rate / 2)),
        config.budget,
        Schedule(config.steps),
        **config.searching.options,
    )


def _phases(
    config: Config,
    run: Run,
    mesh: jax.sharding.Mesh,
    search: Search,
    data: text.Split,
    variables: Any,
    distillation: Distillation | None,
) -> Finished:
    key = jax.random.key(config.seed)
    share = (jax.process_index(), jax.process_count())
    draw = text.batches(data.train, config.batch, config.seed, share)
    job = Job(run, language_loss(search.space.model), lambda step: shard_batch(draw(step), mesh), mesh, key)

    def with_teacher(original: Any) -> Job:
        if distillation is None:
            return job
        teacher: Any = search.space.model
        batches = taught(job.batches, lambda v, batch: teacher.apply(v, batch["tokens"][:, :-1]), original)
        return dataclasses.replace(job, loss=search.loss, batches=batches)

    if config.model is None:
        variables = _pretrained(config, job, data, variables)
    pipeline = Pipeline(
        job,
        search,
        dataclasses.replace(config.phases, pretrain=0),
        lambda steps: adamw(warm_cosine(config.learning_rate, steps)),
        model=_description(search.space.model),
        example=data.test["tokens"][:4, :-1].astype(np.int32),
        taught=with_teacher,
        trained=True,
        checked=marked.exact(search.space),
        inference=search.space.forward(),
        sizes=_sizes(config, search),
    )
    return pipeline.run(variables)


def _sizes(config: Config, search: Search) -> Sizes | None:
    """Several sizes, where they are asked for: the original teaches the largest, and the largest the others."""
    sizes, model = config.budgets.family, search.space.model
    if sizes is None or not sizes.together or not config.distill:
        return sizes

    def answers(params: Any, batch: Any, key: jax.Array) -> jax.Array:
        return model.apply(params, batch["tokens"][:, :-1])  # type: ignore[union-attr]

    return dataclasses.replace(sizes, lessons=Lessons.in_batch(answers, search.loss))


def _pretrained(config: Config, job: Job, data: text.Split, variables: Any) -> Any:
    """The bundled decoder, trained in a run directory of its own, which jobs with another budget share."""
    names = ("pretrain_steps", "batch", "length", "learning_rate", "dtype", "seed")
    identity = {"pretrained": BUNDLED, "data": data.name} | {name: config.identity[name] for name in names}
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    kept = config.workdir.parent / "cache" if config.pretrained is None else config.pretrained
    with Run(kept / f"{BUNDLED}-{key}", identity) as run:
        optimizer = adamw(warm_cosine(config.learning_rate, config.pretrain_steps))
        return dataclasses.replace(job, run=run).train(
            "pretrain", job.loss, variables, optimizer, config.pretrain_steps
        )


def _in_batches(windows: dict[str, Any], most: int, size: int) -> list[dict[str, Any]]:
    """At most `most` windows, evenly spread over the test documents, `size` at a time and the rest."""
    tokens = windows["tokens"]
    chosen = text.evenly_spread(len(tokens), most)
    return [{"tokens": tokens[chosen[i : i + size]].astype(np.int32)} for i in range(0, len(chosen), size)]


def _export(config: Config) -> None:
    """Write the small networks as transformers loads them, unless that is done; the first process writes."""
    sizes = config.budgets.family
    for number, size in enumerate([None] if sizes is None else sizes.budgets):
        directory = config.workdir / f"huggingface{f'-{size}' if number else ''}"
        if not processes.on_first((directory / "config.json").exists):
            model, variables = dms_jax.load(config.workdir, host=True, size=size)
            processes.on_first(lambda d=directory, m=model, v=variables: str(export.huggingface(d, m, v, config.model)))
        processes.on_first(lambda directory=directory: print(f"for transformers: {directory}"))


def _description(model: Any) -> dict[str, Any]:
    """What `dms_jax.models.create` makes the network again from."""
    arguments = {
        f.name: getattr(model, f.name)
        for f in dataclasses.fields(model)
        if f.init and f.name not in ("parent", "name", "structure") and getattr(model, f.name) != f.default
    }
    arguments["dtype"] = jnp.dtype(model.dtype).name
    if model.rope_scaling is not None:
        arguments["rope_scaling"] = dict(model.rope_scaling)
    return {"name": "llama", "arguments": arguments}


def adamw(schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW (0.9, 0.95) with weight decay 0.1 on matrices, gradients clipped to norm 1."""
    return optimizers.adamw(schedule, b2=0.95, weight_decay=0.1, clip=1.0)


if __name__ == "__main__":
    exit_on_user_error(main)()
