// A part of the panes' script: panes.py joins panes.{texts,relations,pane,view}.js within one function, in this order.
// Text of a run goes in by textContent only; styles are set through CSSOM, as the page's policy asks for.
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
