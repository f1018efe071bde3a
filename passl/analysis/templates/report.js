"use strict";

// Charts: the pointer or the arrow keys choose an epoch, and the legend shows the values there.
for (const figure of document.querySelectorAll(".chart")) {
  const { range, unit, lines } = JSON.parse(figure.querySelector("script").textContent);
  const plot = figure.querySelector(".plot"), cursor = figure.querySelector(".cursor");
  const at = figure.querySelector(".at"), values = figure.querySelectorAll(".legend output");
  const places = [...new Set(lines.flatMap(([xs]) => xs))].sort((a, b) => a - b);
  let place = places.length - 1;

  const nearest = (xs, x) => xs.reduce((best, value, index) => Math.abs(value - x) < Math.abs(xs[best] - x) ? index : best, 0);
  const show = (number) => {
    place = Math.min(Math.max(number, 0), places.length - 1);
    const x = places[place];
    cursor.hidden = false;
    cursor.style.left = `${100 * (x - range[0]) / (range[1] - range[0])}%`;
    at.textContent = Number(x.toFixed(2));
    lines.forEach(([xs, ys], index) => {
      values[index].textContent = `${Number(ys[nearest(xs, x)].toPrecision(4))}${unit}`;
    });
  };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    show(nearest(places, range[0] + (event.clientX - box.left) / box.width * (range[1] - range[0])));
  };
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: places.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}

// Tables: a button in the head of a column sorts by it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent;
      const number = (row) => text(row).trim() === "" ? NaN : Number(text(row));
      // Numbers by value, 1e-5 and -3 included; then texts; then "-", which stands for no value.
      const kind = (row) => Number.isNaN(number(row)) ? (text(row) === "-" ? 2 : 1) : 0;
      const compare = (a, b) => kind(a) === 0 ? number(a) - number(b) : text(a).localeCompare(text(b), undefined, { numeric: true });
      const rows = [...body.rows].sort((a, b) => kind(a) - kind(b) || (ascending ? 1 : -1) * compare(a, b));
      body.replaceChildren(...rows);
    });
  });
}

// A print shows what is folded on the screen.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
