"use strict";
document.documentElement.classList.add("js");

// Lists that can be searched, sorted and, where they have a slider, narrowed to a step, and where there are several, to
// a run. The address keeps what is chosen (`#q=word&sort=0:-1`, of the rollouts `#rollouts-q=word&rollouts-step=40`), so
// that a view can be shared.
const makeList = (root, prefix) => {
  if (!root) return;
  const list = root.querySelector(".list");
  const query = root.querySelector("input[type=search]");
  const sort = root.querySelector("select.order");
  const run = root.querySelector("select.run");
  const slider = root.querySelector("input[type=range]");
  const everything = root.querySelector("input[type=checkbox]");
  const shown = root.querySelector("output.shown");
  let steps = slider ? slider.dataset.steps.split(",") : [];
  const names = ["q", "sort", "step", "run"].map((name) => prefix + name);
  const valuesOf = (element) => element.dataset.values.split(",").map(Number.parseFloat);
  const cards = [...list.children].map((card, order) => {
    // The completions of a prompt are sorted within its card, and the card by the one that stands first.
    const parts = [...card.querySelectorAll("[data-values]")].map((part, place) => ({ part, order: place, values: valuesOf(part) }));
    const values = parts.length ? null : valuesOf(card);
    return { card, order, parts, values, text: card.textContent.toLowerCase(), step: card.dataset.step, from: card.dataset.run };
  });

  const apply = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const step = slider && !everything.checked ? steps[slider.value] : null;
    let count = 0;
    const candidates = run ? cards.filter(({ from }) => from === run.value) : cards;
    for (const { card } of cards) card.hidden = true;
    for (const { card, text, step: own } of candidates) {
      card.hidden = !(step === null || own === step) || !words.every((word) => text.includes(word));
      count += !card.hidden;
    }
    const [column, sign] = (sort ? sort.value : "").split(":").map(Number);
    const rank = (values) => (Number.isNaN(values[column]) ? Infinity : sign * values[column]);
    const key = ({ values, parts }) => (values ? rank(values) : Math.min(...parts.map((part) => rank(part.values))));
    const sorted = (items) => (sign ? [...items].sort((a, b) => (key(a) === key(b) ? a.order - b.order : key(a) - key(b))) : items);
    for (const { parts } of cards) if (parts.length > 1) parts[0].part.parentNode.append(...sorted(parts.map((part) => ({ ...part, parts: [] }))).map(({ part }) => part));
    list.append(...sorted(cards).map(({ card }) => card));
    shown.textContent = `${count} of ${candidates.length}`;
    if (slider) slider.parentNode.querySelector("output").textContent = everything.checked ? "all" : steps[slider.value];
  };
  const changeRun = () => {
    steps = run.selectedOptions[0].dataset.steps.split(",");
    slider.max = steps.length - 1;
    slider.value = slider.max;
  };
  const remember = () => {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    const chosen = [query.value, sort ? sort.value : "", slider ? (everything.checked ? "all" : steps[slider.value]) : "", run ? run.value : ""];
    names.forEach((name, index) => (chosen[index] ? state.set(name, chosen[index]) : state.delete(name)));
    history.replaceState(null, "", `#${String(state) || root.parentNode.id}`);
  };
  const recall = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    if (!names.some((name) => state.has(name))) return apply();
    query.value = state.get(names[0]) || "";
    if (sort) sort.value = state.get(names[1]) || "";
    const chosen = run ? [...run.options].find(({ value }) => value === state.get(names[3])) : null;
    if (chosen) {
      run.value = chosen.value;
      changeRun();
    }
    if (slider) {
      everything.checked = state.get(names[2]) === "all";
      if (steps.includes(state.get(names[2]))) slider.value = steps.indexOf(state.get(names[2]));
    }
    apply();
    root.parentNode.scrollIntoView();
  };
  const update = () => { apply(); remember(); };
  query.addEventListener("input", () => { if (everything && query.value) everything.checked = true; update(); });
  if (sort) sort.addEventListener("change", update);
  if (run) run.addEventListener("change", () => { changeRun(); update(); });
  if (slider) slider.addEventListener("input", () => { everything.checked = false; update(); });
  if (everything) everything.addEventListener("change", update);
  addEventListener("hashchange", recall);
  recall();
};
makeList(document.getElementById("samples-list"), "");
makeList(document.getElementById("rollouts-list"), "rollouts-");

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
