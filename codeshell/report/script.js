// What the page can do beyond HTML: values under the pointer in charts, sortable tables, opening and closing all pairs.
// Everything can be read without it.
"use strict";

(function () {
  const data = JSON.parse(document.getElementById("chart-data").textContent);
  const format = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

  // The point of a curve nearest to x, by bisection: points ascend in x.
  function nearest(points, x) {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < x) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? points[low] : points[high];
  }

  // Shows the values of all curves at the pointer, or at the point that the arrow keys have reached.
  function interactive(svg) {
    const chart = data[svg.dataset.chart];
    if (!chart) return;
    // The plotting area in the units of the viewBox, and the range of x that it shows.
    const [left, right, top, bottom, low, high] = svg.dataset.frame.split(" ").map(Number);
    const cursor = svg.querySelector(".cursor");
    const box = document.createElement("div");
    box.className = "values";
    box.setAttribute("role", "status");
    box.hidden = true;
    svg.after(box);
    const main = chart.series[0].points;
    let at = null;

    // The cursor stands at a point of the first curve; each other curve names its nearest point and where that is.
    function show(x) {
      at = nearest(main, x)[0];
      const place = left + (at - low) / (high - low) * (right - left);
      cursor.setAttribute("d", `M${place} ${top}V${bottom}`);
      const title = document.createElement("b");
      title.textContent = `${chart.x} ${format.format(at)}`;
      box.replaceChildren(title);
      for (const series of chart.series) {
        const [where, value] = nearest(series.points, at);
        const row = document.createElement("span");
        const key = document.createElement("i");
        key.className = `key c${series.color}`;
        const far = where === at ? "" : ` (at ${format.format(where)})`;
        row.append(key, `${series.label} ${format.format(value)}${far}`);
        box.append(row);
      }
      box.hidden = false;
      // An SVG element has no offsetLeft, so the box is placed relative to the figure around both. It stands on the side
      // of the cursor that has more room.
      const area = svg.getBoundingClientRect(), figure = svg.parentElement.getBoundingClientRect();
      const scale = area.width / svg.viewBox.baseVal.width;
      const room = area.width - box.offsetWidth - 4;
      const beside = place * scale + (place > (left + right) / 2 ? -box.offsetWidth - 12 : 12);
      box.style.left = `${area.left - figure.left + Math.max(4, Math.min(beside, room))}px`;
      box.style.top = `${area.top - figure.top + top * scale + 6}px`;
    }

    function hide() {
      cursor.setAttribute("d", "");
      box.hidden = true;
    }

    // From pixels of the screen to the units of the viewBox, then to a value of x.
    svg.addEventListener("pointermove", (event) => {
      const area = svg.getBoundingClientRect();
      const x = (event.clientX - area.left) / area.width * svg.viewBox.baseVal.width;
      show(low + (x - left) / (right - left) * (high - low));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.tabIndex = 0;
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step) return;
      event.preventDefault();
      const now = at === null ? 0 : main.findIndex((point) => point[0] === at);
      show(main[Math.min(Math.max(now + step, 0), main.length - 1)][0]);
    });
  }

  // A click on the head of a column sorts by it, largest first; a second click turns the order round.
  function sortable(table) {
    const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
    const body = table.tBodies[0];
    [...heads].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const falling = head.getAttribute("aria-sort") !== "descending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        // Cells with a data-value are numbers; the others are compared as text.
        const value = (row) => row.cells[column].dataset.value;
        const compare = (a, b) => value(a) === undefined
          ? b.cells[column].textContent.localeCompare(a.cells[column].textContent, "en")
          : value(b) - value(a);
        body.append(...[...body.rows].sort((a, b) => falling ? compare(a, b) : compare(b, a)));
      });
    });
  }

  // A threshold that the reader moves: what it would drop was counted beforehand, at the slider's steps.
  function threshold(part) {
    const entries = JSON.parse(part.dataset.points);
    const choice = part.querySelector("select"), slider = part.querySelector("input"), answer = part.querySelector(".answer");
    const whole = new Intl.NumberFormat("en");
    function show() {
      const entry = entries[choice.value];
      const [value, documents, bytes] = entry.points[slider.value];
      const side = entry.above ? "above" : "below";
      slider.setAttribute("aria-valuetext", `${format.format(value)}`);
      answer.textContent = `${side} ${format.format(value)}: ${whole.format(documents)} of ` +
        `${whole.format(entry.documents)} documents (${(100 * documents / entry.documents).toFixed(1)} %) and ` +
        `${format.format(bytes / 1e6)} of ${format.format(entry.bytes / 1e6)} MB would go` +
        (entry.limit ? `; the limit of this run is ${entry.limit}` : "");
    }
    // Another language has thresholds of its own: the slider starts at its limit.
    choice.addEventListener("change", () => {
      slider.max = entries[choice.value].points.length - 1;
      slider.value = entries[choice.value].start;
      show();
    });
    slider.addEventListener("input", show);
    part.querySelectorAll(".sliders, .answer").forEach((one) => { one.hidden = false; });
    show();
  }

  document.querySelectorAll("svg.plot").forEach(interactive);
  document.querySelectorAll(".threshold").forEach(threshold);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".tools").forEach((tools) => { tools.hidden = false; });
  for (const [name, open] of [["open", true], ["close", false]]) {
    document.querySelectorAll(`[data-${name}]`).forEach((button) => button.addEventListener("click", () => {
      document.querySelectorAll(`#${button.dataset[name]} details.pair`).forEach((one) => { one.open = open; });
    }));
  }
  // For the tests: all of the above has run.
  document.documentElement.dataset.ready = "yes";
})();
