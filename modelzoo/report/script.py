"""The script of every report: the values under the pointer, or at the arrow keys, read from the chart's own table.

It builds nodes and sets text, never HTML, so that a series' name cannot become anything but a name.
"""

SCRIPT = """
"use strict";
for (const figure of document.querySelectorAll(".chart")) {
  const plot = figure.querySelector(".plot"), tip = figure.querySelector(".tip");
  const cursor = figure.querySelector(".cursor"), heads = [...figure.querySelectorAll(".data thead th")].slice(1);
  const rows = [...figure.querySelectorAll(".data tbody tr")].map(row => ({
    x: +row.dataset.x, label: row.cells[0].textContent,
    values: [...row.cells].slice(1).map((cell, i) => ({
      y: cell.dataset.y, name: heads[i].textContent, color: heads[i].className, text: cell.textContent,
    })).filter(value => value.y !== undefined),
  }));
  if (!rows.length) continue;
  const xLabel = figure.querySelector(".data thead th").textContent;
  let shown = -1;
  const svg = (name, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    cursor.append(node);
  };
  const line = (tag, parts) => {
    const node = document.createElement("div");
    for (const part of parts) node.append(Object.assign(document.createElement(tag), { textContent: part }));
    tip.append(node);
  };
  const show = index => {
    shown = Math.max(0, Math.min(rows.length - 1, index));
    const row = rows[shown], x = 100 * row.x + "%";
    cursor.replaceChildren();
    tip.replaceChildren();
    svg("line", { x1: x, x2: x, y1: 0, y2: "100%" });
    line("small", [row.label + " " + xLabel]);
    for (const value of row.values) {
      svg("circle", { cx: x, cy: 100 * value.y + "%", r: 5, class: value.color });
      line("span", rows.length && heads.length > 1 ? [value.name, value.text] : [value.text]);
    }
    tip.hidden = false;
    const room = plot.clientWidth - tip.offsetWidth, at = row.x * plot.clientWidth;
    const beside = row.x < 0.5 ? at + 12 : at - tip.offsetWidth - 12;
    tip.style.left = Math.max(Math.min(0, room), Math.min(Math.max(0, room), beside)) + "px";
    plot.setAttribute("aria-valuenow", shown);
    plot.setAttribute("aria-valuetext",
      [row.label + " " + xLabel, ...row.values.map(value => value.name + " " + value.text)].join("; "));
  };
  const hide = () => {
    shown = -1;
    tip.hidden = true;
    cursor.replaceChildren();
  };
  const nearest = event => {
    const box = plot.getBoundingClientRect(), x = (event.clientX - box.left) / box.width;
    let best = 0;
    rows.forEach((row, i) => { if (Math.abs(row.x - x) < Math.abs(rows[best].x - x)) best = i; });
    return best;
  };
  plot.tabIndex = 0;
  for (const [key, value] of Object.entries({
    role: "slider", "aria-label": plot.dataset.title + ": values, by arrow keys", "aria-valuemin": 0,
    "aria-valuemax": rows.length - 1, "aria-valuenow": rows.length - 1,
  })) plot.setAttribute(key, value);
  plot.addEventListener("pointermove", event => show(nearest(event)));
  plot.addEventListener("pointerdown", event => show(nearest(event)));
  plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) hide(); });
  plot.addEventListener("focus", () => { if (shown < 0) show(rows.length - 1); });
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
      Home: -rows.length, End: rows.length }[event.key];
    if (step) { show((shown < 0 ? rows.length - 1 : shown) + step); event.preventDefault(); }
    if (event.key === "Escape") hide();
  });
}
"""
