// Pauses what moves, and draws charts. Every page works without this file.
"use strict";

document.documentElement.classList.add("js");

const paused = (id) => document.querySelector(`input[data-pauses="${id}"]`)?.checked ?? false;

// A part of a page with `data-live` is loaded again every few seconds, unless its box "pause" is checked, the tab is
// hidden, or somebody is selecting text in it.
document.addEventListener("htmx:config:request", (event) => {
  const part = event.target;
  if (!(part instanceof Element) || !part.hasAttribute("data-live")) return;
  const selection = document.getSelection();
  const reading = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  if (paused(part.id) || document.hidden || reading) event.preventDefault();
});

const shapes = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
const colors = (style) => [1, 2, 3, 4, 5, 6].map((n) => style.getPropertyValue(`--curve-${n}`).trim());

function size(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "bytes") return `${(value / 1e6).toFixed(1)} MB`;
  if (unit === "seconds") return value < 1 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(1)} s`;
  return value.toPrecision(3);
}

async function draw(place) {
  const answer = await fetch(place.dataset.src, { headers: { "HX-Request": "true" } });
  if (!answer.ok) return;
  const found = await answer.json();
  if (!found.times.length) return;
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim(), grid = style.getPropertyValue("--line").trim(), hues = colors(style);
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid } };
  const series = found.names.map((name, n) => ({
    label: name, stroke: hues[n % hues.length], width: 2, dash: shapes[Math.floor(n / 2) % shapes.length],
    points: { show: false }, value: (_, value) => size(value, found.unit),
  }));
  const options = {
    width: place.clientWidth, height: 220,
    series: [{}, ...series],
    axes: [axis, { ...axis, size: 70, values: (_, values) => values.map((value) => size(value, found.unit)) }],
    scales: { y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
  };
  place.replaceChildren();
  new uPlot(options, [found.times, ...found.values], place);
}

const charts = [...document.querySelectorAll("[data-src]")];
async function drawAll() {
  for (const place of charts) await draw(place).catch(() => {});
}
if (charts.length) {
  drawAll();
  setInterval(() => { if (!paused("charts") && !document.hidden) drawAll(); }, 10000);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 200); });
}
