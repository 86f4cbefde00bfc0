"""A machine on which latency is known, so that no test depends on how busy the real one is."""

import math

import jax
import numpy as np

from dms_jax.budgets import timing


class Device:
    """A machine that knows how long everything takes: by multiply-adds, by what is written, and a little for each.

    Args:
      together: what a whole network takes, as a share of its pieces.
      call: ms that a call takes.
      lanes: products take as long as at the next multiple of this.
    """

    def __init__(self, together=1.0, call=0.0, lanes=1, noise=0.0):
        self.together, self.call, self.lanes, self.noise = together, call, lanes, noise
        self.pieces, self.wholes, self.rng = [], [], np.random.default_rng(0)

    def ms(self, piece):
        return sum(map(self.operation, piece.operations))

    def operation(self, operation):
        eqn = operation.eqn
        sizes = [math.prod(var.aval.shape) for var in eqn.outvars]
        if eqn.primitive.name == "dot_general":
            (a, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(eqn.invars[0].aval.shape[i] for i in a)
            full = [-(-n // self.lanes) * self.lanes for n in (inner, eqn.outvars[0].aval.shape[-1])]
            rows = math.prod(eqn.outvars[0].aval.shape[:-1])
            return 0.002 + 1e-5 * rows * math.prod(full)
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            return 0.002 + 1e-6 * sizes[0] * math.prod(kernel[:-1])
        return 1e-6 * sum(sizes)

    def repeated(self, piece, shapes):
        assert [x.shape for x in shapes] == [x.shape for x in piece.inputs]
        made = jax.eval_shape(piece, *shapes)
        assert [x.shape for x in made] == [piece.shapes[x].shape for x in piece.made]
        self.pieces.append(piece)
        return self.ms(piece)

    def calls(self, piece, shapes, seconds, what):
        self.wholes.append(piece)
        noisy = 1 + self.noise * self.rng.normal()
        ms = (self.call + self.together * self.ms(piece)) * noisy
        return ms, self.noise * ms


def installed(device, patch):
    """What measures, replaced by the machine."""
    patch.setattr(timing, "repeated", device.repeated)
    patch.setattr(timing, "calls", device.calls)
    return device
