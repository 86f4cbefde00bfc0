"""The pictures of a report, each a matplotlib figure: `widths(structure).savefig("widths.png")`."""

from dms_jax.report.curve_pictures import losses, resources
from dms_jax.report.cut_picture import cut
from dms_jax.report.cut_picture import ranked_groups as ranked
from dms_jax.report.example_pictures import examples
from dms_jax.report.mask_pictures import masks
from dms_jax.report.shape_pictures import depth, widths

__all__ = ["cut", "depth", "examples", "losses", "masks", "ranked", "resources", "widths"]
