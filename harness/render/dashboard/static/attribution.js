// Attributed tokens: how far the adapter changed an outcome, and which components and latents that comes from.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, number } = dashboard.text;

  const UNITS = { "log-probability": "log-probability", "logit-difference": "logit difference", event: "probability" };
  const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
  const called = ([source, name]) => (source ? `${source} ${name}` : name);

  // Above the text: both models' outcome, what is left over, and what colours mean.
  function summary(target, tokens, of) {
    const difference = target.with_adapter - target.without_adapter;
    return [
      h("span", {}, `${UNITS[target.outcome]} of “${visible(tokens[target.position])}”`),
      h(
        "span",
        { class: "num" },
        `${number(target.with_adapter)} with the adapter, ${number(target.without_adapter)} without: ${signed(difference)}`,
      ),
      h("span", { class: "muted num" }, `not attributed ${signed(target.remainder)}`),
      h(
        "span",
        { class: "muted" },
        of === null
          ? "coloured by what all components contributed at each token"
          : `coloured by what ${visible(called(of))} contributed, where it is among the largest`,
      ),
    ];
  }

  // Components, then latents, the largest first. The exact effect of switching one off stands beside its contribution.
  function list(target, chosen, choose) {
    return target.listed.map((row, i) => {
      const [source, , value, fall] = row;
      return h(
        "li",
        {},
        h(
          "button",
          { type: "button", "aria-pressed": i === chosen, on: { click: () => choose(i === chosen ? null : i) } },
          h("span", { "aria-hidden": "true" }, value < 0 ? "▾" : "▴"),
          h("span", { class: "line-name" }, visible(called(row))),
          h("span", { class: "num" }, signed(value)),
          h(
            "span",
            { class: "line-text" },
            fall !== null
              ? `${signed(fall)} lost when it alone is switched off`
              : source
                ? "through its decoder"
                : "not switched off",
          ),
        ),
      );
    });
  }

  dashboard.attribution = { summary, list };
})();
