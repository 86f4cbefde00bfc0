"""Benchmarks: `python -m experiments.benchmarks.<name>` fills what is missing, and writes its page and its headline.

| to read | holds |
|---|---|
| `RESULTS.md`, `results/NAME.md` | the tables to read first; a page a benchmark |
| `results/TASK.jsonl` | a row a finished cell; `store` reads and appends, `sharing` keeps processes apart |
| `tasks`, `text_task`, `digits_task`, `boxes_task` | data, pretrained supernets; `networks` of the zoo |
| `settings`, `finding`, `protocol` | what a method does, how it finds a structure, what becomes of that; a contest |
| `methods`, `baselines`, `tuning` | what is compared; rules without a search; choosing rates, lengths and depths |
| `tables`, `sections`, `pictures` | means and errors, tables, pages |
| `exhaustive` | a space of which every structure is trained; `searchers` look into it |

A benchmark of the common kind is a list of rows: `digits` and `width` are the shortest to start from.
"""
