// Tokens with their activations: coloured by sign (blue above zero, orange below) and strength, as a line, as a document
// and as a strip of positions.
"use strict";

(() => {
  const { h, svg } = dashboard.dom;
  const { visible, number } = dashboard.text;
  const { LEVELS } = dashboard.catalogue;
  const BLOCK = 400; // tokens per block of a long document: blocks that are out of sight are not laid out
  const STRIP = 240; // positions of a strip
  const FAINT = 0.02; // weaker activations stay uncoloured

  // One token. Its level and place are on it for the readout; strength is an alpha, so that themes choose the colours.
  function token(text, level, place, { target = false, uncounted = false } = {}) {
    const strength = Math.min(1, Math.abs(level) / LEVELS);
    const classes = ["t"];
    if (strength >= FAINT) classes.push(level > 0 ? "pos" : "neg");
    if (strength > 0.6) classes.push("strong");
    if (uncounted) classes.push("uncounted");
    const shown = visible(text);
    const element = h(
      target ? "mark" : "span",
      { class: classes.join(" "), "data-level": level, "data-at": place },
      shown,
    );
    if (strength >= FAINT) element.style.setProperty("--strength", (0.1 + 0.9 * strength ** 0.8).toFixed(3));
    if (shown !== text && text.trim() === "") element.classList.add("space");
    return element;
  }

  // A context: what comes before the strongest token, the token, and what follows, so that lines can be aligned on it.
  function context(tokens, levels, target, start) {
    const part = (from, to) =>
      tokens
        .slice(from, to)
        .map((text, k) => token(text, levels[from + k], start + from + k, { target: from + k === target }));
    return [
      h("span", { class: "before" }, h("span", {}, part(0, target))),
      h("span", { class: "at" }, part(target, target + 1)),
      h("span", { class: "after" }, part(target + 1, tokens.length)),
    ];
  }

  // A whole document in blocks; a token that ends a line ends it here too. `segments`: [first token, name].
  function wholeText(tokens, levels, { segments = [], uncounted = new Set(), target = null } = {}) {
    const starts = new Map(segments);
    const blocks = [];
    let block = null;
    tokens.forEach((text, at) => {
      if (starts.has(at)) blocks.push(h("div", { class: "segment" }, starts.get(at)));
      if (block === null || starts.has(at) || block.childElementCount >= BLOCK)
        blocks.push((block = h("div", { class: "block" })));
      block.append(token(text, levels[at] ?? 0, at, { target: at === target, uncounted: uncounted.has(at) }));
      if (/[\n\u2028]$/u.test(text)) block.append("\n");
    });
    return blocks;
  }

  // Give the tokens of a whole text other levels, without building them again.
  function recolour(container, levels) {
    for (const old of container.querySelectorAll(".t")) {
      const at = Number(old.dataset.at);
      const fresh = token("", levels[at] ?? 0, at, { uncounted: old.classList.contains("uncounted") });
      for (const kept of ["space", "chosen", "attributed"])
        if (old.classList.contains(kept)) fresh.classList.add(kept);
      old.className = fresh.className;
      old.dataset.level = fresh.dataset.level;
      old.style.setProperty("--strength", fresh.style.getPropertyValue("--strength") || "0");
    }
  }

  // Where in the document the feature is active: the highest above and the lowest below, per bin of positions.
  function strip(levels, jump) {
    const bins = Math.min(STRIP, levels.length);
    const high = new Array(bins).fill(0);
    const low = new Array(bins).fill(0);
    levels.forEach((level, at) => {
      const bin = Math.floor((at * bins) / levels.length);
      high[bin] = Math.max(high[bin], level);
      low[bin] = Math.min(low[bin], level);
    });
    const signed = low.some((l) => l < 0);
    const middle = signed ? 20 : 39;
    const bar = (values, kind) =>
      svg("path", {
        class: kind,
        d: values
          .map((v, i) =>
            v === 0 ? "" : `M${i + 0.5} ${middle}V${(middle - (v / LEVELS) * (signed ? 19 : 38)).toFixed(1)}`,
          )
          .join(""),
      });
    const places = levels.filter((l) => l !== 0).length;
    return svg(
      "svg",
      {
        class: "strip",
        viewBox: `0 0 ${Math.max(bins, 1)} 40`,
        preserveAspectRatio: "none",
        role: "img",
        "aria-label": `Active on ${places} of ${levels.length} tokens. Click to go to a position.`,
        on: {
          click(event) {
            const box = event.currentTarget.getBoundingClientRect();
            jump(Math.floor(((event.clientX - box.left) / box.width) * levels.length));
          },
        },
      },
      svg("line", { class: "axis", x1: 0, x2: bins, y1: middle, y2: middle }),
      bar(high, "pos"),
      bar(low, "neg"),
    );
  }

  // Places of the activations of at least half the largest, in order of position: what n and p go through.
  function peaks(levels) {
    const top = Math.max(...levels.map(Math.abs), 1);
    return levels.flatMap((level, at) => (Math.abs(level) >= top / 2 ? [at] : []));
  }

  // Under the pointer: a token's activation. One listener serves all tokens of a container.
  function explainOnHover(container, value) {
    const readout = document.getElementById("readout");
    container.addEventListener("pointerover", (event) => {
      const at = event.target.closest?.(".t");
      readout.hidden = !at;
      if (!at) return;
      const level = Number(at.dataset.level);
      readout.textContent = `${at.textContent}  ${number(value(level))}  (${Math.round((100 * level) / LEVELS)} % of the largest)  token ${at.dataset.at}`;
      const box = at.getBoundingClientRect();
      const left = Math.min(box.left, innerWidth - readout.offsetWidth - 8);
      readout.style.setProperty("left", `${Math.max(8, left)}px`);
      readout.style.setProperty("top", `${box.top > 40 ? box.top - readout.offsetHeight - 6 : box.bottom + 6}px`);
    });
    container.addEventListener("pointerleave", () => (readout.hidden = true));
  }

  dashboard.tokens = { context, wholeText, recolour, strip, peaks, explainOnHover };
})();
