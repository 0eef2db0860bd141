"use strict";
document.documentElement.classList.add("js");

// Search and order of the samples. The address keeps both (`#q=word&sort=0:-1`), so that a view can be shared.
const samples = document.getElementById("samples-list");
if (samples) {
  const list = samples.querySelector(".list");
  const cards = [...list.children].map((card, order) => ({
    card, order,
    text: card.textContent.toLowerCase(),
    changes: card.dataset.changes.split(",").map(Number.parseFloat),
  }));
  const query = samples.querySelector("input");
  const sort = samples.querySelector("select");
  const shown = samples.querySelector("output");

  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { card, text } of cards) {
      card.hidden = !words.every((word) => text.includes(word));
      count += !card.hidden;
    }
    const [column, sign] = (sort ? sort.value : "").split(":").map(Number);
    const key = ({ changes }) => (Number.isNaN(changes[column]) ? Infinity : sign * changes[column]);
    const sorted = sign ? [...cards].sort((a, b) => (key(a) === key(b) ? a.order - b.order : key(a) - key(b))) : cards;
    list.append(...sorted.map(({ card }) => card));
    shown.textContent = `${count} of ${cards.length}`;
  };
  const remember = () => {
    const state = new URLSearchParams();
    if (query.value) state.set("q", query.value);
    if (sort && sort.value) state.set("sort", sort.value);
    history.replaceState(null, "", `#${String(state) || "samples"}`);
  };
  const recall = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!state.has("q") && !state.has("sort")) return apply();
    query.value = state.get("q") || "";
    if (sort) sort.value = state.get("sort") || "";
    apply();
    samples.parentNode.scrollIntoView();
  };
  query.addEventListener("input", () => { apply(); remember(); });
  if (sort) sort.addEventListener("change", () => { apply(); remember(); });
  addEventListener("hashchange", recall);
  recall();
}

// Tooltips of the charts: the browser's own appear late, and never on a touch screen.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll("svg.chart title")) {
  title.parentNode.setAttribute("aria-label", title.textContent);
  title.remove();
}
addEventListener("pointermove", (event) => {
  const mark = event.target.closest && event.target.closest(".hit");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.getAttribute("aria-label");
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 6))}px`;
  tip.style.top = `${event.clientY > height + 20 ? event.clientY - height - 12 : event.clientY + 18}px`;
});
