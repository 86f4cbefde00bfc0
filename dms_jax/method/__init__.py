"""The paper, on top of `dms_jax.topk` (Eq. 2 and 3): one search, and what it is made of.

importance.py   Eq. 4: what an element matters, and its moving average
dms.py          Differentiable Model Scaling (DMS): one pruning ratio a group becomes its masks
resources.py    Eq. 5-7 and 10: the resource loss, its target over time, its balance with the task; budgets
search.py       the step that trains weights and ratios together
projection.py   from ratios to a structure within its budget
strategy.py, layout.py, segments.py, schedule.py, limits.py, loss.py, gradients.py, optimizer.py: what these share
"""
