// How far two models' next-token distributions are apart after each token: chosen like a feature, by these names.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { number, count, percent } = dashboard.text;
  const { LEVELS } = dashboard.catalogue;
  const NAMES = { adapter: "KL of adapter and base", full: "KL of full fine-tune and base" };

  const load = (kept) => (kept.divergence ? dashboard.data.load(`documents/${kept.number}/divergence`) : {});

  // Whether a chosen thing is one of the measured KLs (a feature is a number).
  const has = (parted, name) => Boolean(NAMES[name] && parted[name]);

  const value = (parted, name, level) => (level / LEVELS) * parted[name].scale;

  const buttons = (parted, chosen, choose) =>
    Object.keys(NAMES)
      .filter((name) => has(parted, name))
      .map((name) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", "aria-pressed": name === chosen, on: { click: () => choose(name) } },
            NAMES[name],
          ),
        ),
      );

  function summary(parted, name) {
    const { first, n_measured } = parted;
    const all = parted[name].levels.slice(first, first + n_measured);
    const sum = (values) => values.reduce((a, b) => a + b, 0);
    const top = [...all].sort((a, b) => b - a).slice(0, Math.ceil(all.length / 100));
    const share = sum(all) ? percent(sum(top) / sum(all)) : "none";
    const mean = value(parted, name, sum(all) / all.length);
    return [
      h("span", { class: "about-text" }, NAMES[name]),
      h("span", { class: "muted" }, "of the distribution after each token"),
      h(
        "span",
        { class: "muted num" },
        `mean ${number(mean)} nats over ${count(all.length)} tokens from token ${first}, ` +
          `largest ${number(parted[name].scale)}; ${share} of it in the top 1 % of tokens`,
      ),
    ];
  }

  dashboard.divergence = { load, has, value, buttons, summary };
})();
