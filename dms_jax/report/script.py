"""The page's one script, a slider through the steps of the search; without it the page shows the end of it."""

SCRIPT = """
(() => {
  const player = document.querySelector(".player");
  if (!player) return;
  const slider = player.querySelector("input"), said = player.querySelector("output");
  const texts = player.dataset.said.split("|"), last = Number(slider.max);
  const numbers = (text) => text.split(" ").map(Number);
  const rows = [...document.querySelectorAll("[data-counts]")].map((row) => {
    const bar = row.querySelector(".bar"), count = row.querySelector(".count");
    const final = [bar.style.getPropertyValue("--kept"), count.textContent];
    return {bar, count, final, size: Number(row.dataset.size), power: row.dataset.scale === "root" ? 0.5 : 1,
            counts: numbers(row.dataset.counts), rest: count.textContent.replace(/^.*? of /, " of ")};
  });
  const blocks = [...document.querySelectorAll("[data-there]")].map((block) => {
    const state = block.querySelector(".state");
    return {block, state, final: block.className, word: state.textContent, there: numbers(block.dataset.there)};
  });
  const show = () => {
    const at = Number(slider.value);
    for (const row of rows) {
      const soft = row.counts[at];
      row.bar.style.setProperty("--kept", at === last ? row.final[0] : (soft / row.size) ** row.power);
      row.count.textContent = at === last ? row.final[1] : soft.toFixed(1) + row.rest;
    }
    for (const {block, state, final, word, there} of blocks) {
      block.className = at === last ? final : "block " + (there[at] < 0.5 ? "removed" : "kept");
      state.textContent = at === last ? word : Math.round(100 * there[at]) + "\u202f% there";
    }
    said.textContent = texts[at];
    slider.setAttribute("aria-valuetext", texts[at]);
  };
  slider.addEventListener("input", show);
  addEventListener("beforeprint", () => { slider.value = last; show(); });
  slider.value = last;  // browsers keep what a form had before
  show();
  player.hidden = false;
})();
"""
