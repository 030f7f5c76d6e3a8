// Text and numbers as people read them. What cannot be seen, or would move other text about, is shown as a sign.
"use strict";

(() => {
  const NAMED = { "\n": "⏎", "\r": "␍", "\t": "⇥", "\u007f": "␡", "\u00a0": "⍽", "\u2028": "⏎", "\u2029": "¶" };
  // Controls, format characters (bidi overrides, zero widths; not the joiners, which words and emoji need),
  // private use, unassigned and lone surrogates; line and paragraph separators, no-break spaces.
  const HIDDEN = /[\p{Cc}\p{Cs}\p{Co}\p{Cn}\u2028\u2029\u00a0]|(?![\u200c\u200d])\p{Cf}/gu;

  function sign(character) {
    const code = character.codePointAt(0);
    if (NAMED[character]) return NAMED[character];
    if (code < 0x20) return String.fromCodePoint(0x2400 + code);
    return `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
  }

  // One token or name: everything visible, on one line.
  const visible = (text) => text.replace(HIDDEN, sign);

  // A paragraph: line breaks and tabs stay what they are.
  const paragraph = (text) => text.replace(HIDDEN, (c) => (c === "\n" || c === "\t" ? c : sign(c)));

  // Three significant digits; scientific outside of what reads well.
  function number(value) {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 0.001 || size >= 1e6) return value.toExponential(2).replaceAll("-", "−");
    if (size >= 100) return Math.round(value).toLocaleString("en").replace("-", "−");
    return value.toPrecision(3).replace("-", "−");
  }

  const count = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

  function percent(share) {
    if (share === null || share === undefined) return "–";
    const points = share * 100;
    if (points !== 0 && Math.abs(points) < 0.1) return `${Number(points.toPrecision(1))} %`;
    return `${points.toFixed(Math.abs(points) < 10 ? 1 : 0)} %`;
  }

  const interval = (low, high, form = number) =>
    low === null && high === null ? "" : `[${low === null ? "−∞" : form(low)}, ${high === null ? "∞" : form(high)}]`;

  function seconds(value) {
    if (value === null || value === undefined) return "–";
    if (value < 120) return `${value.toFixed(1)} s`;
    const minutes = Math.floor(value / 60);
    return minutes < 120
      ? `${minutes} min ${Math.round(value % 60)} s`
      : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  dashboard.text = { visible, paragraph, number, count, percent, interval, seconds };
})();
