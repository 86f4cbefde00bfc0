"""The style of the page: one column, system type, light, dark and print."""

from dms_jax.report.drawing import COLORS


def stylesheet() -> str:
    """Returns the CSS of a report: the palette's variables for light, dark and print, then the rules."""
    light = " ".join(f"--{name}: {value};" for name, (value, _) in COLORS.items())
    dark = " ".join(f"--{name}: {value};" for name, (_, value) in COLORS.items())
    return _RULES.replace("LIGHT", f"{light} {_LIGHT_PAPER}").replace("DARK", f"{dark} {_DARK_PAPER}")


_LIGHT_PAPER = "--paper: #ffffff; --tint: #f4f6f8; --warn: #fdf3e7;"
_DARK_PAPER = "--paper: #15181c; --tint: #1e2329; --warn: #33261a;"

_RULES = """
:root { color-scheme: light; LIGHT }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; DARK } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 57rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0 0 1rem; font-size: 1.75rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.75rem; font-size: 1.15rem; line-height: 1.3; font-weight: 650; }
h1, h2, p, dd, li { overflow-wrap: anywhere; }
th, td { overflow-wrap: break-word; }
.wide + p { margin-top: 0.5rem; font-size: 0.9rem; }
p { margin: 0 0 0.75rem; max-width: 44rem; }
.summary { font-size: 1.06rem; }
.muted, figcaption, .left-out { color: var(--muted); }
.left-out { font-style: italic; }
.warnings {
  margin: 1.5rem 0; padding: 0.85rem 1.1rem; border-left: 4px solid var(--orange); background: var(--warn);
}
.warnings p { margin: 0; font-weight: 650; }
.warnings ul { margin: 0.25rem 0 0; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 0.9rem; line-height: 1.4; }
th, td {
  padding: 0.5rem 0 0.5rem 1rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top;
}
th:first-child, td:first-child { padding-left: 0; }
tbody th { font-weight: 400; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; border-bottom-color: var(--muted); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.side th, .side td { min-width: 8.5rem; max-width: 16rem; font-variant-numeric: tabular-nums; }
a { color: var(--blue); }
tr.result > * { font-weight: 650; background: var(--tint); }
figure { margin: 0; }
figcaption { margin-top: 0.35rem; max-width: 44rem; font-size: 0.9rem; }
svg { display: block; max-width: 100%; min-width: 40rem; height: auto; overflow: visible; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg image { image-rendering: pixelated; }
.network, .network ol { list-style: none; margin: 0; padding: 0; }
.network { margin-bottom: 0.75rem; font-size: 0.9rem; line-height: 1.45; }
.network.many { columns: 24rem; column-gap: 2.5rem; font-size: 0.82rem; }
.network .name { overflow-wrap: anywhere; }
.network .count, .network .state { color: var(--muted); font-variant-numeric: tabular-nums; }
.group {
  display: grid; grid-template-columns: minmax(0, 11rem) minmax(4rem, 1fr) 8.5rem; gap: 0 0.75rem;
  align-items: center; break-inside: avoid;
}
.many .group { grid-template-columns: minmax(0, 9rem) minmax(3rem, 1fr) 6.5rem; gap: 0 0.5rem; }
.bar {
  display: block; width: var(--full); min-width: 2px; height: 0.72rem;
  outline: 1px solid var(--muted); outline-offset: -1px;
}
.bar span { display: block; width: calc(100% * var(--kept)); height: 100%; background: var(--blue); }
.bars { min-width: 10rem; }
.bars .bar { height: 0.4rem; margin: 0.15rem 0; outline: none; }
.bars .bar + .bar span { background: var(--orange); }
.block {
  margin: 0.3rem 0; padding: 0.1rem 0 0.15rem 0.7rem; border-left: 3px solid var(--blue); break-inside: avoid-column;
}
.block > .name { font-weight: 500; }
.block.removed { border-left: 3px dashed var(--muted); }
.block.removed > .name { color: var(--muted); text-decoration: line-through; }
.block.removed > ol { opacity: 0.55; }
.block.removed .bar { outline-style: dashed; }
.player {
  display: flex; flex-wrap: wrap; align-items: center; gap: 0.25rem 1rem; margin: 0 0 0.75rem; padding: 0.5rem 0.75rem;
  background: var(--tint); font-size: 0.9rem;
}
.player[hidden] { display: none; }
.player label { display: flex; flex: 1 1 20rem; align-items: center; gap: 0.75rem; }
.player input { flex: 1; min-width: 8rem; accent-color: var(--blue); }
.player output { flex: 1 1 20rem; font-variant-numeric: tabular-nums; }
section > figure { margin-top: 1.25rem; }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: 0.35rem 1.5rem; margin: 0; font-size: 0.95rem;
}
dt { color: var(--muted); }
dd { margin: 0; }
code { font: 0.9em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; }
details { margin-top: 1.5rem; }
summary { cursor: pointer; }
summary:focus-visible, input:focus-visible, a:focus-visible, .wide:focus-visible {
  outline: 2px solid var(--blue); outline-offset: 2px;
}
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 2.5rem; }
  .group, .many .group { grid-template-columns: minmax(0, 7rem) minmax(3rem, 1fr) 5.5rem; gap: 0 0.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.6rem; }
}
@page { margin: 16mm 15mm; }
@media print {
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  h2 { margin-top: 2rem; break-after: avoid; }
  svg { min-width: 0; max-height: 240mm; }
  figure, tr, .warnings, dl { break-inside: avoid; }
  .wide { overflow: visible; }
  th, td { padding: 0.35rem 0 0.35rem 0.7rem; }
  details, .player { display: none; }
}
""".strip()
