// Theme, sections, sorting, charts and printing. Vega is the only library.
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const percent = (value, digits = 0) => `${(100 * value).toFixed(digits)}\u00a0%`;
const read = (from) => JSON.parse(from.querySelector('script[type="application/json"]').textContent);
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "rect", "line", "text", "image", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function options(select, names, first) {
  select.append(make("option", { value: "" }, first));
  for (const name of names) select.append(make("option", { value: name }, name));
}

// A gallery shows `step` tiles at a time; `tile(row)` makes one when it is needed.
function gallery(list, more, step, tile) {
  let rows = [], shown = 0;
  const add = () => {
    list.append(...rows.slice(shown, shown + step).map(tile));
    shown = Math.min(rows.length, shown + step);
    more.hidden = shown >= rows.length;
    more.textContent = `show more (${rows.length - shown})`;
  };
  more.addEventListener("click", add);
  return (chosen) => { rows = chosen; shown = 0; list.replaceChildren(); add(); };
}

// The cells of a confusion matrix choose what its gallery shows.
function confusionOf(name, choose) {
  const table = document.querySelector(`[data-confusion="${name}"]`);
  if (!table) return () => {};
  const cells = all("button", table);
  const press = (actual, predicted) => cells.forEach((cell) => cell.setAttribute(
    "aria-pressed", actual !== "" && predicted !== "" && cell.dataset.actual === actual && cell.dataset.predicted === predicted));
  for (const cell of cells) cell.addEventListener("click", () => choose(cell.dataset.actual, cell.dataset.predicted));
  return press;
}

const theme = document.querySelector(".theme");
const nameTheme = () => { theme.querySelector("span").textContent = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; };
theme.addEventListener("click", () => { window.toggleTheme(); nameTheme(); });
nameTheme();

// Tables: a column's head sorts by the number behind the text, or by the text where there is none.
for (const table of all("table.sortable")) {
  const heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column], marked = cell.querySelector("[data-sort]");
        const text = marked?.dataset.sort || cell.textContent.trim();
        const number = Number(text.replaceAll(",", ""));
        return text === "–" || text === "" ? null : Number.isNaN(number) ? text : number;
      };
      const compare = (a, b) => a === null ? 1 : b === null ? -1 : (down ? -1 : 1) *
        (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    });
  });
}

// Charts are drawn when they come near, and all of them as soon as there is time, so that printing has them.
const drawn = new WeakSet();
async function draw(chart) {
  if (drawn.has(chart)) return;
  drawn.add(chart);
  const spec = JSON.parse(chart.nextElementSibling.textContent);
  await vegaEmbed(chart, spec, { mode: "vega", renderer: "svg", actions: false, tooltip: { theme: "custom" } });
}
const charts = all(".chart");
const hidden = (chart) => chart.closest("details:not([open])");
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting && !hidden(entry.target)) draw(entry.target);
}, { rootMargin: "300px" });
charts.forEach((chart) => near.observe(chart));
const whenIdle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
const drawNext = () => { const next = charts.find((chart) => !drawn.has(chart) && !hidden(chart)); if (next) draw(next).then(() => whenIdle(drawNext)); };
addEventListener("load", () => whenIdle(drawNext));

// Mark the section on the screen in the list of sections.
const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const reader = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    links.forEach((link, id) => link.toggleAttribute("aria-current", id === entry.target.getAttribute("aria-labelledby")));
    const link = links.get(entry.target.getAttribute("aria-labelledby")), bar = link?.closest("ul");
    if (bar) bar.scrollLeft = link.offsetLeft - bar.clientWidth / 2;
  }
}, { rootMargin: "-20% 0px -75% 0px" });
all("main section").forEach((section) => reader.observe(section));

// Parameters: a search opens the list and hides what does not fit.
const search = document.querySelector("[data-search]");
search?.addEventListener("input", () => {
  const details = document.querySelector("[data-searched]"), words = search.value.toLowerCase();
  details.open = true;
  for (const row of all("tbody tr", details)) row.hidden = !row.textContent.toLowerCase().includes(words);
});

// On paper closed tables are opened, except the long list of parameters.
addEventListener("beforeprint", () => all("details:not([open]):not([data-searched]):has(table)").forEach((one) => { one.dataset.closed = ""; one.open = true; }));
addEventListener("afterprint", () => all("[data-closed]").forEach((one) => { one.open = false; delete one.dataset.closed; }));

for (const slide of all(".slide")) slide.querySelector("input").addEventListener("input", (event) => slide.style.setProperty("--at", `${event.target.value}%`));
