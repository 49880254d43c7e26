// A part of the panes' script: panes.py joins panes.{texts,relations,pane,view}.js within one function, in this order.
// --- a pane: one stage, drawn where it is seen -------------------------------------------------------------------

class Pane {
  constructor(stage, view) {
    this.stage = stage; this.view = view; this.drawn = new Map(); this.lit = new Set(); this.near = new Set(); this.cursor = -1; this.selected = false;
    const id = "fp-pane-" + stage.key;
    this.count = el("span", { class: "fp-count" });
    const tool = (text, label, act) => el("button", { type: "button", class: "fp-tool", text, "aria-label": label, title: label, onclick: act });
    this.previous = tool("↑", `Previous line that is lit in ${stage.title} (p)`, () => this.step(-1));
    this.next = tool("↓", `Next line that is lit in ${stage.title} (n)`, () => this.step(1));
    this.previous.hidden = this.next.hidden = true;
    const copy = tool("Copy", `Copy ${stage.title}`, () => this.copy(copy));
    this.head = el("div", { class: "fp-head" }, el("h4", { id: id + "-title", text: stage.title }), this.count, el("span", { class: "fp-spring" }),
      this.previous, this.next, stage.copy === undefined ? null : copy,
      tool("×", `Close ${stage.title}`, () => view.toggle(stage.key)));
    this.scroller = el("div", { class: "fp-scroll" });
    this.element = el("section", { class: "fp-pane", "data-stage": stage.key, "aria-labelledby": id + "-title" }, this.head);
    const remark = stage.note || stage.unmapped || "";
    if (remark) this.element.append(el("p", { class: "fp-note", text: remark }));
    if (stage.absent !== undefined || !stage.rows.length) {
      this.element.append(el("p", { class: "fp-absent", text: stage.absent === undefined ? "This text is empty." : `Absent: ${stage.absent || "no reason was recorded"}` }));
      this.empty = true;
      return;
    }
    this.scroller.setAttribute("role", "listbox");
    this.scroller.setAttribute("aria-label", `${stage.title}, ${stage.rows.length} lines`);
    this.scroller.tabIndex = 0;
    this.sheet = el("div", { class: "fp-sheet", role: "presentation" });
    this.scroller.append(this.sheet);
    this.element.append(this.scroller);
    this.filter();
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    this.scroller.addEventListener("click", (event) => this.clicked(event));
    this.scroller.addEventListener("keydown", (event) => this.keyed(event));
    this.scroller.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") view.point(stage.key, event.target.closest?.(".fp-row")); }, { passive: true });
    this.scroller.addEventListener("pointerleave", () => view.point(stage.key, null));
    this.scroller.addEventListener("focus", () => { if (this.cursor < 0 && this.shown.length) { this.cursor = this.firstUseful(); this.mark(); } });
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.scroller);
  }
  firstUseful() {
    const top = Math.floor(this.scroller.scrollTop / ROW);
    return this.shown[Math.min(top, this.shown.length - 1)];
  }
  filter() {
    const hide = this.view.quiet;
    this.shown = [];
    let widest = 10;
    this.stage.rows.forEach((row, i) => {
      if (hide && row.quiet) return;
      this.shown.push(i);
      const length = Math.min(row.text.length + (row.text.match(/\t/g)?.length || 0) * 4, LONGEST + 40);
      if (length > widest) widest = length;
    });
    this.position = new Map(this.shown.map((row, i) => [row, i]));
    const digits = Math.max(3, ...[this.stage.rows[this.stage.rows.length - 1], ...this.stage.rows.slice(-3)].map((row) => row.label.length));
    this.sheet.style.setProperty("--fp-digits", digits + 1 + "ch");
    this.sheet.style.height = this.shown.length * ROW + "px";
    this.sheet.style.minWidth = widest + digits + 6 + "ch";
    for (const row of this.drawn.values()) row.remove();
    this.drawn.clear();
    this.draw();
  }
  draw() {
    if (!this.sheet) return;
    const top = this.scroller.scrollTop, height = this.scroller.clientHeight || 400;
    const first = Math.max(0, Math.floor(top / ROW) - OVERSCAN), last = Math.min(this.shown.length - 1, Math.ceil((top + height) / ROW) + OVERSCAN);
    for (const [i, row] of this.drawn) if (i < first || i > last) { if (this.position.get(this.cursor) === i) continue; row.remove(); this.drawn.delete(i); }
    let before = this.sheet.firstChild;
    for (let i = first; i <= last; i++) {
      let row = this.drawn.get(i);
      if (!row) {
        row = this.make(i);
        this.drawn.set(i, row);
        while (before && Number(before.dataset.at) < i) before = before.nextSibling;
        this.sheet.insertBefore(row, before);
      } else before = row.nextSibling;
    }
  }
  make(i) {
    const index = this.shown[i], row = this.stage.rows[index];
    const code = el("span", { class: "fp-code" });
    if (row.head || row.remark) code.textContent = row.text;
    else if (row.lost) code.textContent = "(the text of this line was not recorded)";
    else {
      const text = this.view.quiet ? tidied(this.stage.key, row.text) : row.text;
      if (row.quoted) code.append(el("span", { class: "fp-s", text }));
      else highlight(text, this.stage.language, code);
    }
    const made = el("div", { class: "fp-row", role: "option", id: `fp-${this.stage.key}-${index}`, "data-at": i, "data-row": index,
      "aria-posinset": i + 1, "aria-setsize": this.shown.length }, el("span", { class: "fp-label", text: row.label }), code);
    made.style.top = i * ROW + "px";
    this.dress(made, index);
    return made;
  }
  dress(made, index) {
    const row = this.stage.rows[index], tint = this.view.tinted ? this.view.related?.tintOf(this.stage.key, index) : undefined;
    made.className = "fp-row" + (row.head ? " fp-file" : "") + (row.remark ? " fp-remark" : "") + (row.gap ? " fp-gap" : "") + (row.broken ? " fp-broken" : "") +
      (tint === undefined ? "" : " fp-t" + tint) + (this.lit.has(index) ? " fp-lit" : "") + (this.near.has(index) ? " fp-near" : "") + (this.selected && index === this.cursor ? " fp-selected" : "") +
      (index === this.cursor ? " fp-cursor" : "");
    made.setAttribute("aria-selected", String(this.lit.has(index)));
  }
  mark() {
    if (this.empty) return;
    this.draw();
    for (const [i, row] of this.drawn) this.dress(row, this.shown[i]);
    const there = this.position.get(this.cursor);
    if (there !== undefined && this.drawn.has(there)) this.scroller.setAttribute("aria-activedescendant", this.drawn.get(there).id);
    else this.scroller.removeAttribute("aria-activedescendant");
  }
  setLit(lit, cursor) {
    this.lit = lit; this.selected = cursor >= 0; this.cursor = cursor >= 0 ? cursor : this.cursor;
    if (cursor < 0 && lit.size) this.cursor = Math.min(...lit);
    this.count.textContent = lit.size ? `${lit.size} ${lit.size === 1 ? "line" : "lines"}` : "";
    this.previous.hidden = this.next.hidden = lit.size < 2;
    this.mark();
  }
  // Bring a row into sight; quietly where it is there already.
  reveal(index, always = false) {
    const at = this.position?.get(index);
    if (at === undefined) return;
    const top = at * ROW, height = this.scroller.clientHeight, now = this.scroller.scrollTop;
    if (always || top < now + ROW || top > now + height - 3 * ROW) this.scroller.scrollTop = Math.max(0, top - height / 3);
    this.mark();
  }
  revealLit() {
    if (!this.lit.size || this.empty) return;
    const rows = [...this.lit].map((row) => this.position.get(row)).filter((at) => at !== undefined).sort((a, b) => a - b);
    const now = this.scroller.scrollTop / ROW, end = now + this.scroller.clientHeight / ROW - 2;
    if (rows.length && !rows.some((at) => at >= now && at <= end)) this.reveal(this.shown[rows[0]], true);
  }
  step(by) {
    const rows = [...this.lit].filter((row) => this.position.has(row)).sort((a, b) => a - b);
    if (!rows.length) return;
    const at = rows.indexOf(this.cursor);
    this.cursor = at < 0 ? rows[0] : rows[(at + by + rows.length) % rows.length];
    this.reveal(this.cursor);
  }
  clicked(event) {
    const row = event.target.closest?.(".fp-row");
    const chosen = window.getSelection();
    if (!row || (chosen && !chosen.isCollapsed && this.scroller.contains(chosen.anchorNode))) return;
    this.view.select(this.stage.key, Number(row.dataset.row));
  }
  keyed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / ROW) - 2), last = this.shown.length - 1;
    const at = this.position.get(this.cursor) ?? 0;
    const move = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last }[event.key];
    if (move !== undefined) {
      const target = this.shown[Math.max(0, Math.min(last, move))];
      this.view.select(this.stage.key, target);
      this.reveal(target);
    } else if (event.key === "Enter" || event.key === " ") this.view.select(this.stage.key, this.cursor);
    else if (event.key === "n" || event.key === "p") this.step(event.key === "n" ? 1 : -1);
    else if (event.key === "[" || event.key === "]") this.view.neighbour(this.stage.key, event.key === "]" ? 1 : -1);
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") { this.scroller.scrollLeft += event.key === "ArrowRight" ? 60 : -60; }
    else return;
    event.preventDefault();
  }
  async copy(button) {
    try { await navigator.clipboard.writeText(this.stage.copy); button.textContent = "Copied"; } catch { button.textContent = "Not copied"; button.title = "This browser does not let a page copy; select the lines instead"; }
    setTimeout(() => { button.textContent = "Copy"; }, 1200);
  }
  close() { this.watcher?.disconnect(); this.element.remove(); }
}
