// Elements. All text goes in as text nodes: nothing here, or in any other file, parses a string as markup.
"use strict";
globalThis.dashboard ??= {};

(() => {
  const SVG = "http://www.w3.org/2000/svg";

  // `on` holds listeners, every other key is an attribute; null and false leave it out, but aria says "false".
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name === "on") {
        for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
      } else if (name.startsWith("aria-") && typeof value === "boolean") {
        element.setAttribute(name, String(value));
      } else if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(name, value === true ? "" : String(value));
      }
    }
    append(element, children);
    return element;
  }

  function append(element, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return element;
  }

  dashboard.dom = {
    h: (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children),
    svg: (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children),
    replace(element, ...children) {
      element.replaceChildren();
      return append(element, children);
    },
  };
})();
