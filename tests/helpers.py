"""What tests share: tolerances, each with its reason. Masks, ranks and counts are compared exactly."""

FLOAT32_ROUNDING = 1e-6
"""A few float32 operations on values near 1 (unit in the last place 1.2e-7)."""

FLOAT32_LOGITS = 1e-4
"""Logits of a whole network computed twice: sums over thousands of terms taken in another order."""

FLOAT32_GRADIENTS = 1e-5
"""Gradients of one loss by two programs, relative to the largest: they differ by the order of sums alone."""

FINITE_DIFFERENCES = 1e-2
"""Central differences in float32: half the digits are lost to cancellation, more to the step."""

BFLOAT16_ROUNDING = 4e-3
"""One rounding to bfloat16 of a value below 1 (half a unit in the last place is 2e-3)."""
