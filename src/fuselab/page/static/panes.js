// The panes of "The way down". Written by hand, no library; see panes.py for the contract.
// Text of a run goes in by textContent only; styles are set through CSSOM, as the page's policy asks for.
(() => {
  "use strict";
  const app = document.getElementById("fp-app");
  if (!app) return;
  const ROW = 20, OVERSCAN = 12, LONGEST = 2000, MOST_HITS = 300, MOST_LISTED = 250, NARROW = 640;
  const LINES = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/; // as Python's splitlines, by which the chain counts

  const el = (tag, options = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (name === "class") made.className = value;
      else if (name === "text") made.textContent = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  // --- documents ------------------------------------------------------------------------------------------------

  const inflate = async (name) => {
    const holder = document.getElementById("data-" + name);
    if (!holder) throw new Error("the page has no document " + name);
    const binary = atob(holder.textContent.trim());
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  const kept = new Map(); // the last documents that were opened
  const documentOf = (name) => {
    if (!name) return Promise.resolve({ stages: {} });
    const known = kept.get(name) || inflate(name);
    kept.delete(name);
    kept.set(name, known);
    if (kept.size > 12) kept.delete(kept.keys().next().value);
    return known;
  };

  // --- languages ------------------------------------------------------------------------------------------------

  const words = (text) => "\\b(?:" + text.trim().split(/\s+/).join("|") + ")\\b";
  const STRING = "[rbfu]{0,2}(?:'''|\"\"\"|\"(?:\\\\.|[^\"\\\\])*\"|'(?:\\\\.|[^'\\\\])*')";
  const NUMBER = "\\b(?:0[xX][0-9a-fA-F]+|\\d[\\d_]*\\.?\\d*(?:[eE][+-]?\\d+)?)[jJfFLUul]*\\b";
  const rules = (...pairs) => {
    const kinds = pairs.map((pair) => pair[0]);
    return { kinds, pattern: new RegExp(pairs.map((pair) => "(" + pair[1] + ")").join("|"), "g") };
  };
  const TYPES_MLIR = words("f16 f32 f64 bf16 index none i1 i8 i16 i32 i64 ui8 ui32 tensor memref vector");
  const LANGUAGES = {
    python: rules(
      ["c", "#.*"], ["s", STRING], ["m", "^\\s*@[\\w.]+"],
      ["k", words(`and as assert async await break class continue def del elif else except finally for from global if
        import in is lambda nonlocal not or pass raise return try while with yield True False None`)],
      ["t", "\\btl\\.(?:float\\d+|bfloat16|u?int\\d+|constexpr)\\b|" + words("int float bool str Tensor torch tl")],
      ["n", NUMBER], ["f", "\\b[A-Za-z_]\\w*(?=\\()"]),
    cpp: rules(
      ["c", "//.*|/\\*.*?\\*/"], ["m", "^\\s*#\\s*\\w+.*"], ["s", "\"(?:\\\\.|[^\"\\\\])*\"|'(?:\\\\.|[^'\\\\])'"],
      ["k", words(`auto break case class const constexpr continue default do else extern for goto if inline namespace
        operator return sizeof static static_cast struct switch template this typename union using volatile while
        nullptr true false reinterpret_cast`)],
      ["t", words("void bool char short int long float double unsigned signed size_t int64_t int32_t uint8_t Vectorized std at")],
      ["n", NUMBER], ["f", "\\b[A-Za-z_]\\w*(?=\\s*[(<])"]),
    mlir: rules(
      ["c", "//.*|\\bloc\\((?:[^()]|\\([^()]*\\))*\\)"], ["s", "\"(?:\\\\.|[^\"\\\\])*\""], ["v", "%[\\w#:]+"],
      ["m", "[#!@^][A-Za-z_][\\w.]*"], ["k", "\\b(?:tt|ttg|ttng|arith|math|scf|cf|gpu|nvgpu|builtin|module|func|llvm)(?:\\.[\\w.]+)?\\b"],
      ["t", TYPES_MLIR + "|\\b\\d+(?:x\\d+)*x(?=[a-z!])"], ["n", NUMBER]),
    llvm: rules(
      ["c", ";.*"], ["s", "c?\"(?:\\\\.|[^\"\\\\])*\""], ["v", "%[\\w.$-]+"], ["f", "@[\\w.$-]+"], ["m", "![\\w.]*|#\\d+"],
      ["t", words("void half bfloat float double ptr i1 i8 i16 i32 i64 label metadata x")],
      ["k", words(`define declare call tail br ret phi switch select icmp fcmp add sub mul fadd fsub fmul fdiv fneg udiv sdiv
        urem srem and or xor shl lshr ashr load store getelementptr alloca bitcast trunc zext sext fptrunc fpext fptosi sitofp
        uitofp fptoui inttoptr ptrtoint extractvalue insertvalue extractelement insertelement shufflevector fence asm
        sideeffect unreachable target attributes align nounwind nsw nuw inbounds to addrspace`)], ["n", NUMBER]),
    ptx: rules(
      ["c", "//.*"], ["s", "\"[^\"]*\""], ["v", "%[\\w.]+"],
      ["k", "^\\s*(?:@!?%\\w+\\s+)?[a-z]\\w*(?:\\.[\\w:]+)*(?=\\s|;)"], ["t", "\\.(?:[bfsu]\\d+|pred|reg|param|shared|global|visible|entry)\\b"],
      ["m", "\\.[A-Za-z_]\\w*|^\\$?\\w+:"], ["n", "\\b0[fFdD][0-9A-Fa-f]+|-?" + NUMBER]),
    sass: rules(
      ["c", "//.*|/\\*.*?\\*/"], ["s", "\"[^\"]*\""], ["v", "\\bU?R\\d+(?:\\.\\w+)*|\\bU?P[T\\d]\\b|\\bU?RZ\\b|\\bSR_[\\w.]+"],
      ["k", "\\b[A-Z][A-Z0-9]{1,}(?:\\.[A-Z0-9_]+)*\\b"], ["m", "^\\s*\\.[\\w.]+|@!?U?P[T\\d]|^\\.L\\w+:|`\\([^)]*\\)"], ["n", NUMBER]),
    asm: rules(
      ["c", "#.*|^inlined by .*|^/.*"], ["v", "%[a-z]\\w*"], ["m", "^\\s*[0-9a-f]+:|^[0-9a-f]+ <.*>:|<[^>]*>"],
      ["n", "\\$-?0x[0-9a-f]+|\\b0x[0-9a-f]+"], ["k", "\\b[a-z][a-z0-9]{1,15}\\b"]),
  };
  // What stands in a text for the compiler's bookkeeping alone, hidden while the panes are tidy: lines, and parts of lines.
  const GRAPH = { tidy: [[/: "(\w+\[[^\]]*\])[^"]*"/g, ": $1"], [/;\s+(?:\w+ = )+None\s*$/, ""], [/torch\.ops\./g, ""]] };
  const MLIR = { line: /^#loc/, tidy: [[/ loc\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)(?=\)*[ :{,)]*$)/g, ""]] };
  const QUIET = {
    dynamo_graph: GRAPH, joint_graph: GRAPH, forward_graph: GRAPH, backward_graph: GRAPH, inference_graph: GRAPH, post_grad_graph: GRAPH,
    ttir: MLIR, ttgir: MLIR,
    llir: { line: /^!(?:\d+ =|llvm\.)/, tidy: [[/, !dbg !\d+/g, ""]] },
    ptx: { line: /^\s*\.(?:loc|file)\b/, until: /^\s*\.section\s+\.debug/ },
    sass: { line: /^\s*\/\/## /, tidy: [[/^\s+(\/\*[0-9a-f]+\*\/)\s+/, "$1  "], [/\s+;\s*$/, ";"]] },
    assembly: { line: /^(?:inlined by |\/)/ },
  };
  const tidied = (key, text) => (QUIET[key]?.tidy || []).reduce((now, [pattern, by]) => now.replace(pattern, by), text);
  const TITLES = {
    user: ["Your code", "python"], dynamo_graph: ["Dynamo graph", "python"], joint_graph: ["Joint graph", "python"],
    forward_graph: ["Forward graph", "python"], backward_graph: ["Backward graph", "python"],
    inference_graph: ["Inference graph", "python"], post_grad_graph: ["Graph", "python"], output_code: ["Output code", "python"],
    triton: ["Triton", "python"], cpp: ["C++", "cpp"], ttir: ["TTIR", "mlir"], ttgir: ["TTGIR", "mlir"], llir: ["LLVM IR", "llvm"],
    ptx: ["PTX", "ptx"], sass: ["SASS", "sass"], amdgcn: ["AMDGCN", "sass"], assembly: ["Assembly", "asm"],
  };
  const ORDER = Object.keys(TITLES);
  const GRAPHS = ["dynamo_graph", "joint_graph", "forward_graph", "backward_graph", "inference_graph", "post_grad_graph"];

  const highlight = (text, language, into) => {
    const shown = text.length > LONGEST ? text.slice(0, LONGEST) : text;
    const { kinds, pattern } = LANGUAGES[language];
    let at = 0;
    pattern.lastIndex = 0;
    for (let match; (match = pattern.exec(shown)); ) {
      if (!match[0]) { pattern.lastIndex++; continue; }
      if (match.index > at) into.append(shown.slice(at, match.index));
      const kind = kinds[match.findIndex((group, i) => i && group !== undefined) - 1];
      into.append(el("span", { class: "fp-" + kind, text: match[0] }));
      at = match.index + match[0].length;
    }
    into.append(shown.slice(at));
    if (text.length > LONGEST) into.append(el("span", { class: "fp-cut", text: ` … ${text.length - LONGEST} more characters` }));
  };

  // --- a stage: rows, and which of them stand for which line --------------------------------------------------------

  const textStage = (key, given) => {
    const stage = { key, title: TITLES[key][0], language: TITLES[key][1], rows: [], at: new Map(), ...given };
    if (given.text !== undefined) {
      const lines = given.text.split(LINES);
      if (lines.length && lines[lines.length - 1] === "") lines.pop();
      stage.rows = lines.map((text, i) => ({ label: String(i + 1), text }));
      stage.copy = given.text;
      const quiet = QUIET[key];
      if (quiet) {
        let rest = false;
        for (const row of stage.rows) {
          rest = rest || Boolean(quiet.until && quiet.until.test(row.text));
          row.quiet = rest || Boolean(quiet.line && quiet.line.test(row.text));
        }
      }
    }
    stage.address = (row) => String(row + 1);
    stage.row = (address) => (Number(address) >= 1 && Number(address) <= stage.rows.length ? Number(address) - 1 : -1);
    return stage;
  };
  const userStage = (graph) => {
    const stage = { key: "user", title: TITLES.user[0], language: "python", rows: [], at: new Map() };
    const files = graph.user || [];
    const addresses = new Map();
    files.forEach((file, number) => {
      stage.rows.push({ label: "", text: file.file, head: true });
      let last = file.whole ? 0 : null, quoted = false;
      for (const [line, text] of file.lines) {
        if (last !== null ? line !== last + 1 : line > 1) stage.rows.push({ label: "⋯", text: "", gap: true });
        last = line;
        const key = `${file.file}:${line}`;
        stage.at.set(key, stage.rows.length);
        addresses.set(number ? `${number}:${line}` : String(line), stage.rows.length);
        const found = (graph.breaks || []).filter((one) => one.file === file.file && one.line === line);
        stage.rows.push({ label: String(line), text, user: key, address: number ? `${number}:${line}` : String(line),
          lost: !text && !file.whole, broken: found.length > 0, quoted: quoted || /^\s*[rR]?"""/.test(text) });
        if (file.whole && (text.split('"""').length - 1) % 2) quoted = !quoted;
        for (const one of found) stage.rows.push({ label: "▲", text: `${one.kind}: ${one.reason}`, remark: true });
      }
    });
    stage.copy = stage.rows.map((row) => row.text).join("\n");
    if (!files.length) stage.absent = graph.no_chain || "the compiler recorded no line of yours for this graph";
    else if (files.some((file) => !file.whole)) stage.note = "Lines that the compiler recorded; a run does not keep the whole file.";
    stage.address = (row) => stage.rows[row].address || "";
    stage.row = (address) => (addresses.has(address) ? addresses.get(address) : -1);
    return stage;
  };

  // --- relations between the lines of one kernel's stages -----------------------------------------------------------

  const push = (map, key, value) => { const list = map.get(key); if (list) list.push(value); else map.set(key, [value]); };
  const relations = (entry, graph, kernel, stages) => {
    const source = stages.get("triton")?.rows.length ? "triton" : stages.get("cpp")?.rows.length ? "cpp" : null;
    const lines = kernel.lines || [];
    const byLine = new Map(lines.map((line) => [line.line, line]));
    const came = kernel.came || {};
    const inverse = {};
    for (const [stage, table] of Object.entries(came)) {
      inverse[stage] = new Map();
      for (const [line, places] of Object.entries(table)) for (const place of places) push(inverse[stage], place, Number(line));
    }
    const nodes = new Map((graph.nodes || []).map((node) => [node.name, node]));
    const nodesOfUser = new Map(), nodesOfFx = new Map(), linesOfNode = new Map(), linesOfUser = new Map();
    for (const node of nodes.values()) {
      if (node.user) push(nodesOfUser, node.user, node.name);
      for (const fx of node.fx) push(nodesOfFx, fx, node.name);
    }
    for (const line of lines) {
      for (const node of line.nodes) push(linesOfNode, node, line.line);
      for (const user of line.user) push(linesOfUser, user, line.line);
    }
    // A graph's lines by the name that they assign, and by the user's line that stands above them as a comment.
    const named = {}, placed = {}, namesAt = {}, placeAt = {};
    for (const key of GRAPHS) {
      const stage = stages.get(key);
      if (!stage || !stage.rows.length) continue;
      named[key] = new Map(); placed[key] = new Map(); namesAt[key] = new Map(); placeAt[key] = new Map();
      let place = "";
      stage.rows.forEach((row, i) => {
        const comment = /^\s*# File: (.+?:\d+) in /.exec(row.text);
        if (comment) { place = comment[1]; return; }
        if (/^\s*def forward\(/.test(row.text)) {
          for (const match of row.text.matchAll(/[(,]\s*([A-Za-z_]\w*)\s*(?=[:,)])/g)) if (match[1] !== "self") {
            if (!named[key].has(match[1])) named[key].set(match[1], i);
            push(namesAt[key], i, match[1]);
          }
          return;
        }
        const assigned = /^\s+([A-Za-z_]\w*)\s*(?::\s*(?:"[^"]*"|'[^']*'|[^=]*?))?\s*=(?!=)/.exec(row.text);
        if (!assigned) return;
        if (!named[key].has(assigned[1])) named[key].set(assigned[1], i);
        push(namesAt[key], i, assigned[1]);
        if (place) { push(placed[key], place, i); placeAt[key].set(i, place); }
      });
    }
    const output = stages.get("output_code");
    let offset = null, def = 0;
    if (source) {
      const rows = stages.get(source).rows;
      def = rows.findIndex((row) => /^(?:def |extern "C")/.test(row.text)) + 1;
      if (output && output.rows.length) offset = standsAt(rows, output.rows, def, entry.name);
    }
    const launches = new Map(); // rows of the output code to the kernels that they launch
    for (const [id, at] of Object.entries(graph.launches || {})) for (const line of at) push(launches, line, id);

    const statementOf = (line) => {
      if (byLine.has(line)) return byLine.get(line);
      let last = null;
      for (const one of lines) { if (one.line > line) break; last = one; }
      const text = source ? (stages.get(source).rows[line - 1]?.text || "").trim() : "";
      return last && last.kind !== "control" && text && text !== "{" && text !== "}" ? last : null;
    };
    const unique = (list) => [...new Set(list)];

    const relate = (key, row) => {
      let hub = [], raw = [], names = [], users = [], fx = [], launch = false, own = "";
      const line = row + 1;
      const toHub = (at) => { const found = statementOf(at); if (found) hub.push(found); else raw.push(at); };
      const fromNodes = () => {
        hub = unique(names.flatMap((name) => linesOfNode.get(name) || [])).map((at) => byLine.get(at));
        users = users.concat(names.map((name) => nodes.get(name)?.user).filter(Boolean));
        fx = fx.concat(names.flatMap((name) => nodes.get(name)?.fx || []));
      };
      const fromHub = () => {
        names = unique(hub.flatMap((one) => one.nodes));
        users = unique(hub.flatMap((one) => one.user));
        fx = unique(names.flatMap((name) => nodes.get(name)?.fx || []));
      };
      if (key === source) { toHub(line); fromHub(); }
      else if (came[key]) { for (const at of came[key][line] || []) toHub(at); hub = unique(hub); raw = unique(raw); fromHub(); }
      else if (key === "user") {
        own = stages.get("user").rows[row].user || "";
        if (own) {
          users = [own];
          names = nodesOfUser.get(own) || [];
          hub = unique(linesOfUser.get(own) || []).map((at) => byLine.get(at));
          fx = names.flatMap((name) => nodes.get(name)?.fx || []);
        }
      } else if (key === "post_grad_graph") { names = (namesAt[key]?.get(row) || []).filter((name) => nodes.has(name)); fromNodes(); }
      else if (key === "dynamo_graph" && (namesAt[key]?.get(row) || []).some((name) => nodesOfFx.has(name))) {
        fx = namesAt[key].get(row);
        names = unique(fx.flatMap((name) => nodesOfFx.get(name) || []));
        fromNodes();
      } else if (GRAPHS.includes(key)) {
        const place = placeAt[key]?.get(row);
        if (place && stages.get("user").at.has(place)) { const found = relate("user", stages.get("user").at.get(place)); found.lit.get(key)?.add(row); return found; }
      } else if (key === "output_code") {
        if ((kernel.launched || []).includes(line)) { launch = true; names = [...(kernel.nodes || [])]; users = unique(names.map((name) => nodes.get(name)?.user).filter(Boolean)); fx = unique(names.flatMap((name) => nodes.get(name)?.fx || [])); raw = def ? [def] : []; }
        else if (offset !== null && line > offset && line <= offset + stages.get(source).rows.length) { toHub(line - offset); fromHub(); }
      }
      const lit = new Map();
      const light = (stage, at) => { if (at === undefined || at < 0) return; if (!lit.has(stage)) lit.set(stage, new Set()); lit.get(stage).add(at); };
      const sourceLines = unique([...hub.map((one) => one.line), ...raw]);
      if (source) for (const at of sourceLines) light(source, at - 1);
      for (const stage of Object.keys(inverse)) {
        for (const one of hub) for (const at of one.became?.[stage] || []) light(stage, at - 1);
        for (const at of raw) for (const place of inverse[stage].get(at) || []) light(stage, place - 1);
      }
      for (const name of names) light("post_grad_graph", named.post_grad_graph?.get(name));
      for (const name of fx) light("dynamo_graph", named.dynamo_graph?.get(name));
      for (const user of unique(users)) {
        light("user", stages.get("user").at.get(user));
        for (const stage of GRAPHS) if (!["dynamo_graph", "post_grad_graph"].includes(stage)) for (const at of placed[stage]?.get(user) || []) light(stage, at);
      }
      if (output?.rows.length) {
        if (offset !== null) for (const at of sourceLines) light("output_code", offset + at - 1);
        if (launch || (sourceLines.length && (offset === null || raw.includes(def)))) for (const at of kernel.launched || []) light("output_code", at - 1);
        if (!source) { const mine = kernel.nodes || []; if (names.some((name) => mine.includes(name)) || users.some((user) => mine.some((name) => nodes.get(name)?.user === user))) for (const at of kernel.launched || []) light("output_code", at - 1); }
      }
      const others = unique([...names.map((name) => nodes.get(name)?.kernel).filter((id) => id && id !== entry.id), ...(key === "output_code" ? (launches.get(line) || []).filter((id) => id !== entry.id) : [])]);
      const found = [...lit].some(([stage, rows]) => stage !== key || rows.size > 1 || !rows.has(row));
      light(key, row);
      return { lit, found, hub, names, users: unique(users), others, folded: unique(hub.flatMap((one) => one.folded || [])) };
    };
    // Each statement has a tint, the same in every stage below.
    const tint = new Map(lines.filter((line) => line.kind !== "control").map((line, i) => [line.line, i % 8]));
    const tintOf = (key, row) => {
      const line = row + 1;
      if (key === source) { const found = statementOf(line); return found ? tint.get(found.line) : undefined; }
      if (came[key]) { for (const at of came[key][line] || []) { const found = statementOf(at); if (found && tint.has(found.line)) return tint.get(found.line); } return undefined; }
      if (key === "output_code" && offset !== null && line > offset && line <= offset + stages.get(source).rows.length) { const found = statementOf(line - offset); return found ? tint.get(found.line) : undefined; }
      return undefined;
    };
    const nodeAt = (row) => (namesAt.post_grad_graph?.get(row) || []).map((name) => nodes.get(name)).filter(Boolean);
    // Where a reader would begin: the first line below the kernel's head that is mapped.
    const useful = (key, row) => Boolean(came[key]?.[row + 1]?.some((at) => at > def && byLine.has(at))) || (key === "output_code" && (kernel.launched || []).includes(row + 1));
    return { relate, tintOf, useful, source, nodeAt };
  };
  // Where a kernel's source stands within the output code: the shift at which most of its lines are found.
  const standsAt = (rows, output, def, name) => {
    const anchors = rows.map((row, i) => [row.text.trim(), i]).filter(([text]) => text.length > 12 && !/^(?:import|from|#include)/.test(text));
    const wanted = new Map();
    for (const [text, i] of anchors.slice(0, 60)) push(wanted, text, i);
    const votes = new Map();
    output.forEach((row, at) => { for (const i of wanted.get(row.text.trim()) || []) votes.set(at - i, (votes.get(at - i) || 0) + 1); });
    let best = null;
    for (const [shift, count] of votes) if (best === null || count > votes.get(best)) best = shift;
    return best !== null && votes.get(best) * 2 >= Math.min(anchors.length, 60) ? best : null;
  };

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
})();
