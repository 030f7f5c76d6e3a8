// A list of any length that holds only the lines in sight.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const SPARE = 10; // lines above and below what is in sight

  class VirtualList {
    // `line(index)` makes a line's element; lines are as tall as the style sheet's --line-height.
    constructor(label, line) {
      this.line = line;
      this.count = 0;
      this.selected = -1;
      this.drawn = new Map();
      this.inner = h("div", { class: "lines-inner" });
      this.element = h("div", { class: "lines", role: "list", "aria-label": label, tabindex: -1 }, this.inner);
      this.element.addEventListener("scroll", () => this.draw(), { passive: true });
      this.watch = new ResizeObserver(() => this.draw(true));
      this.watch.observe(this.element);
    }

    get height() {
      return parseFloat(getComputedStyle(this.element).getPropertyValue("--line-height")) || 36;
    }

    show(count, { selected = -1, top = 0 } = {}) {
      this.count = count;
      this.selected = selected;
      this.inner.style.setProperty("height", `${count * this.height}px`);
      this.element.scrollTop = top;
      this.draw(true);
    }

    draw(afresh = false) {
      const height = this.height;
      if (afresh) {
        this.inner.style.setProperty("height", `${this.count * height}px`);
        this.inner.replaceChildren();
        this.drawn.clear();
      }
      const first = Math.max(0, Math.floor(this.element.scrollTop / height) - SPARE);
      const last = Math.min(
        this.count,
        Math.ceil((this.element.scrollTop + this.element.clientHeight) / height) + SPARE,
      );
      for (const [index, element] of this.drawn) {
        if (index < first || index >= last) {
          element.remove();
          this.drawn.delete(index);
        }
      }
      for (let index = first; index < last; index++) {
        if (this.drawn.has(index)) continue;
        const element = this.line(index);
        element.setAttribute("role", "listitem");
        element.setAttribute("aria-setsize", this.count);
        element.setAttribute("aria-posinset", index + 1);
        element.style.setProperty("transform", `translateY(${index * height}px)`);
        this.drawn.set(index, element);
        this.inner.append(element);
      }
      for (const [index, element] of this.drawn) {
        if (index === this.selected) element.setAttribute("aria-current", "true");
        else element.removeAttribute("aria-current");
      }
    }

    // Select a line and bring it into sight.
    select(index) {
      if (!this.count) return;
      this.selected = Math.max(0, Math.min(this.count - 1, index));
      const [top, height] = [this.selected * this.height, this.height];
      const { scrollTop, clientHeight } = this.element;
      if (top < scrollTop) this.element.scrollTop = top;
      else if (top + height > scrollTop + clientHeight) this.element.scrollTop = top + height - clientHeight;
      this.draw();
    }
  }

  dashboard.VirtualList = VirtualList;
})();
