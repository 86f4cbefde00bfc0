"""Programs inside programs, run again: remat, custom derivatives, loops, choices, shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import linear_call

from dms_jax.errors import MOST_CHARACTERS, TracingError, one_line
from dms_jax.program.derivatives import Closed, jvp_rule, vjp_rules
from dms_jax.program.frames import Frame, Program, Step, describe_call
from dms_jax.program.live import Live
from dms_jax.program.loops import scan_counts, sharded, solve_parts
from dms_jax.program.sizes import Sizes

USE_SCAN = "; use `jax.lax.scan` inside"
LEAVE_ALONE = "; leave the group that it computes with alone (`freeze=`), or use `jax.lax.scan` inside"


class Nested:
    """How an `Evaluator` rebuilds calls around their frames: one method a primitive, named after it."""

    program: Program
    sizes: Sizes
    live: Live
    masks: Any
    rows: Mapping[int, Any]
    row_masks: dict[int, Any]
    frame: Callable[[Frame, Sequence[Any]], list[Any]]
    under: Callable[[Any], Any]
    of: Callable[[Program, Any], Any]
    _changed_inside: Callable[[Step], bool]
    _changed_back: Callable[[Step], bool]
    _removed_inside: Callable[[Step], bool]

    def _some(self, frame: Frame, ins: Sequence[Any]) -> Callable[..., list[Any]]:
        """A function of the operands that are there to the outputs that are there."""
        there = [x is not None for x in ins]

        def run(*given: Any) -> list[Any]:
            rest = iter(given)
            outs = self.frame(frame, [next(rest) if has else None for has in there])
            return [out for out in outs if out is not None]

        return run

    def _spread(self, step: Step, outs: Sequence[Any]) -> list[Any]:
        """Outputs that are there, in their places among all."""
        rest = iter(outs)
        return [next(rest) if has else None for has in self.live.outputs(step.frames[0])]

    def _remat2(self, step: Step, ins: list[Any]) -> list[Any]:
        p = step.eqn.params
        run = jax.checkpoint(self._some(step.frames[0], ins), prevent_cse=p["prevent_cse"], policy=p["policy"])
        return self._spread(step, run(*[x for x in ins if x is not None]))

    _checkpoint = _remat2

    def _custom_jvp_call(self, step: Step, ins: list[Any]) -> list[Any]:
        """With its own derivative, traced on the same axes; by masks inside, with that of what is computed."""
        rule = jvp_rule(step, self.program.ties)
        if self._removed_inside(step) or any(x is None for x in ins):
            return self.frame(step.frames[0], ins)
        masks = self.masks if self._changed_inside(step) else {}

        @jax.custom_jvp
        def run(masks: Any, *arrays: Any) -> tuple[Any, ...]:
            return tuple(self.under(masks).frame(step.frames[0], arrays))

        @run.defjvp
        def derivative(primals: Any, tangents: Any) -> Any:
            (masks, *arrays), (moving, *rest) = primals, tangents
            if isinstance(rule, Closed):
                raise rule.refuse()
            outs, out_tangents = rule.apply(self.of(rule.program, masks), arrays, rest)
            if masks:
                by_masks = jax.jvp(lambda m: tuple(self.under(m).frame(step.frames[0], arrays)), (masks,), (moving,))[1]
                out_tangents = tuple(a + b for a, b in zip(out_tangents, by_masks, strict=True))
            return outs, out_tangents

        return list(run(masks, *ins))

    def _custom_vjp_call(self, step: Step, ins: list[Any]) -> list[Any]:
        """With its own derivative, forward and backward; by masks inside, with that of what is computed."""
        rules = vjp_rules(step, self.program.ties)
        if self._removed_inside(step) or any(x is None for x in ins):
            return self.frame(step.frames[0], ins)
        masks = self.masks if self._changed_inside(step) or self._changed_back(step) else {}

        @jax.custom_vjp
        def run(masks: Any, *arrays: Any) -> tuple[Any, ...]:
            return tuple(self.under(masks).frame(step.frames[0], arrays))

        def forward(masks: Any, *arrays: Any) -> Any:
            if isinstance(rules, Closed):
                raise rules.refuse()
            outs, residuals = rules.ahead(self.of(rules.forward, masks), arrays)
            return outs, (residuals, masks, arrays if masks else ())

        def backward(saved: Any, cotangents: Any) -> Any:
            residuals, masks, arrays = saved
            assert not isinstance(rules, Closed)  # it was refused on the way ahead
            own = rules.cotangents(self.of(rules.backward, masks).run([*residuals, *cotangents]))
            if not masks or not self._changed_inside(step):  # masks act on the way back alone
                return jax.tree.map(jnp.zeros_like, masks), *own
            return self._by_masks(step, masks, arrays, cotangents), *own

        run.defvjp(forward, backward)
        return list(run(masks, *ins))

    def _by_masks(self, step: Step, masks: Any, arrays: Sequence[Any], cotangents: Any) -> Any:
        """The cotangents of masks that act inside: of what is computed, as its own derivative does not know them."""
        try:
            pull = jax.vjp(lambda m: tuple(self.under(m).frame(step.frames[0], arrays)), masks)[1]
            return pull(cotangents)[0]
        except ValueError as error:  # a `while` loop, say
            raise TracingError(
                f"{describe_call(step)} has a derivative of its own, a mask acts inside of it, and by "
                f"that it cannot be differentiated ({one_line(error, MOST_CHARACTERS)}){LEAVE_ALONE}"
            ) from error

    def _scan(self, step: Step, ins: list[Any]) -> list[Any]:
        p = step.eqn.params
        n, c = scan_counts(p)
        consts, init, rows = ins[:n], ins[n : n + c], ins[n + c :]
        (frame,) = step.frames
        gates = self.rows.get(id(step))
        length = self.sizes.size(_rows_axis(step)) if _rows_axis(step) is not None else p["length"]
        live_rows = [x is not None for x in rows]

        def body(carry: Any, xs: Any) -> Any:
            row, gate = xs
            self.row_masks[id(step)] = gate
            given = iter(row)
            outs = self.frame(frame, [*consts, *carry, *(next(given) if has else None for has in live_rows)])
            return tuple(outs[:c]), tuple(out for out in outs[c:] if out is not None)

        xs = (tuple(x for x in rows if x is not None), gates)
        options = {"reverse": p["reverse"], "unroll": p["unroll"]}
        if p.get("_split_transpose"):
            options["_split_transpose"] = True
        carry, stacked = jax.lax.scan(body, tuple(init), xs, length=length, **options)
        rest = iter(stacked)
        wanted = self.live.outputs(frame)[c:]
        return [*carry, *(next(rest) if has else None for has in wanted)]

    def _while(self, step: Step, ins: list[Any]) -> list[Any]:
        p = step.eqn.params
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        stop, body = step.frames

        def goes_on(carry: Any) -> Any:
            return self.frame(stop, [*ins[:n], *carry])[0]

        def following(carry: Any) -> Any:
            new = self.frame(body, [*ins[n:m], *carry])
            if not stop.outs[0].axes:
                return tuple(new)
            still = goes_on(carry)  # of several, which `jax.vmap` runs until the last has ended: others stay
            places = (still.reshape(still.shape + (1,) * (x.ndim - still.ndim)) for x in new)
            return tuple(jnp.where(at, x, old) for at, x, old in zip(places, new, carry, strict=True))

        return list(jax.lax.while_loop(lambda carry: jnp.any(goes_on(carry)), following, tuple(ins[m:])))

    def _cond(self, step: Step, ins: list[Any]) -> list[Any]:
        there = [x is not None for x in ins[1:]]

        def branch(frame: Frame) -> Callable[..., Any]:
            def run(*given: Any) -> Any:
                rest = iter(given)
                return tuple(self.frame(frame, [next(rest) if has else None for has in there]))

            return run

        index = jnp.asarray(ins[0], jnp.int32)
        given = [x for x in ins[1:] if x is not None]
        return list(jax.lax.switch(index, [branch(frame) for frame in step.frames], *given))

    def _custom_linear_solve(self, step: Step, ins: list[Any]) -> list[Any]:
        jaxprs, consts, b = solve_parts(step.eqn.params, ins)
        frames = iter(step.frames)
        runs: dict[str, Any] = {}
        for name in ("solve", "matvec", "transpose_solve"):
            frame = next(frames) if jaxprs[name] is not None else None
            runs[name] = frame and (lambda x, f=frame, held=consts[name]: self.frame(f, [*held, *x]))
        back = runs["transpose_solve"]
        return jax.lax.custom_linear_solve(
            runs["matvec"], b, lambda _, x: runs["solve"](x), back and (lambda _, x: back(x))
        )

    def _linear_call(self, step: Step, ins: list[Any]) -> list[Any]:
        """With the user's own transpose; masks inside are differentiated by as what is computed says."""
        p, (ahead, back) = step.eqn.params, step.frames
        first = p["num_callee_consts"]
        last = first + p["num_res"]
        if self._removed_inside(step) or any(x is None for x in ins):
            return self.frame(ahead, ins)
        if not self._changed_inside(step):

            def linear(held: Any, xs: Any) -> Any:
                return tuple(self.frame(ahead, [*ins[:first], *held, *xs]))

            def transposed(held: Any, xs: Any) -> Any:
                return tuple(self.frame(back, [*held, *xs]))

            return list(linear_call(linear, transposed, tuple(ins[first:last]), tuple(ins[last:])))

        @jax.custom_vjp
        def run(masks: Any, *arrays: Any) -> tuple[Any, ...]:
            return tuple(self.under(masks).frame(ahead, arrays))

        def backward(saved: Any, cotangents: Any) -> Any:
            masks, arrays = saved
            own = self.under(masks).frame(back, [*arrays[first:last], *cotangents])
            return self._by_masks(step, masks, arrays, cotangents), *[None] * last, *own

        run.defvjp(lambda masks, *arrays: (run(masks, *arrays), (masks, arrays)), backward)
        return list(run(self.masks, *ins))

    def _shard_map(self, step: Step, ins: list[Any]) -> list[Any]:
        return list(sharded(step.eqn, lambda *arrays: tuple(self.frame(step.frames[0], arrays)))(*ins))


def _rows_axis(step: Step) -> Any:
    """The axis of the rows of a scan; None where nothing has rows."""
    n, c = scan_counts(step.eqn.params)
    rows = [value.axes[0] for value in (*step.ins[n + c :], *step.outs[c:])]
    return rows[0] if rows else None
