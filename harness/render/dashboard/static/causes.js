// What a feature writes and what it causes, on its page.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, number, count, percent, interval } = dashboard.text;
  const { table, empty } = dashboard.parts;

  const left = (header) => ({ header, justify: "left" });
  const right = (header) => ({ header, justify: "right" });
  const quoted = (token) => `'${visible(token)}'`;
  const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));
  const p = (value) => (value === null ? "–" : value < 0.001 ? "< 0.001" : value.toFixed(3));
  const estimate = (e, form) => (e === null ? ["–"] : [form(e.value), interval(e.low, e.high, form)]);

  // Tokens that it promotes on paper and on real text, and who reads it.
  function writes(causes) {
    const w = causes.written;
    if (w === null) return [h("h2", {}, "What it writes"), empty(`Not known: ${causes.why_unwritten}.`)];
    const words = (tokens) => tokens.map(quoted).join(" ") || "none";
    const nats = (pairs) => pairs.map(([token, by, half]) => `${quoted(token)} ${signed(by)}${half === null ? "" : ` ± ${number(half)}`}`).join(", ") || "none";
    const lens = w.promoted.length
      ? [
          [["promotes"], [words(w.promoted)], [p(w.p_promoted)]],
          [["suppresses"], [words(w.suppressed)], [p(w.p_suppressed)]],
        ]
      : [[["promotes"], [`no direct lens: ${visible(w.reason ?? "")}`], ["–"]]];
    const effect = w.n_effects
      ? [
          [["raises on text (nats)"], [nats(w.raised)], [p(w.effect_p)]],
          [["lowers on text (nats)"], [nats(w.lowered)], ["same test"]],
        ]
      : [];
    const readers = w.read_by.map(([name, cosine]) => `${visible(name)} ${number(cosine)}`).join(", ");
    const rows = [...lens, ...effect, [["read by (cosine)"], [readers || "no later component"], [p(w.read_p)]]];
    const seen = [
      w.lens_share !== null && w.promoted.length && w.lens_share < 0.995
        ? `the lens sees ${percent(w.lens_share)} of its squared norm`
        : null,
      w.through && `taken through ${visible(w.through)}`,
    ].filter(Boolean);
    return [
      h("h2", {}, "What it writes"),
      table({ columns: [left(""), { ...left("tokens"), wide: true }, right("p")], rows }),
      h(
        "p",
        { class: "legend" },
        "Promotes: by final norm and output matrix alone" + (seen.length ? ` (${seen.join("; ")}). ` : ". ") +
          `On text: of the ${count(w.n_effects)} most used tokens, change of the log-probability per unit of activation, ` +
          `mean over ${count(w.n_tokens)} tokens of ${count(w.n_documents)} documents ± half of its 95 % interval. p: against ${count(w.n_null)} ` +
          "random directions of the same norm, not corrected for the number of features.",
      ),
    ];
  }

  // What changes when it is switched off, and when it is steered.
  function effects(causes, name) {
    const off = causes.off;
    const active = off?.n_tokens ? `; active on ${count(off.n_active)} of ${count(off.n_tokens)} tokens` : "";
    const rows = [
      ...(off
        ? [
            [
              ["switched off: KL (nats)", off.share === null ? active.slice(2) : `${percent(off.share)} of the adapter's${active}`],
              estimate(off.kl, number),
              ["–"],
              ["–"],
              [count(off.n_documents)],
            ],
          ]
        : []),
      ...causes.steered.map((s) => [
        [
          `${s.push} ${s.size}: ${visible(s.quantity)} (${s.unit})`,
          `${s.where === "text" ? "in text" : "in generated answers"}; at rest ${number(s.at_rest)}` +
            (s.push === "gain" || s.times_normal === null ? "" : `; ${number(s.times_normal)} times its normal size`),
        ],
        estimate(s.change, signed),
        s.excess === null
          ? [`– (${visible(s.reason ?? "no control")})`]
          : [...estimate(s.excess, signed), `over ${visible(s.control)}`],
        [s.effect ? "yes" : "no", s.p === null ? "" : `p ${p(s.p)}`],
        [count(s.n_documents)],
      ]),
    ];
    const columns = [{ ...left("push"), wide: true }, right("change"), right("least excess"), left("effect"), right("n")];
    const both = /[+-]$/u.test(name) ? " Both its signs together." : "";
    return [
      h("h2", {}, "What it causes"),
      rows.length > 0 && table({ columns, rows }),
      off === null && empty(`Switched off: not known, ${causes.why_not_off}.`),
      causes.steered.length === 0 && empty(`Steered: not known, ${causes.why_unsteered}.`),
      rows.length > 0 &&
        h(
          "p",
          { class: "legend" },
          "95 % intervals over n documents." + both + (causes.steered.length
            ? " Effect: the change, its excess over every control and Holm's p over all curves of the run agree; shown at " +
              "the smallest size that has one, else at the largest."
            : ""),
        ),
    ];
  }

  dashboard.causes = { writes, effects };
})();
