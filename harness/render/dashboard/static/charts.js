// Small charts in SVG, coloured by the style sheet.
"use strict";

(() => {
  const { h, svg } = dashboard.dom;
  const { number, count, interval } = dashboard.text;

  // Tokens per bin of activation, on a logarithmic height: most tokens are near zero, and the few others matter.
  function histogram({ counts, low, high }) {
    const width = 320;
    const height = 92;
    const step = width / counts.length;
    const top = Math.log1p(Math.max(...counts, 1));
    const zero = (width * (0 - low)) / (high - low || 1);
    const bars = counts.map((n, i) => {
      const tall = (height * Math.log1p(n)) / top;
      const from = low + ((high - low) * i) / counts.length;
      const to = low + ((high - low) * (i + 1)) / counts.length;
      return svg(
        "rect",
        {
          class: (from + to) / 2 >= 0 ? "pos" : "neg",
          x: (i * step + 0.5).toFixed(2),
          y: (height - tall).toFixed(2),
          width: (step - 1).toFixed(2),
          height: tall.toFixed(2),
        },
        svg("title", {}, `${number(from)} to ${number(to)}: ${count(n)} tokens`),
      );
    });
    const total = counts.reduce((a, b) => a + b, 0);
    return h(
      "figure",
      { class: "histogram" },
      svg(
        "svg",
        {
          viewBox: `0 0 ${width} ${height + 16}`,
          role: "img",
          "aria-label": `Histogram of ${count(total)} activations from ${number(low)} to ${number(high)}`,
        },
        bars,
        svg("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }),
        low < 0 && svg("line", { class: "axis", x1: zero, x2: zero, y1: 0, y2: height }),
        svg("text", { x: 0, y: height + 12 }, number(low)),
        low < 0 && svg("text", { x: zero, y: height + 12, "text-anchor": "middle" }, "0"),
        svg("text", { x: width, y: height + 12, "text-anchor": "end" }, number(high)),
      ),
      h("figcaption", {}, `activation on ${count(total)} tokens where it is not 0; height: log(1 + tokens)`),
    );
  }

  // Numbers with their intervals, one per line, on one scale from 0. `rows`: name, value, low, high, strong.
  function whiskers(rows, unit) {
    const top = Math.max(...rows.flatMap((r) => [r.value, r.high ?? r.value]), 0) || 1;
    const x = (value) => Math.max(0, Math.min(100, (100 * value) / top));
    const line = (r) =>
      h(
        "tr",
        { class: r.strong ? "strong" : null },
        h("th", { scope: "row" }, r.name),
        h(
          "td",
          { class: "whisker" },
          svg(
            "svg",
            { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
            svg("rect", { class: "track", x: 0, y: 4.6, width: 100, height: 0.8 }),
            r.low !== null &&
              r.high !== null &&
              svg("rect", {
                class: "range",
                x: x(r.low),
                y: 2.5,
                width: Math.max(0.4, x(r.high) - x(r.low)),
                height: 5,
              }),
            svg("rect", { class: "value", x: Math.max(0, x(r.value) - 0.4), y: 0.5, width: 0.8, height: 9 }),
          ),
        ),
        h("td", { class: "num" }, number(r.value)),
        h("td", { class: "num muted" }, interval(r.low, r.high)),
        h("td", { class: "muted" }, r.note ?? ""),
      );
    const table = h(
      "table",
      { class: "whiskers" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["", `0 to ${number(top)} ${unit}`, unit, "95 % interval", ""].map((t) => h("th", { scope: "col" }, t)),
        ),
      ),
      h("tbody", {}, rows.map(line)),
    );
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers in ${unit}` }, table);
  }

  // A layers x projections map; cells are links. `cell(layer, projection)`: {value, href, label} or null.
  function heatmap(layers, projections, cell, caption) {
    const cells = layers.map((layer) => projections.map((p) => cell(layer, p)));
    const top = Math.max(...cells.flat().map((c) => c?.value ?? 0)) || 1;
    const box = (c) => {
      if (!c) return h("td", {});
      const link = h(
        "a",
        { href: c.href, "aria-label": c.label, title: c.label },
        c.value === null ? "–" : number(c.value),
      );
      const share = Math.max(0, (c.value ?? 0) / top);
      link.style.setProperty("--strength", share.toFixed(3));
      if (share > 0.55) link.classList.add("strong");
      return h("td", {}, link);
    };
    return h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      h(
        "table",
        { class: "heatmap" },
        h("caption", {}, caption),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("td", {}),
            projections.map((p) => h("th", { scope: "col" }, p)),
          ),
        ),
        h(
          "tbody",
          {},
          layers.map((layer, i) => h("tr", {}, h("th", { scope: "row" }, `L${layer}`), cells[i].map(box))),
        ),
      ),
    );
  }

  dashboard.charts = { histogram, whiskers, heatmap };
})();
