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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from dms_jax.training.pipeline import Finished, Pipeline
from dms_jax.training.results import Quality
from dms_jax.training.runs import Run
from dms_jax.training.sizes import Sizes
from experiments.llama_flags import Config

COMMAND = "python -m experiments.llama_prune"
BUNDLED = "llama_bytes"
TIED = ("layer*/attention/heads", "layer*/attention/queries", "layer*/feed_forward/hidden")


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
