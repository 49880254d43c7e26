// A part of the panes' script: panes.py joins panes.{texts,relations,pane,view}.js within one function, in this order.
// --- the view ------------------------------------------------------------------------------------------------------

class View {
  constructor(index) {
    this.index = index; this.panes = new Map(); this.open = null; this.current = null; this.quiet = true; this.tinted = true; this.selection = null; this.ticket = 0;
    this.build();
    this.list();
    this.breaks();
    window.addEventListener("hashchange", () => this.follow());
    new ResizeObserver(() => this.fit()).observe(app);
    this.fit();
  }
  build() {
    const button = (text, pressed, act, title) => el("button", { type: "button", class: "fp-button", "aria-pressed": String(pressed), text, title, onclick: act });
    this.query = el("input", { type: "search", id: "fp-query", placeholder: "Search every stage: ld.global, MUFU, rsqrt …", "aria-label": "Search every stage", autocomplete: "off", spellcheck: "false" });
    this.scope = el("select", { id: "fp-scope", "aria-label": "Where to search" }, el("option", { value: "all", text: "all kernels" }), el("option", { value: "one", text: "this kernel" }));
    this.hits = el("div", { class: "fp-hits", hidden: true });
    this.hitStatus = el("p", { class: "fp-hit-status", role: "status" });
    this.hitList = el("ol", {});
    this.hits.append(this.hitStatus, this.hitList);
    const form = el("form", { class: "fp-search", role: "search", "aria-label": "Search the stages", onsubmit: (event) => { event.preventDefault(); this.search(true); } }, this.query, this.scope, el("button", { type: "submit", class: "fp-button", text: "Search" }));
    let timer = 0;
    this.query.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => this.search(false), 250); });
    this.query.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { this.query.value = ""; this.search(false); event.preventDefault(); }
      if (event.key === "ArrowDown") { this.hitList.querySelector("a")?.focus(); event.preventDefault(); }
    });
    this.hitList.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const links = [...this.hitList.querySelectorAll("a")], at = links.indexOf(document.activeElement) + step;
      (at < 0 ? this.query : links[Math.min(at, links.length - 1)]).focus();
      event.preventDefault();
    });
    this.scope.addEventListener("change", () => this.search(false));
    this.wide = button("⤢ Expand", false, () => this.expand(!app.classList.contains("fp-wide")), "Use the whole window (Escape leaves)");
    this.narrowing = el("input", { type: "search", class: "fp-filter", placeholder: "Filter kernels", "aria-label": "Filter kernels", autocomplete: "off", spellcheck: "false", oninput: () => this.list() });
    this.kernels = el("div", { class: "fp-kernels" });
    this.card = el("div", { class: "fp-card" });
    this.stages = el("div", { class: "fp-stages", role: "group", "aria-label": "Panes" });
    this.quietButton = button("Tidy", true, () => { this.quiet = !this.quiet; this.quietButton.setAttribute("aria-pressed", String(this.quiet)); for (const pane of this.panes.values()) if (!pane.empty) { pane.filter(); pane.mark(); } }, "Hide what only records locations and lifetimes: #loc, .loc, !dbg, //##, = None");
    this.tintButton = button("Colours", true, () => { this.tinted = !this.tinted; this.tintButton.setAttribute("aria-pressed", String(this.tinted)); for (const pane of this.panes.values()) pane.mark(); }, "One tint for each statement, the same in every stage");
    this.status = el("div", { class: "fp-status", role: "status", tabindex: "0", "aria-label": "What the selected line is of" });
    this.absent = el("p", { class: "fp-missing", hidden: true });
    this.grid = el("div", { class: "fp-grid" });
    const keys = el("p", { class: "fp-keys" });
    for (const [key, does] of [["↑ ↓", "line"], ["n p", "next, previous lit line"], ["[ ]", "pane"], ["/", "search"], ["Esc", "leave"]]) keys.append(el("kbd", { text: key }), ` ${does}  `);
    app.append(el("div", { class: "fp-top" }, form, this.wide), this.hits,
      el("div", { class: "fp-body" },
        el("nav", { class: "fp-side", "aria-label": "Kernels" }, this.narrowing, this.kernels),
        el("div", { class: "fp-main" }, this.card, el("div", { class: "fp-bar" }, this.stages), this.absent, el("div", { class: "fp-said" }, this.status, this.quietButton, this.tintButton), this.grid, keys)));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && app.classList.contains("fp-wide")) this.expand(false);
      const typing = /^(?:INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName || "");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && app.contains(document.activeElement)) { this.query.focus(); event.preventDefault(); }
    });
  }
  expand(wide) {
    app.classList.toggle("fp-wide", wide);
    document.documentElement.classList.toggle("fp-no-scroll", wide);
    this.wide.setAttribute("aria-pressed", String(wide));
    this.wide.textContent = wide ? "⤡ Leave" : "⤢ Expand";
    this.fit();
  }
  fit() {
    const width = app.clientWidth;
    if (!width) return;
    const narrow = width < NARROW;
    app.classList.toggle("fp-narrow", narrow);
    app.classList.toggle("fp-roomy", width >= 900);
    if (narrow !== this.narrow) { this.narrow = narrow; if (this.current !== null) this.arrange(); }
    const count = this.grid.childElementCount || 1, most = narrow ? 1 : Math.max(1, Math.floor((this.grid.clientWidth || width) / 310));
    const columns = Math.ceil(count / Math.ceil(count / most));
    this.grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  }
  address(number, stage, line) {
    const entry = this.index.kernels[number], part = encodeURIComponent;
    const base = `${entry.run}/${part(entry.id)}`;
    return stage === undefined ? `#kernel/${base}` : `#line/${base}/${part(stage)}/${part(line)}`;
  }
  list() {
    const wanted = this.narrowing.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const shown = [];
    this.index.kernels.forEach((entry, number) => {
      const text = `${entry.name} ${entry.variant} ${entry.workload} ${entry.direction} ${this.index.runs[entry.run].name} ${(entry.operations || []).join(" ")}`.toLowerCase();
      if (wanted.every((word) => text.includes(word))) shown.push(number);
    });
    const parts = [];
    let group = "", items = null;
    for (const number of shown.slice(0, MOST_LISTED)) {
      const entry = this.index.kernels[number], run = this.index.runs[entry.run];
      const title = [this.index.runs.length > 1 ? run.name : "", entry.variant, entry.workload, entry.direction].filter(Boolean).join(" · ");
      if (title + entry.run !== group) {
        group = title + entry.run;
        items = el("ul", {});
        parts.push(el("h3", { text: title }), items);
      }
      const facts = [entry.backend, entry.registers === undefined ? "" : `${entry.registers} regs`, entry.spills ? `${entry.spills} spilled` : ""].filter(Boolean).join(", ");
      items.append(el("li", {}, el("a", { href: this.address(number), "data-kernel": number, "aria-current": number === this.current ? "true" : null },
        el("span", { class: "fp-name", text: entry.name }), el("span", { class: "fp-dim", text: facts }))));
    }
    const rest = shown.length - MOST_LISTED;
    if (rest > 0) parts.push(el("p", { class: "fp-dim", text: `and ${rest} more: narrow the filter` }));
    if (this.index.left_out) parts.push(el("p", { class: "fp-dim", text: `${this.index.left_out} more kernels are left out of this page` }));
    if (!shown.length) parts.push(el("p", { class: "fp-dim", text: "no kernel has all of these words" }));
    this.kernels.replaceChildren(...parts);
  }
  breaks() {
    const holder = document.getElementById("fp-breaks");
    if (!holder) return;
    this.index.breaks.forEach((one, i) => {
      const item = holder.querySelector(`[data-break="${i}"]`), place = item?.querySelector(".fp-mono");
      if (!place || one.kernel === null || one.kernel === undefined || !one.line) return;
      place.replaceChildren(el("a", { href: "#", text: place.textContent, onclick: async (event) => {
        event.preventDefault();
        await this.show(one.kernel);
        const row = this.stageMap.get("user").at.get(`${one.file}:${one.line}`);
        if (row !== undefined) { this.ensure("user"); this.select("user", row); this.panes.get("user").reveal(row, true); this.panes.get("user").scroller.focus({ preventScroll: true }); }
        this.grid.scrollIntoView({ block: "nearest" });
      } }));
    });
  }
  find(run, id) { return this.index.kernels.findIndex((entry) => String(entry.run) === run && entry.id === id); }
  // Go where the address says; whether it said anything.
  async follow(first = false) {
    const pieces = location.hash.replace(/^#/, "").split("/");
    if (pieces[0] !== "kernel" && pieces[0] !== "line") return false;
    let decoded;
    try { decoded = pieces.map(decodeURIComponent); } catch { return false; }
    const number = this.find(decoded[1], decoded[2]);
    if (number < 0) { this.say("The address names a kernel that this page does not have."); return true; }
    await this.show(number);
    if (decoded[0] === "line" && this.stageMap) {
      const stage = this.stageMap.get(decoded[3]), row = stage ? stage.row(decoded[4]) : -1;
      if (!stage) this.say(`There is no stage ${decoded[3]} here.`);
      else {
        this.ensure(decoded[3]);
        if (row < 0) this.say(`${stage.title} has no line ${decoded[4]}.`);
        else {
          if (stage.rows[row].quiet && this.quiet) this.quietButton.click();
          this.select(decoded[3], row, false);
          const pane = this.panes.get(decoded[3]);
          pane.reveal(row, true);
          pane.scroller.focus({ preventScroll: true });
        }
      }
    }
    const line = decoded[0] === "line" && this.panes.get(decoded[3]);
    if (!app.classList.contains("fp-wide")) (line ? line.element : app).scrollIntoView({ block: !line ? "start" : first ? "center" : "nearest", behavior: first ? "instant" : "auto" });
    return true;
  }
  async show(number) {
    if (number === this.current) return;
    const ticket = ++this.ticket;
    const entry = this.index.kernels[number];
    let kernel, graph;
    try { [kernel, graph] = await Promise.all([documentOf(entry.doc), documentOf(entry.graph)]); }
    catch (error) { this.say(`This kernel's texts cannot be read: ${error.message || error}`); return; }
    if (ticket !== this.ticket) return;
    this.current = number;
    this.selection = null;
    const stages = new Map([["user", userStage(graph)]]);
    for (const key of ORDER) {
      const given = kernel.stages?.[key] || graph.stages?.[key];
      if (given) stages.set(key, textStage(key, { ...given, unmapped: kernel.unmapped?.[key] || "" }));
    }
    this.stageMap = new Map(ORDER.filter((key) => stages.has(key)).map((key) => [key, stages.get(key)]));
    this.related = relations(entry, graph, kernel, this.stageMap);
    this.noChain = graph.no_chain || "";
    for (const link of this.kernels.querySelectorAll("a[aria-current]")) link.removeAttribute("aria-current");
    const link = this.kernels.querySelector(`a[data-kernel="${number}"]`);
    if (link) {
      link.setAttribute("aria-current", "true");
      const box = this.kernels.getBoundingClientRect(), place = link.getBoundingClientRect();
      if (place.top < box.top || place.bottom > box.bottom) this.kernels.scrollTop += place.top - box.top - 40;
    }
    this.drawCard(entry, kernel);
    const there = (key) => Boolean(this.stageMap.get(key)?.rows.length);
    if (!this.wanted) this.wanted = new Set(["user", "post_grad_graph", "triton", "cpp", "ttgir", "ptx", "sass", "assembly", "amdgcn"]);
    if (![...this.wanted].some(there)) ["post_grad_graph", "output_code"].forEach((key) => this.wanted.add(key));
    if (!entry.doc || !this.related.source) this.wanted.add("output_code");
    const missing = new Map();
    for (const [key, stage] of this.stageMap) if (stage.absent !== undefined) push(missing, stage.absent, stage.title);
    this.absent.hidden = !missing.size;
    this.absent.replaceChildren(...[...missing].map(([reason, titles]) => el("span", {}, el("b", { text: titles.join(", ") }), ` ${titles.length > 1 ? "are" : "is"} not here: ${reason}. `)));
    this.arrange();
    this.say(this.noChain ? `Note: ${this.noChain}.` : "Select a line to see what it came from and what it became.");
  }
  drawCard(entry, kernel) {
    const facts = el("ul", { class: "fp-facts" });
    for (const [name, words] of [["launches", "launches"], ["registers", "registers"], ["spills", "spilled"], ["shared_bytes", "B shared"], ["num_warps", "warps"], ["num_stages", "stages"]])
      if (entry[name] !== undefined) facts.append(el("li", { class: name === "spills" && entry[name] ? "fp-bad" : "" }, el("b", { text: String(entry[name]) }), " " + (entry[name] === 1 ? words.replace(/(?:es|s)$/, (end) => (words === "launches" ? "" : end === "s" ? "" : end)) : words)));
    const sections = el("dl", {});
    const groups = new Map();
    for (const line of kernel.card || []) { const at = line.indexOf(": "); push(groups, at < 0 ? "card" : line.slice(0, at), at < 0 ? line : line.slice(at + 2)); }
    if (entry.operations?.length) groups.set("operators", [entry.operations.join(", ")]);
    for (const [name, lines] of groups) sections.append(el("dt", { text: name }), el("dd", {}, ...lines.map((line) => el("span", { text: line }))));
    if (kernel.files?.length) sections.append(el("dt", { text: "files" }), el("dd", {}, ...kernel.files.map((file) => el("span", { class: "fp-mono", text: `${file.path} (${file.bytes} B)` }))));
    const limiter = groups.get("limiter")?.find((line) => !line.startsWith("absent"));
    this.card.replaceChildren(el("h3", { class: "fp-title", text: entry.name }),
      el("p", { class: "fp-dim", text: [this.index.runs[entry.run].name, entry.variant, entry.workload, entry.direction, entry.backend].join(" · ") + (limiter ? ` · ${limiter}` : "") }), facts,
      sections.childElementCount ? el("details", { class: "fp-more" }, el("summary", { text: "Card: traffic, occupancy, instructions, what it was fused of" }), sections) : null ?? "");
  }
  arrange() {
    for (const pane of this.panes.values()) pane.close();
    this.panes.clear();
    const keys = [...this.stageMap.keys()];
    if (this.narrow && (!this.single || !this.stageMap.has(this.single))) this.single = this.related.source || keys.find((key) => this.stageMap.get(key).rows.length) || keys[0];
    const open = keys.filter((key) => (this.narrow ? key === this.single : this.wanted.has(key) && (this.stageMap.get(key).absent === undefined || this.asked?.has(key))));
    for (const key of open) {
      const pane = new Pane(this.stageMap.get(key), this);
      this.panes.set(key, pane);
      this.grid.append(pane.element);
    }
    this.buttons();
    this.fit();
    if (this.selection) this.light();
    else for (const [key, pane] of this.panes) {
      if (pane.empty) continue;
      const useful = pane.stage.rows.findIndex((row, i) => (key === "user" ? row.user && this.related.relate(key, i).found : key === this.related.source ? /^(?:def |extern "C")/.test(row.text) : this.related.useful(key, i)));
      if (useful > 0) pane.scroller.scrollTop = Math.max(0, (pane.position.get(useful) ?? 0) - 2) * ROW;
    }
  }
  buttons() {
    const focused = document.activeElement?.dataset?.stageButton;
    this.stages.replaceChildren(...[...this.stageMap].map(([key, stage]) => {
      const count = this.lit?.get(key)?.size || 0, open = this.panes.has(key);
      return el("button", { type: "button", class: "fp-button fp-stage" + (stage.rows.length ? "" : " fp-none"), "aria-pressed": String(open), "data-stage-button": key,
        title: stage.absent === undefined ? `${stage.rows.length} lines` : `Absent: ${stage.absent}`, onclick: () => this.toggle(key) },
        stage.title, count ? el("span", { class: "fp-badge", text: String(count), "aria-label": `, ${count} lit` }) : null);
    }));
    const pressed = this.narrow && this.stages.querySelector('[aria-pressed="true"]');
    if (pressed) this.stages.scrollLeft = pressed.offsetLeft - this.stages.offsetLeft - 40;
    if (focused) this.stages.querySelector(`[data-stage-button="${focused}"]`)?.focus();
  }
  toggle(key) {
    if (this.narrow) this.single = key;
    else if (this.panes.has(key)) this.wanted.delete(key);
    else { this.wanted.add(key); (this.asked ||= new Set()).add(key); }
    this.arrange();
  }
  ensure(key) { if (!this.panes.has(key)) { if (this.narrow) this.single = key; else { this.wanted.add(key); (this.asked ||= new Set()).add(key); } this.arrange(); } }
  neighbour(key, by) {
    const open = [...this.panes.keys()].filter((one) => !this.panes.get(one).empty), next = open[(open.indexOf(key) + by + open.length) % open.length];
    this.panes.get(next)?.scroller.focus();
  }
  select(key, row, remember = true) {
    const stage = this.stageMap.get(key);
    if (row < 0 || !stage || !stage.rows[row]) return;
    this.selection = { key, row };
    this.light();
    const address = stage.address(row);
    if (remember && address) { try { history.replaceState(history.state, "", this.address(this.current, key, address)); } catch { /* a frame without an address of its own */ } }
  }
  light() {
    const { key, row } = this.selection, found = this.related.relate(key, row);
    this.lit = found.lit;
    for (const [stage, pane] of this.panes) {
      const own = stage === key;
      const rows = new Set(found.lit.get(stage) || []);
      if (own) rows.add(row);
      pane.setLit(rows, own ? row : -1);
      if (!own) pane.revealLit();
    }
    this.buttons();
    this.describe(found);
  }
  // What the pointer is over shows its counterparts faintly; selecting them is a click.
  point(key, row) {
    const at = row ? `${key} ${row.dataset.row}` : "";
    if (at === this.pointed) return;
    this.pointed = at;
    clearTimeout(this.pointing);
    this.pointing = setTimeout(() => {
      const lit = at && this.related ? this.related.relate(key, Number(row.dataset.row)).lit : new Map();
      for (const [stage, pane] of this.panes) {
        const near = lit.get(stage) || new Set();
        if (near.size || pane.near.size) { pane.near = near; pane.mark(); }
      }
    }, at ? 40 : 0);
  }
  describe(found) {
    const { key, row } = this.selection, stage = this.stageMap.get(key), parts = [];
    parts.push(el("b", { text: `${stage.title} ${stage.rows[row].label}` }));
    if (!found.found && !found.folded.length) {
      const why = this.noChain || stage.unmapped || (stage.rows[row].head || stage.rows[row].gap || stage.rows[row].remark ? "it is no line of code" : "nothing is recorded for this line");
      parts.push(` has no counterpart: ${why}.`);
    } else {
      const places = [...this.stageMap].filter(([other]) => other !== key && found.lit.get(other)?.size).map(([other, one]) => `${one.title} ${found.lit.get(other).size}`);
      if (places.length) parts.push(el("span", { class: "fp-dim", text: "  lights " }), places.join(", "));
    }
    if (found.hub.length === 1) {
      const how = { written: "", dataflow: ", by what its value is used for", kernel: ", known of the kernel as a whole only", source: ", your own kernel" }[found.hub[0].how] || "";
      parts.push(el("span", { class: "fp-dim", text: `  ${found.hub[0].kind}${how}` }));
    }
    const operators = [...new Set(found.names.map((name) => this.operatorOf(name)).filter(Boolean))];
    if (operators.length) parts.push(el("span", { class: "fp-operators", text: `  ${operators.slice(0, 6).join(", ")}${operators.length > 6 ? " …" : ""}` }));
    const last = ["sass", "amdgcn", "assembly", "ptx"].find((one) => this.stageMap.get(one)?.rows.length);
    if (found.folded.length && !found.lit.get(last)?.size) {
      parts.push("  No instruction of its own: part of what ");
      found.folded.slice(0, 6).forEach((line, i) => parts.push(i ? ", " : "", el("a", { href: this.address(this.current, this.related.source, line), text: `line ${line}` })));
      parts.push(found.folded.length > 6 ? " and others became." : " became.");
    }
    for (const id of found.others.slice(0, 3)) {
      const number = this.index.kernels.findIndex((entry) => entry.id === id && entry.run === this.index.kernels[this.current].run);
      if (number >= 0) parts.push("  Also in ", el("a", { href: this.address(number), text: this.index.kernels[number].name }));
    }
    this.status.replaceChildren(...parts);
  }
  operatorOf(name) {
    if (this.operatorsOf !== this.related) { this.operatorsOf = this.related; this.operators = new Map(); const stage = this.stageMap.get("post_grad_graph"); (stage?.rows || []).forEach((_, row) => { for (const node of this.related.nodeAt(row)) this.operators.set(node.name, node.operator); }); }
    return this.operators.get(name) || "";
  }
  say(text) { this.status.textContent = text; }

  // --- search --------------------------------------------------------------------------------------------------
  async search(go) {
    const wanted = this.query.value.trim().toLowerCase(), ticket = (this.searching = (this.searching || 0) + 1);
    this.hitList.replaceChildren();
    this.hits.hidden = !wanted;
    if (wanted.length < 2) { this.hitStatus.textContent = wanted ? "At least two characters." : ""; return; }
    let hits = 0, looked = 0, first = null;
    const numbers = this.scope.value === "one" && this.current !== null ? [this.current] : [...this.index.kernels.keys()];
    if (this.current !== null && numbers.length > 1) { numbers.splice(numbers.indexOf(this.current), 1); numbers.unshift(this.current); }
    const seen = new Set();
    const add = (number, stage, label, address, line, found) => {
      hits++;
      const text = line.trimStart(), at = Math.max(0, found - (line.length - text.length));
      const entry = this.index.kernels[number], code = el("code", {}), from = Math.max(0, at - 40);
      code.append((from ? "…" : "") + text.slice(from, at), el("mark", { text: text.slice(at, at + wanted.length) }), text.slice(at + wanted.length, at + wanted.length + 90));
      const link = el("a", { href: this.address(number, stage, address) }, el("span", { class: "fp-where" }, `${TITLES[stage][0]} ${label}`, el("span", { class: "fp-dim", text: ` ${entry.name}` })), code);
      this.hitList.append(el("li", {}, link));
      first ||= link;
    };
    const look = (number, stages, most) => {
      for (const [key, stage] of stages) {
        let here = 0;
        for (let row = 0; row < stage.rows.length && hits < MOST_HITS && here < most; row++) {
          const at = stage.rows[row].text.toLowerCase().indexOf(wanted), address = at < 0 ? "" : stage.address(row);
          if (address) { here++; add(number, key, stage.rows[row].label, address, stage.rows[row].text, at); }
        }
      }
    };
    for (const number of numbers) {
      const entry = this.index.kernels[number], both = [];
      for (const name of [entry.graph, entry.doc]) if (name && !seen.has(name)) { seen.add(name); both.push(name); }
      for (const name of both) {
        let found;
        try { found = kept.has(name) ? await kept.get(name) : await inflate(name); } catch { continue; }
        if (ticket !== this.searching) return;
        const stages = new Map();
        if (name === entry.graph) stages.set("user", userStage(found));
        for (const key of ORDER) {
          const text = found.stages?.[key]?.text;
          if (text !== undefined && text.toLowerCase().includes(wanted)) stages.set(key, textStage(key, found.stages[key]));
        }
        look(number, [...stages].sort((a, b) => ORDER.indexOf(a[0]) - ORDER.indexOf(b[0])), numbers.length > 1 ? 12 : 100);
      }
      looked++;
      if (go && first) break;
      if (hits >= MOST_HITS) break;
      if (looked % 8 === 0) {
        this.hitStatus.textContent = `${hits} lines in ${looked} of ${numbers.length} kernels …`;
        await new Promise((done) => setTimeout(done, 0));
        if (ticket !== this.searching) return;
      }
    }
    this.hitStatus.textContent = hits >= MOST_HITS ? `The first ${hits} lines; say more to narrow it.` : `${hits} ${hits === 1 ? "line" : "lines"}${numbers.length > 1 ? ` in ${looked} ${looked === 1 ? "kernel" : "kernels"}` : ""}`;
    this.hits.hidden = false;
    if (go && first) location.hash = first.getAttribute("href");
  }
}

// --- start ---------------------------------------------------------------------------------------------------------

const start = async () => {
  const fallback = document.getElementById("fp-static");
  let index;
  try { index = await inflate("panes-index"); }
  catch (error) {
    app.hidden = false;
    app.replaceChildren(el("p", { class: "fp-absent", text: `The panes cannot open: ${typeof DecompressionStream === "undefined" ? "this browser is too old for them (it has no DecompressionStream)" : error.message || error}` }));
    return;
  }
  app.hidden = false;
  fallback?.remove();
  const view = new View(index);
  if (!index.kernels.length || (await view.follow(true))) return;
  // Nothing is inflated before it is about to be seen.
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    if (view.current === null && !view.ticket) view.show(index.kernels.findIndex((entry) => entry.doc) < 0 ? 0 : index.kernels.findIndex((entry) => entry.doc && entry.backend !== "extern") < 0 ? 0 : index.kernels.findIndex((entry) => entry.doc && entry.backend !== "extern"));
  }, { rootMargin: "600px" });
  seen.observe(app);
};
start();
