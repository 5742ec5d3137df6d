"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const dialog = document.getElementById("detail");
const tip = document.getElementById("tip");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// Elements by hand: text is always text, never markup.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

// What is chosen ------------------------------------------------------------------------------

const state = new URLSearchParams(location.hash.slice(1));

function set(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  const text = state.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function chosen(name) {
  return state.get(name) ?? "";
}

function fillForm() {
  const hidden = state.getAll("hide");
  for (const field of form.elements) {
    if (field.name === "hide") field.checked = !hidden.includes(field.value);
    else if (field.type === "radio") field.checked = field.value === (chosen("view") || "grid");
    else if (field.type === "checkbox") field.checked = chosen(field.name) === field.value;
    else if (field.name) field.value = chosen(field.name);
  }
}

function readForm(event) {
  const field = event.target;
  if (field.name === "hide") {
    state.delete("hide");
    for (const box of all("[name=hide]:not(:checked)")) state.append("hide", box.value);
    set("");
  } else if (field.type === "radio") set("view", field.value === "grid" ? "" : field.value);
  else if (field.type === "checkbox") set(field.name, field.checked ? field.value : "");
  else set(field.name, field.value.trim());
  show();
}

// Filter and sort -----------------------------------------------------------------------------

function show() {
  const view = chosen("view") || "grid";
  for (const element of all("[data-view]")) element.hidden = element.dataset.view !== view;
  const shown = view === "grid" ? filterGrids() : filterList();
  const total = all(`[data-view=${view}] tbody .value`).length;
  document.getElementById("none").hidden = shown > 0;
  document.getElementById("count").textContent = `${shown} of ${total} results`;
  for (const group of new Set(all(".list [data-group]").map((cell) => cell.dataset.group))) {
    const off = state.getAll("hide").includes(group);
    for (const cell of all(`.list [data-group="${CSS.escape(group)}"]`)) cell.hidden = off;
  }
  sort(view);
}

function has(words) {
  const text = words.toLowerCase();
  return chosen("q").toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function fits(names) {
  return Object.entries(names).every(([name, value]) => !chosen(name) || chosen(name) === value);
}

function filterList() {
  let count = 0;
  for (const row of all(".list tbody tr")) {
    const { model, bits, label, words } = row.dataset;
    const wanted = chosen("dashes") || !row.classList.contains("dash");
    row.hidden = !(wanted && fits({ model, bits, label }) && has(words));
    count += !row.hidden;
  }
  return count;
}

function filterGrids() {
  let count = 0;
  for (const grid of all("[data-view=grid]")) {
    let within = 0;
    const { model } = grid.dataset;
    for (const cell of all("[data-bits]", grid)) cell.hidden = !fits({ bits: cell.dataset.bits });
    for (const row of all("tbody tr", grid)) {
      const cells = all("td:not([hidden])", row).filter((cell) => cell.firstElementChild);
      const numbers = cells.filter((cell) => !cell.classList.contains("dash"));
      const { label } = row.dataset;
      const words = [label, ...cells.map((cell) => cell.firstElementChild.dataset.tip)].join(" ");
      const some = numbers.length || (chosen("dashes") && cells.length);
      row.hidden = !(some && fits({ label, model }) && has(words));
      within += row.hidden ? 0 : chosen("dashes") ? cells.length : numbers.length;
    }
    grid.hidden = within === 0;
    count += within;
  }
  return count;
}

function sort(view) {
  const [column, down] = [chosen("sort").replace(/^-/, ""), chosen("sort").startsWith("-")];
  for (const table of all(`[data-view=${view}] table`)) {
    const buttons = all("thead button", table);
    const index = buttons.findIndex((button) => button.dataset.sort === column);
    buttons.forEach((button, at) => {
      const order = at !== index ? "none" : down ? "descending" : "ascending";
      button.parentElement.setAttribute("aria-sort", order);
    });
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, at) => ({ row, at: Number((row.dataset.at ??= at)) }));
    const value = ({ row }) => (index < 0 ? "" : row.cells[index].dataset.value);
    rows.sort((a, b) => compare(value(a), value(b), down) || a.at - b.at);
    body.append(...rows.map(({ row }) => row));
  }
}

// What is missing comes last in either order.
function compare(a, b, down) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = !Number.isNaN(Number(a)) && !Number.isNaN(Number(b));
  const order = numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
  return down ? -order : order;
}

function pressed(button) {
  const { sort: name, better } = button.dataset;
  const first = better === "higher" ? `-${name}` : name;
  const second = better === "higher" ? name : `-${name}`;
  set("sort", { [first]: second, [second]: "" }[chosen("sort")] ?? first);
  show();
}

// Arrow keys go from one value of a table to the next that is shown.
function step(event) {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const cell = event.target.closest("tbody .value")?.parentElement;
  if (!cell || !moves[event.key]) return;
  event.preventDefault();
  const [down, right] = moves[event.key];
  const rows = all("tr", cell.closest("tbody")).filter((row) => !row.hidden);
  let at = rows.indexOf(cell.parentElement) + down;
  let across = cell.cellIndex + right;
  for (; rows[at]?.cells[across]; at += down, across += right) {
    const value = rows[at].cells[across].querySelector(".value");
    if (value?.checkVisibility()) return value.focus();
  }
}

// Hover and focus -----------------------------------------------------------------------------

function showTip(target) {
  if (!target?.dataset.tip) return;
  tip.textContent = target.dataset.tip;
  (dialog.open ? dialog : document.body).append(tip);
  tip.hidden = false;
  const place = target.getBoundingClientRect();
  const [width, height] = [tip.offsetWidth, tip.offsetHeight];
  const left = Math.min(Math.max(8, place.left), innerWidth - width - 8);
  const below = place.bottom + 6 + height < innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? place.bottom + 6 : Math.max(8, place.top - height - 6)}px`;
  target.setAttribute("aria-describedby", "tip");
}

function hideTip() {
  tip.hidden = true;
  for (const element of all("[aria-describedby=tip]")) element.removeAttribute("aria-describedby");
}

// One result and its trials -------------------------------------------------------------------

function open(index) {
  const result = data.results[index];
  if (!result) return;
  hideTip();
  document.getElementById("detail-title").textContent = result.title;
  const trials = result.trials.map((key) => ({ key, ...data.trials[key] }));
  const curves = trials.filter((trial) => trial.curves);
  document.getElementById("detail-body").replaceChildren(
    make("p", { id: "about", textContent: result.about }),
    ...(curves.length ? [charts(curves)] : []),
    ...(trials.length ? [make("h3", { textContent: "Trials" })] : []),
    ...trials.map((trial) => trialDetails(trial, trials.length === 1)),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  set("open", result.id);
}

function trialDetails(trial, alone) {
  const words = [`Seed ${trial.seed}`, trial.shown, trial.key].filter(Boolean);
  const pool = (index) => data.shared[index];
  return make("details", { open: alone, className: "trial" },
    make("summary", { textContent: words.join(" · ") }),
    trial.reason ? make("pre", { textContent: trial.reason }) : "",
    section("Results", pairs(trial.metrics), true),
    section("Configuration", pairs(flat(Object.fromEntries(
      Object.entries(trial.config).map(([name, index]) => [name, pool(index)])))), true),
    section("Environment", pairs(pool(trial.environment))),
    section("Audit", audit(pool(trial.audit))),
    section("Log", trial.log ? make("pre", { textContent: trial.log }) : null));
}

function section(title, content, open = false) {
  if (!content) return "";
  return make("details", { open }, make("summary", { textContent: title }), content);
}

function flat(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    return { [prefix]: Array.isArray(value) ? `[${value.join(", ")}]` : value };
  }
  const inner = Object.entries(value);
  return Object.assign({}, ...inner.map(([k, v]) => flat(v, prefix ? `${prefix}.${k}` : k)));
}

function pairs(record) {
  const entries = Object.entries(record ?? {}).filter(([, v]) => v !== null && v !== "");
  if (!entries.length) return null;
  return make("dl", {}, ...entries.map(([name, value]) => make("div", {},
    make("dt", { textContent: name }), make("dd", { textContent: String(value) }))));
}

function audit(counts) {
  if (!counts?.length) return null;
  const row = (tag, words) => make("tr", {},
    ...words.map((word) => make(tag, { textContent: word })));
  const rows = counts.map((count) => row("td", [
    count.layer, count.tensor, `${count.levels} of ${count.promised}`, `per ${count.scope}`,
    count.levels <= count.promised ? "holds" : "broken"]));
  const head = row("th", ["layer", "tensor", "levels found of promised", "counted", "verdict"]);
  return make("div", { className: "scroll" },
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

// Curves --------------------------------------------------------------------------------------

function charts(trials) {
  const names = [...new Set(trials.flatMap((trial) => Object.keys(trial.curves)))];
  const panels = data.panels.filter((panel) => names.includes(panel.hard));
  const seeds = trials.map((trial, at) => make("span", {}, swatch(at, ""), `seed ${trial.seed}`));
  const soft = panels.some((panel) => names.includes(panel.soft));
  const key = make("p", { className: "keys" }, ...seeds,
    soft ? make("span", {}, swatch(0, "soft"), "with the soft quantizers of training") : "");
  return make("div", {}, make("div", { className: "charts" },
    ...panels.map((panel) => chart(panel, trials))), key);
}

function svg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function swatch(at, kind) {
  const line = svg("svg", { class: "key", viewBox: "0 0 22 10", "aria-hidden": "true" });
  line.append(svg("line", { class: `s${at % 5} ${kind}`, x1: 0, x2: 22, y1: 5, y2: 5, "stroke-width": 2 }));
  return line;
}

function chart(panel, trials) {
  const [width, height, left, bottom, top, right] = [400, 220, 46, 34, 24, 10];
  const lines = trials.flatMap(({ curves }, at) => [panel.soft, panel.hard]
    .filter((name) => curves[name])
    .map((name) => ({ at, x: curves.epoch, y: curves[name], soft: name === panel.soft })));
  const xs = lines.flatMap((line) => line.x);
  const ys = lines.flatMap((line) => line.y).filter((y) => y !== null);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const across = ticks(x0, x1, 6).filter((x) => Number.isInteger(x) && x >= x0 && x <= x1);
  const up = ticks(Math.min(...ys), Math.max(...ys), 5);
  const [y0, y1] = [Math.min(up[0], ...ys), Math.max(up.at(-1), ...ys)];
  const place = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
  const rise = (y) => height - bottom - ((y - y0) / (y1 - y0 || 1)) * (height - bottom - top);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${panel.title} by epoch` });
  for (const y of up) {
    picture.append(svg("line", { class: "rule", x1: left, x2: width - right, y1: rise(y), y2: rise(y) }),
      svg("text", { x: left - 6, y: rise(y) + 4, "text-anchor": "end" }, String(y)));
  }
  for (const x of across) picture.append(svg("text", { x: place(x), y: height - bottom + 16, "text-anchor": "middle" }, String(x)));
  picture.append(svg("text", { x: left, y: 13 }, panel.title),
    svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, "epoch"));
  for (const { at, x, y, soft } of lines) {
    let pen = "M";
    const path = x.map((epoch, i) => {
      if (y[i] === null) return ((pen = "M"), "");
      const point = `${pen}${place(epoch).toFixed(1)},${rise(y[i]).toFixed(1)}`;
      pen = "L";
      return point;
    });
    picture.append(svg("path", { class: `s${at % 5}${soft ? " soft" : ""}`, d: path.join("") }));
  }
  return picture;
}

function ticks(low, high, about) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / about;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= rough);
  const first = Math.floor(low / step);
  const last = Math.ceil(high / step);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

// Light and dark ------------------------------------------------------------------------------

const themeButton = document.getElementById("theme");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : prefersDark.matches;
}

function showTheme() {
  themeButton.setAttribute("aria-pressed", isDark());
}

function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  set("theme", document.documentElement.dataset.theme);
  showTheme();
}

// Wire up -------------------------------------------------------------------------------------

form.addEventListener("input", readForm);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", (event) => {
  event.preventDefault();
  for (const name of [...state.keys()]) if (!["view", "theme"].includes(name)) state.delete(name);
  set("");
  fillForm();
  show();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.sort) pressed(button);
  else if (button?.dataset.result) open(button.dataset.result);
  else if (event.target === dialog) dialog.close();
});
for (const type of ["mouseover", "focusin"]) {
  document.addEventListener(type, (event) => {
    hideTip();
    const pointed = type === "mouseover" || event.target.matches(":focus-visible");
    if (pointed) showTip(event.target.closest("[data-tip]"));
  });
}
document.addEventListener("scroll", hideTip, true);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
  step(event);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("results").focus();
});
window.addEventListener("hashchange", () => location.reload()); // another address was entered
document.getElementById("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => set("open", ""));
themeButton.addEventListener("click", toggleTheme);
prefersDark.addEventListener("change", showTheme);

if (chosen("theme")) document.documentElement.dataset.theme = chosen("theme");
showTheme();
fillForm();
show();
open(data.results.findIndex((result) => chosen("open") && result.id === chosen("open")));
